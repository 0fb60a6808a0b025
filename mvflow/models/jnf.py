"""JNF and JNF-Shared: a joint VAE with a posterior for each modality (paper 3.2 to 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn
from zuko.distributions import NormalizingFlow

from mvflow.config import Config, Flows
from mvflow.core import Modality
from mvflow.models.joint import JointVAE, head_width
from mvflow.models.prior import MixturePrior
from mvflow.nn import MLP, ModalityDict, Standardise, build_decoder, build_encoder, seeded
from mvflow.posteriors import AmortisedPosterior, FlowPosterior, build_posterior

__all__ = ["JNFModel", "build_amortised", "build_model", "build_prior"]


class JNFModel(nn.Module):
    """Parameters and forward mathematics of JNF; with projectors, of JNF-Shared.

    Args:
        joint: the joint VAE.
        posteriors: name -> q(z|x_j), or q(z|g_j(x_j)) where there are projectors.
        projectors: name -> g_j, or None.
        amortised: q(z|x_S) for all subsets, or None.
        prior: what is drawn where nothing is observed, or None for N(0, I).
    """

    def __init__(
        self,
        joint: JointVAE,
        posteriors: Mapping[str, FlowPosterior],
        projectors: Mapping[str, nn.Module] | None = None,
        amortised: AmortisedPosterior | None = None,
        prior: MixturePrior | None = None,
    ) -> None:
        super().__init__()
        self.joint = joint
        self.flows = ModalityDict(posteriors)
        self.projectors = None if projectors is None else ModalityDict(projectors)
        self.amortised = amortised
        self.prior = prior

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Specifications, sorted by name."""
        return self.joint.modalities

    @property
    def latent_dim(self) -> int:
        """Dimension of z."""
        return self.joint.latent_dim

    def condition(self, name: str, x: Tensor) -> Tensor:
        """What the posterior of a modality sees of its rows: x_j, or g_j(x_j)."""
        return x if self.projectors is None else self.projectors[name](x).float()

    def unimodal(self, name: str, x: Tensor) -> NormalizingFlow:
        """q(z|x_j) for rows of one modality (Eq. 10)."""
        return self.flows[name](self.condition(name, x))

    def amortised_posterior(self, x: Mapping[str, Tensor]) -> NormalizingFlow:
        """q(z|x_S) of the one flow for all subsets, for rows of the modalities in S."""
        assert self.amortised is not None
        return self.amortised({name: self.condition(name, rows) for name, rows in x.items()})

    def stage_module(self, stage: str) -> nn.Module:
        """The part of the model that a stage trains."""
        module = getattr(self, stage)
        assert isinstance(module, nn.Module)
        return module


def build_model(config: Config) -> JNFModel:
    """Assemble the networks of a configuration; initial weights follow from its seed and names.

    The amortised posterior and the fitted prior are made only where they are configured
    (`build_amortised`, `build_prior`).

    Raises:
        ConfigError: if a network cannot take rows of its modality's shape, or the latent
            dimensions cannot be shared out among the heads.
    """
    specs = {m.name: m for m in config.specifications()}
    networks, seed, latent = config.modalities, config.seed, config.latent_dim
    width = head_width(latent, len(specs), config.joint.merge)
    with seeded(seed, "weights", "joint"):
        joint = JointVAE(
            specs.values(),
            {n: build_encoder(networks[n].encoder, m, width) for n, m in specs.items()},
            {n: build_decoder(networks[n].decoder, latent, m) for n, m in specs.items()},
            latent,
            config.joint.merge,
        )
    shared = config.model == "jnf-shared"
    projectors = None
    if shared:
        with seeded(seed, "weights", "projectors"):
            dim, dropout = config.projectors.dim, config.projectors.dropout
            projectors = {
                n: build_encoder(networks[n].projector, m, dim, dropout) for n, m in specs.items()
            }

    with seeded(seed, "weights", "flows"):
        posteriors = {
            name: build_posterior(config.flows, latent, partial(_encoder, config, m, config.flows))
            for name, m in specs.items()
        }
    amortised = build_amortised(config) if config.subset == "amortised" else None
    prior = build_prior(config) if config.prior.kind == "mixture" else None
    return JNFModel(joint, posteriors, projectors, amortised, prior)


def build_prior(config: Config) -> MixturePrior:
    """The mixture that is to be fitted to the latents."""
    return MixturePrior(config.prior.components, config.latent_dim)


def build_amortised(config: Config) -> AmortisedPosterior:
    """The one posterior for all subsets; it sees x_j, or g_j(x_j) where there are projectors."""
    specs, settings = config.specifications(), config.amortised
    merged = len(specs) * (settings.embedding + 1)
    with seeded(config.seed, "weights", "amortised"):
        return AmortisedPosterior(
            {m.name: _encoder(config, m, settings, settings.embedding) for m in specs},
            build_posterior(
                settings, config.latent_dim, lambda n: MLP(merged, *settings.summary_hidden, n)
            ),
            settings.embedding,
        )


def _encoder(config: Config, modality: Modality, settings: Flows, out_features: int) -> nn.Module:
    """From what a posterior sees of a modality to features."""
    if config.model == "jnf-shared":
        dim = config.projectors.dim
        return nn.Sequential(Standardise(dim), MLP(dim, *settings.summary_hidden, out_features))
    return build_encoder(config.modalities[modality.name].encoder, modality, out_features)
