"""JNF and JNF-Shared: a joint VAE with a posterior for each modality (paper 3.2 to 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn
from zuko.distributions import NormalizingFlow

from mvflow.config import Config
from mvflow.core import Modality
from mvflow.models.joint import JointVAE
from mvflow.nn import MLP, ModalityDict, Standardise, build_decoder, build_encoder, seeded
from mvflow.posteriors import FlowPosterior, build_posterior

__all__ = ["JNFModel", "build_model"]


class JNFModel(nn.Module):
    """Parameters and forward mathematics of JNF; with projectors, of JNF-Shared.

    Args:
        joint: the joint VAE.
        posteriors: name -> q(z|x_j), or q(z|g_j(x_j)) where there are projectors.
        projectors: name -> g_j, or None.
    """

    def __init__(
        self,
        joint: JointVAE,
        posteriors: Mapping[str, FlowPosterior],
        projectors: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.joint = joint
        self.flows = ModalityDict(posteriors)
        self.projectors = None if projectors is None else ModalityDict(projectors)

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

    def stage_module(self, stage: str) -> nn.Module:
        """The part of the model that a stage trains."""
        module = getattr(self, stage)
        assert isinstance(module, nn.Module)
        return module


def build_model(config: Config) -> JNFModel:
    """Assemble the networks of a configuration; initial weights follow from its seed and names.

    Raises:
        ConfigError: if a network cannot take rows of its modality's shape.
    """
    specs = {m.name: m for m in config.specifications()}
    networks, seed, latent = config.modalities, config.seed, config.latent_dim
    with seeded(seed, "weights", "joint"):
        joint = JointVAE(
            specs.values(),
            {n: build_encoder(networks[n].encoder, m, 2 * latent) for n, m in specs.items()},
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

    def encoder(name: str, out_features: int) -> nn.Module:
        if shared:
            dim = config.projectors.dim
            return nn.Sequential(
                Standardise(dim), MLP(dim, *config.flows.summary_hidden, out_features)
            )
        return build_encoder(networks[name].encoder, specs[name], out_features)

    with seeded(seed, "weights", "flows"):
        posteriors = {n: build_posterior(config.flows, latent, partial(encoder, n)) for n in specs}
    return JNFModel(joint, posteriors, projectors)
