"""Everything that defines a run, typed: the content of `config.toml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from mvflow.core import Likelihood, Modality

__all__ = [
    "Classifiers",
    "Config",
    "ConvNetwork",
    "Data",
    "Evaluation",
    "Flows",
    "Joint",
    "MLPNetwork",
    "ModalityConfig",
    "Network",
    "Projectors",
    "SamplerConfig",
    "Training",
]

FORMAT: Literal[1] = 1
"""Version of the run directory's format."""

Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MLPNetwork(Section):
    """Fully connected layers with ReLU between them."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[PositiveInt, ...] = (128,)
    output: Literal["identity", "sigmoid"] = "identity"


class ConvNetwork(Section):
    """Strided 4x4 convolutions, each halving height and width (SVHN of paper Table E.6)."""

    kind: Literal["conv"]
    channels: tuple[PositiveInt, ...] = (32, 64, 128)
    output: Literal["identity", "sigmoid"] = "identity"


Network = Annotated[MLPNetwork | ConvNetwork, Field(discriminator="kind")]


class ModalityConfig(Section):
    """One modality: its data, its decoder's distribution, its networks."""

    shape: tuple[PositiveInt, ...]
    likelihood: Likelihood = "normal"
    scale: PositiveFloat = 1.0
    weight: PositiveFloat | None = None
    encoder: Network = MLPNetwork()
    decoder: Network = MLPNetwork()
    projector: Network = MLPNetwork()

    def modality(self, name: str) -> Modality:
        """The specification that sources and models share."""
        return Modality(name, self.shape, self.likelihood, self.scale, self.weight)


class Data(Section):
    """Where the rows come from."""

    store: str = ""
    train: str = "train"
    test: str = "test"
    validation: Share = 0.05


class Training(Section):
    """How one stage is optimised. An epoch is a pass over the rows, or `steps_per_epoch`."""

    epochs: NonNegativeInt = 10
    steps_per_epoch: PositiveInt | None = None
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-3
    schedule: Literal["constant", "one-cycle", "cosine"] = "constant"
    clip: PositiveFloat | None = None
    patience: PositiveInt | None = None
    precision: Literal["float32", "bfloat16"] = "float32"


class Projectors(Training):
    """Maps to the information that the modalities share (paper 3.4 and Appendix B)."""

    kind: Literal["contrastive", "dcca"] = "contrastive"
    dim: PositiveInt = 10
    temperature: PositiveFloat = 0.1
    ridge: PositiveFloat = 1e-4
    dropout: Share = 0.0


class Joint(Training):
    """Joint VAE (paper 3.1): beta falls from `beta_start` to `beta` over the share `anneal`."""

    beta: PositiveFloat = 1.0
    beta_start: PositiveFloat | None = None
    anneal: Share = 0.5
    merge: tuple[PositiveInt, ...] = (512, 512)


class Flows(Training):
    """Unimodal posteriors (paper 3.2)."""

    posterior: Literal["gaussian", "maf", "conditional-maf", "nsf"] = "maf"
    transforms: PositiveInt = 2
    hidden: tuple[PositiveInt, ...] = (128, 128)
    bins: PositiveInt = 8
    context: PositiveInt = 16
    summary_hidden: tuple[PositiveInt, ...] = (512, 512)


class SamplerConfig(Section):
    """Sampling from a product of experts (paper 3.3).

    `step_size` is where the warm-up starts to adapt, or with `adaptive = false` the size of all
    steps. `independent` makes a chain for each draw and keeps its last state only; `chains` and
    `candidates` then have no meaning. `mvflow.inference.PAPER` has the paper's settings.
    """

    name: str = "hmc"
    chains: PositiveInt = 4
    warmup: NonNegativeInt = 100
    draws: PositiveInt = 200
    candidates: PositiveInt = 128
    num_steps: PositiveInt = 10
    step_size: PositiveFloat = 0.1
    adaptive: bool = True
    independent: bool = False


class Classifiers(Training):
    """Classifiers that measure coherence (paper Table G.8)."""

    kind: Literal["lenet", "mlp"] = "lenet"
    hidden: tuple[PositiveInt, ...] = (128,)
    dropout: Share = 0.5


class Evaluation(Section):
    """How much is drawn to measure a trained model."""

    rows: PositiveInt = 2000
    product_rows: PositiveInt = 256
    prior_draws: PositiveInt = 10000
    importance_rows: PositiveInt = 200
    importance_draws: PositiveInt = 1000
    sampler_rows: PositiveInt = 64


class Config(Section):
    """A run: data, model, stages, sampling, evaluation."""

    format: Literal[1] = FORMAT
    recipe: str = ""
    model: Literal["jnf", "jnf-shared"] = "jnf"
    seed: NonNegativeInt = 0
    latent_dim: PositiveInt
    data: Data = Data()
    modalities: Annotated[dict[str, ModalityConfig], Field(min_length=1)]
    projectors: Projectors = Projectors()
    joint: Joint = Joint()
    flows: Flows = Flows()
    sampler: SamplerConfig = SamplerConfig()
    classifiers: Classifiers = Classifiers()
    evaluation: Evaluation = Evaluation()

    def specifications(self) -> tuple[Modality, ...]:
        """Modalities sorted by name, so that nothing depends on the order they are given in."""
        return tuple(self.modalities[name].modality(name) for name in sorted(self.modalities))
