"""Systems of a joint VAE and Gaussian experts of single modalities, as JMVAE and TELBO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor
from zuko.distributions import DiagNormal

from mvflow.config import Config
from mvflow.core import ConfigError, Observed
from mvflow.core.parts import Kind, create
from mvflow.nn import ModalityDict, encode_rows, seeded, upcast_to_float32
from mvflow.systems.decoders import build_encoder
from mvflow.systems.joint_system import JointEncoderSystem, build_joint_vae

__all__ = ["CoordinatedSystem", "SubsetProduct"]

SubsetProduct = Annotated[Any, Kind("subsets")]
"""A rule made of the experts; by default their product over the prior (Eq. 12, as in E.2)."""


def product_by_default() -> Any:
    """Field of settings for the subset rule."""
    return Field(
        default_factory=lambda: create("subsets", {"kind": "product", "divisor": "prior"})
    )


class CoordinatedSystem(JointEncoderSystem):
    """Joint VAE with a Gaussian expert q(z|x_j) of each modality.

    Subsets are combined by a rule without networks of its own.
    """

    subset_module = None

    def __init__(self, settings: Any) -> None:
        if not settings.subset.uses_experts:
            msg = (
                f"system {settings.system!r} combines its own experts: subset rule "
                f"{settings.subset.kind!r} has no use for them; choose product or mixture, or a "
                "system with trained rules, such as jnf"
            )
            raise ConfigError(msg)
        with seeded(settings.seed, "weights", "joint"):
            super().__init__(settings, build_joint_vae(settings))
        with seeded(settings.seed, "weights", "experts"):
            width = 2 * self.latent.dim
            experts = {m.name: build_encoder(settings, m, width) for m in self.modalities}
        self.experts = ModalityDict(experts)

    @classmethod
    def build(cls, settings: Config) -> Self:
        """Assemble the networks; initial weights follow from the seed."""
        return cls(settings)

    def expert(
        self, name: str, x: Tensor, covariates: Mapping[str, Tensor] | None = None
    ) -> DiagNormal:
        """q(z|x_j), a diagonal Gaussian."""
        features = upcast_to_float32(encode_rows(self.experts[name], x, covariates))
        loc, log_scale = features.chunk(2, -1)
        return DiagNormal(loc, (7 * torch.tanh(log_scale / 7)).exp())

    def expert_moments(self, observed: Observed) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, mean and scale of the expert of each modality, whether a row has it or not."""
        for name in sorted(observed.x):
            q = self.expert(name, observed.encodable(name), observed.covariates).base_dist
            yield name, q.loc, q.scale
