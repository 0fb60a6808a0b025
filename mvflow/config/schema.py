"""Everything that defines a run, typed: the content of `config.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from mvflow.core import Likelihood, Modality

__all__ = [
    "Amortised",
    "Classifiers",
    "Config",
    "ConvNetwork",
    "Data",
    "Evaluation",
    "Flows",
    "Joint",
    "Layer",
    "LayersNetwork",
    "MLPNetwork",
    "ModalityConfig",
    "Network",
    "Prior",
    "Projectors",
    "ResNetwork",
    "SamplerConfig",
    "Training",
]

FORMAT: Literal[1] = 1
"""Version of the run directory's format."""

Share = Annotated[float, Field(ge=0, lt=1)]
Pair = tuple[PositiveInt, PositiveInt]


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


class ResNetwork(Section):
    """Residual blocks of the given widths with a halving between each two (paper Figure E.18).

    A decoder is written from the latent side, as in `ConvNetwork`: (256, 128, 64).
    """

    kind: Literal["resnet"]
    channels: tuple[PositiveInt, ...] = (64, 128, 256)
    output: Literal["identity", "sigmoid"] = "identity"


class Layer(Section):
    """One convolution; a decoder's are transposed, and `channels` then are those it takes."""

    channels: PositiveInt
    kernel: Pair = (4, 4)
    stride: Pair = (2, 2)
    padding: tuple[NonNegativeInt, NonNegativeInt] = (1, 1)


class LayersNetwork(Section):
    """Any convolutions, then linear layers, with normalisation between them (Table E.7).

    A decoder is the mirror: first the linear layers, then transposed convolutions, both written
    from the latent side. `activated` also normalises and activates what its convolutions begin
    with.
    """

    kind: Literal["layers"]
    layers: tuple[Layer, ...] = ()
    hidden: tuple[PositiveInt, ...] = ()
    norm: Literal["none", "batch"] = "none"
    activation: Literal["relu", "leaky-relu"] = "relu"
    activated: bool = False
    output: Literal["identity", "sigmoid"] = "identity"


Network = Annotated[
    MLPNetwork | ConvNetwork | ResNetwork | LayersNetwork, Field(discriminator="kind")
]


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
    """Joint VAE (paper 3.1): beta falls from `beta_start` to `beta` over the share `anneal`.

    The heads of q(z|X) are merged by an MLP with the hidden layers `merge`, or, with "concat",
    each gives an equal part of z (Appendix E.3).
    """

    beta: PositiveFloat = 1.0
    beta_start: PositiveFloat | None = None
    anneal: Share = 0.5
    merge: tuple[PositiveInt, ...] | Literal["concat"] = (512, 512)


class Prior(Section):
    """What is drawn where nothing is observed: N(0, I), or a mixture fitted to the latents.

    The mixture has so many Gaussian `components`, fitted to one draw of q(z|X) for each of so
    many training `rows`. Likelihoods and products of experts keep N(0, I).
    """

    kind: Literal["standard", "mixture"] = "standard"
    components: PositiveInt = 20
    rows: PositiveInt = 10_000


class Flows(Training):
    """Unimodal posteriors (paper 3.2)."""

    posterior: Literal["gaussian", "maf", "conditional-maf", "nsf"] = "maf"
    transforms: PositiveInt = 2
    hidden: tuple[PositiveInt, ...] = (128, 128)
    bins: PositiveInt = 8
    context: PositiveInt = 16
    summary_hidden: tuple[PositiveInt, ...] = (512, 512)


class Amortised(Flows):
    """One posterior q(z|x_S) for all subsets, from embeddings of what is observed.

    `summary_hidden` are the widths of the layers that merge the embeddings, each `embedding` wide.
    What is not set but the family and its context is that of `flows`; epochs are twice as many,
    since all subsets are to be learnt.
    """

    posterior: Literal["gaussian", "maf", "conditional-maf", "nsf"] = "conditional-maf"
    context: PositiveInt = 32
    embedding: PositiveInt = 64


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
    num_steps: PositiveInt = 5
    step_size: PositiveFloat = 0.1
    adaptive: bool = True
    independent: bool = False
    divide_by: Literal["aggregate", "prior"] = "aggregate"


class Classifiers(Training):
    """Classifiers that measure coherence (paper Appendix G).

    Each modality has the network of `networks` with its name, or else one of `kind`: "auto" is
    `lenet` for images from 16x16 and `mlp` for all else.
    """

    kind: Literal["lenet", "mlp", "auto"] = "lenet"
    hidden: tuple[PositiveInt, ...] = (128,)
    dropout: Share = 0.5
    networks: dict[str, Network] = {}


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
    subset: Literal["product", "amortised"] = "product"
    seed: NonNegativeInt = 0
    latent_dim: PositiveInt
    data: Data = Data()
    modalities: Annotated[dict[str, ModalityConfig], Field(min_length=1)]
    projectors: Projectors = Projectors()
    joint: Joint = Joint()
    prior: Prior = Prior()
    flows: Flows = Flows()
    amortised: Amortised = Amortised()
    sampler: SamplerConfig = SamplerConfig()
    classifiers: Classifiers = Classifiers()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="before")
    @classmethod
    def _amortised_as_flows(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or not isinstance(raw.get("flows", {}), Mapping):
            return raw
        flows, amortised = raw.get("flows", {}), raw.get("amortised", {})
        if not isinstance(amortised, Mapping):
            return raw
        same = {k: v for k, v in flows.items() if k not in ("posterior", "context")}
        if isinstance(same.get("epochs"), int):
            same["epochs"] *= 2
        return {**raw, "amortised": {**same, **amortised}}

    def specifications(self) -> tuple[Modality, ...]:
        """Modalities sorted by name, so that nothing depends on the order they are given in."""
        return tuple(self.modalities[name].modality(name) for name in sorted(self.modalities))
