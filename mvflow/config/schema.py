"""What all runs have in common, typed; a system adds its own sections (`systems/*.py`)."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from mvflow.core import Covariate, Modality
from mvflow.core.parts import Kind, Later, Section, create, dump

__all__ = [
    "FORMAT",
    "Classifiers",
    "Config",
    "CovariateConfig",
    "Data",
    "EvaluationSettings",
    "Later",
    "ModalityConfig",
    "Share",
    "Training",
]

FORMAT: Literal[2] = 2
"""Version of the run directory's format."""

Share = Annotated[float, Field(ge=0, lt=1)]


def _default(group: str, kind: str) -> Any:
    return Field(default_factory=partial(create, group, kind))


class ModalityConfig(Section):
    """One modality: its data, the likelihood of its decoder, its networks."""

    shape: tuple[PositiveInt, ...]
    likelihood: Annotated[Any, Kind("likelihoods")] = _default("likelihoods", "normal")
    weight: PositiveFloat | None = None
    encoder: Annotated[Any, Kind("networks")] = _default("networks", "mlp")
    decoder: Annotated[Any, Kind("networks")] = _default("networks", "mlp")
    projector: Annotated[Any, Kind("networks")] = _default("networks", "mlp")
    augmentation: Annotated[Any, Kind("augmentations", optional=True)] = None
    """How rows are changed in training the stages that learn what a modality tells."""

    def modality(self, name: str) -> Modality:
        """The specification that sources and models share."""
        likelihood: Any = dump(self.likelihood, "likelihoods", exclude_defaults=True)
        if len(likelihood) == 1:
            likelihood = likelihood["kind"]
        return Modality(name, self.shape, likelihood, self.weight)


class CovariateConfig(Section):
    """A covariate: its levels, or the moments by which a number is standardised."""

    levels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    mean: float = 0.0
    scale: PositiveFloat = 1.0


class Data(Section):
    """Where the rows come from."""

    store: str = ""
    train: str = "train"
    test: str = "test"
    validation: Share = 0.05


class Training(Section):
    """How one stage is optimised. An epoch is a pass over the rows, or `steps_per_epoch`.

    With `patience` a stage ends when its held-out loss has not fallen for that many epochs, and
    with it or `keep_best` its weights are those of the best epoch; with `keep_best` the weights it
    starts from count too. `weight_decay` is decoupled
    from the gradient (AdamW; Loshchilov and Hutter 2019).
    """

    epochs: NonNegativeInt = 10
    steps_per_epoch: PositiveInt | None = None
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-3
    schedule: Literal["constant", "one-cycle", "cosine"] = "constant"
    clip: PositiveFloat | None = None
    patience: PositiveInt | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    weight_decay: Annotated[PositiveFloat | None, Later()] = None
    keep_best: Annotated[bool, Later()] = False

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best epoch are kept."""
        return self.keep_best or self.patience is not None

    def idle(self) -> list[str]:
        """What is set and never acts, a sentence each, with `{section}` for the section's name."""
        return []

    def dependencies(self) -> dict[str, Any]:
        """The settings that trained weights depend on, as JSON."""
        later = {
            name
            for name, field in type(self).model_fields.items()
            if Later() in field.metadata and getattr(self, name) == field.default
        }
        return self.model_dump(mode="json", exclude=later)


class Classifiers(Training):
    """Classifiers that measure coherence (paper Appendix G).

    Each modality has the network of `networks` with its name, or else one of `kind`: "auto" is
    `lenet` for images from 16x16 and `mlp` for all else.
    """

    kind: Literal["lenet", "mlp", "auto"] = "lenet"
    hidden: tuple[PositiveInt, ...] = (128,)
    dropout: Share = 0.5
    networks: dict[str, Annotated[Any, Kind("networks")]] = {}


class EvaluationSettings(Section):
    """How much is drawn to measure a trained model."""

    rows: PositiveInt = 2000
    product_rows: PositiveInt = 256
    """Rows conditioned on where a sampler is needed, and rows of each Fréchet distance of three
    modalities or more."""
    subsets: PositiveInt = 10
    """Subsets of each number of observed modalities, drawn with the seed if there are more; of
    single ones, and of all but one, all are taken."""
    prior_draws: PositiveInt = 10000
    importance_rows: PositiveInt = 200
    importance_draws: PositiveInt = 1000
    sampler_rows: PositiveInt = 64
    frechet_infinity: bool = False
    """Whether Fréchet distances of infinitely many rows are estimated beside those of few."""


class Config(Section):
    """A run of any system: data, prior, sampling, evaluation. Systems subclass it.

    A section named after a stage (`joint`, `flows`, ...) is that stage's `Training`. Parts are
    singular and have a `kind`: `prior` is what is drawn where nothing is observed, `sampler` how
    unnormalised posteriors are sampled.
    """

    format: Literal[2] = FORMAT
    recipe: str = ""
    system: str
    seed: NonNegativeInt = 0
    latent_dim: PositiveInt
    data: Data = Data()
    modalities: Annotated[dict[str, ModalityConfig], Field(min_length=1)]
    covariates: dict[str, CovariateConfig] = {}
    prior: Annotated[Any, Kind("priors")] = _default("priors", "standard")
    sampler: Annotated[Any, Kind("samplers")] = _default("samplers", "hmc")
    classifiers: Classifiers = Classifiers()
    evaluation: EvaluationSettings = EvaluationSettings()

    def unread(self) -> dict[str, str]:
        """Sections that nothing reads as the others are -> why, and what to set in their place."""
        return {}

    def specifications(self) -> tuple[Modality, ...]:
        """Modalities sorted by name, so that nothing depends on the order they are given in."""
        return tuple(self.modalities[name].modality(name) for name in sorted(self.modalities))

    def covariate_specs(self) -> tuple[Covariate, ...]:
        """Covariates sorted by name."""
        return tuple(
            Covariate(name, c.levels, c.mean, c.scale)
            for name, c in sorted(self.covariates.items())
        )
