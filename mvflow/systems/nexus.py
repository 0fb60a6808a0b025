"""Nexus (Vasco et al. 2022): a VAE of each modality, and one of their latents above them.

The first level has z_j ~ q(z_j|x_j) of each modality, the second z, from the mean of the messages
that the first sends. Forced perceptual dropout hides modalities from that mean in training, so
that it serves when they are absent. Given x_S, and when data are generated, the first level is at
its mean, so that q(z|x_S) is a Gaussian and p(x_j|z) = p(x_j|z_j = f_j(z)).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import Distribution
from zuko.distributions import DiagNormal

from mvflow.config import Config, Share
from mvflow.core import ConfigError, Observed, unknown_name
from mvflow.functional import normal_kl_standard, normal_log_prob
from mvflow.nn import upcast_to_float32
from mvflow.stages import Losses
from mvflow.systems.annealing import BetaTraining, ramped
from mvflow.systems.experts import ExpertSystem
from mvflow.systems.masking import random_subsets
from mvflow.systems.two_levels import TwoLevelVAE

__all__ = ["Nexus"]


class Joint(BetaTraining):
    """ELBOs of both levels; divergences have the factor beta, which rises over `warmup`.

    In the share `dropout` of rows, some modalities are hidden from the second level. `top_weights`
    are the factors gamma_j of log p(z_j|z), one where none is given.
    """

    warmup: Share = 0.2
    dropout: Annotated[float, Field(ge=0, le=1)] = 0.2
    top_weights: dict[str, PositiveFloat] = {}


class Nexus(ExpertSystem):
    """Hierarchical multimodal VAE with two levels."""

    class Settings(Config):
        """`latent_dim` is the dimension of z, `private_dim` of z_j, of all or by name.

        `message_dim` is the width of messages, `hidden` are those of the second level's networks.
        """

        system: str = "nexus"
        private_dim: PositiveInt | dict[str, PositiveInt] = 64
        message_dim: PositiveInt = 512
        hidden: tuple[PositiveInt, ...] = (512, 512)
        joint: Joint = Joint()

    settings: Nexus.Settings

    def __init__(self, settings: Nexus.Settings) -> None:
        names, dims = sorted(settings.modalities), settings.private_dim
        for given in (settings.joint.top_weights, dims if isinstance(dims, dict) else {}):
            for name in set(given) - set(names):
                raise ConfigError(unknown_name("modality", name, names))
        if isinstance(dims, dict) and set(dims) != set(names):
            missing = ", ".join(sorted(set(names) - set(dims)))
            msg = f"private_dim has no {missing}: name all modalities, or give one number"
            raise ConfigError(msg)
        widths = dims if isinstance(dims, dict) else dict.fromkeys(names, dims)
        kept = {"private_dim", "message_dim", "hidden"}
        reads = settings.model_dump(mode="json", include=kept)
        super().__init__(settings, None, TwoLevelVAE(settings, widths), reads)

    def posterior(self, observed: Observed) -> DiagNormal:
        """q(z|x_S) from the messages of what is present; the prior in a row without anything."""
        loc, _, present = self.joint.first_level(observed)
        return DiagNormal(*self.joint.second_level(loc, present))

    def decode(
        self,
        z: Tensor,
        names: Collection[str] | None = None,
        covariates: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Distribution]:
        """p(x_j|z_j) at z_j = f_j(z)."""
        below = self.joint.bottom.join(
            {n: upcast_to_float32(f(z)) for n, f in self.joint.top_decoders.items()}
        )
        decoded: dict[str, Distribution] = self.joint.decoders.decode(below, names, covariates)
        return decoded

    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the ELBOs of the first level and of the second, which does not train the first."""
        settings, joint = self.settings.joint, self.joint
        beta = ramped(settings.warmup, progress) * settings.beta_at(progress)
        loc, scale, present = joint.first_level(observed)
        below = {n: m + scale[n] * torch.randn_like(m) for n, m in loc.items()}
        rows = next(iter(below.values()))
        zeros = {p.name: rows.new_zeros(len(rows), p.dim) for p in joint.bottom.parts}
        fits = joint.decoders.log_prob(joint.bottom.join({**zeros, **below}), observed)
        fixed = {n: v.detach() for n, v in below.items()}
        kept = random_subsets(torch.stack(list(present.values())), settings.dropout)
        top_loc, top_scale = joint.second_level(fixed, dict(zip(present, kept, strict=True)))
        z = top_loc + top_scale * torch.randn_like(top_loc)
        top_kl = normal_kl_standard(top_loc, top_scale)
        loss, terms = beta * top_kl, {"kl": top_kl.mean()}
        for name, fit in fits.items():
            kl = torch.where(present[name], normal_kl_standard(loc[name], scale[name]), 0.0)
            mean = upcast_to_float32(joint.top_decoders[name](z))
            above = normal_log_prob(fixed[name], mean, torch.ones_like(mean)).sum(-1)
            above = settings.top_weights.get(name, 1.0) * torch.where(present[name], above, 0.0)
            loss = loss - (joint.weights[name] * fit - beta * kl) - above
            terms |= {name: fit.mean(), f"{name}_kl": kl.mean(), f"{name}_top": above.mean()}
        return Losses(loss.mean(), terms)

    def facts(self) -> Mapping[str, str]:
        """Its name and the dimensions of its latents."""
        parts = ", ".join(f"{p.name} {p.dim}" for p in self.joint.bottom.parts)
        return {"system": "Nexus", "first level": parts, "second level": str(self.latent.dim)}
