"""MMVAE (Shi et al. 2019): a mixture of experts, trained on importance-weighted bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.distributions as td
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import Distribution

from mvflow.config import Config
from mvflow.core import Observed
from mvflow.functional import importance_log_likelihood, mixture_log_prob
from mvflow.stages import Losses, StageSpec
from mvflow.systems.annealing import BetaTraining
from mvflow.systems.experts import (
    FAMILIES,
    Experts,
    ExpertSystem,
    equal_mixture,
    mean_over_present,
    usable,
)
from mvflow.systems.sampling import check_samples, doubly_reparametrised

__all__ = ["MMVAE"]


class Joint(BetaTraining):
    """Bound of `samples` importance-weighted draws of each expert; beta is of log q - log p.

    `gradient` is "dreg", doubly reparametrised (Tucker et al. 2019), or "plain".
    """

    samples: PositiveInt = 10
    gradient: Literal["dreg", "plain"] = "dreg"


class MMVAE(ExpertSystem):
    """Mixture-of-experts VAE: q(z|x_S) is the equal mixture of the experts in S."""

    class Settings(Config):
        """`family` is that of prior and experts.

        `scales` are "normalised", whose mean over the dimensions of z is one (Shi et al.), or
        "free".
        """

        system: str = "mmvae"
        family: Literal["laplace", "normal"] = "laplace"
        scales: Literal["normalised", "free"] = "normalised"
        joint: Joint = Joint()

    settings: MMVAE.Settings

    def __init__(self, settings: MMVAE.Settings) -> None:
        reads = {"family": settings.family, "scales": settings.scales}
        super().__init__(settings, reads=reads)
        self.family = settings.family

    def posterior(self, observed: Observed) -> td.MixtureSameFamily:
        """q(z|x_S), the prior in a row where nothing is present."""
        experts = self.joint.experts(observed)
        some = experts.present.any(0)[:, None]  # an empty row: the standard distribution
        loc, scale = torch.where(some, experts.loc, 0.0), self._scale(experts)
        scale = torch.where(some, scale, 1.0)
        each = self._distribution(loc.transpose(0, 1), scale.transpose(0, 1))
        return equal_mixture(each, experts.present)

    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the looser bound, averaged over the experts that are present.

        Terms are means over draws, unweighted.
        """
        settings = self.settings.joint
        beta = settings.beta_at(progress)
        experts = self.joint.experts(observed)
        loc, scale = experts.loc, self._scale(experts)
        q = self._distribution(loc, scale)
        z = q.rsample(torch.Size([settings.samples]))  # (samples, experts, rows, latent)
        total, fits = self.joint.log_likelihood(z, observed)
        is_dreg = settings.gradient == "dreg"
        scored = self._distribution(loc.detach(), scale.detach()) if is_dreg else q
        each = scored.log_prob(z[:, :, None])  # (samples, drawn from, scored by, rows)
        mixed = usable(experts.present)[:, None, None].expand(-1, *z.shape[:2], -1)
        log_q = mixture_log_prob(each.movedim(2, 0), mixed)
        log_ratio = self.prior().log_prob(z) - log_q
        log_weights = total + beta * log_ratio
        if is_dreg:
            doubly_reparametrised(z, log_weights)
        bound = importance_log_likelihood(log_weights, axis=0)  # (experts, rows)
        terms = {"kl": -mean_over_present(log_ratio.mean(0), experts.present)}
        for name, fit in fits.items():
            terms[name] = mean_over_present(fit.mean(0), experts.present)
        terms["elbo"] = sum(terms[name] for name in fits) - terms["kl"]
        return Losses(-mean_over_present(bound, experts.present), terms)

    def stages(self) -> Sequence[StageSpec]:
        """One stage, which is refused where its draws cannot fit into memory."""
        decoders = self.joint.decoders
        return [check_samples(spec, decoders, len(decoders)) for spec in super().stages()]

    def _scale(self, experts: Experts) -> Tensor:
        if self.settings.scales == "free":
            return experts.scale
        return experts.log_scale.softmax(-1) * experts.log_scale.shape[-1] + 1e-6

    def _distribution(self, loc: Tensor, scale: Tensor) -> Distribution:
        return td.Independent(FAMILIES[self.family](loc, scale), 1)

    def facts(self) -> Mapping[str, str]:
        """Its name, family and number of draws."""
        draws = f"{self.settings.joint.samples} draws, {self.settings.joint.gradient} gradients"
        return {"system": "MMVAE", "family": self.family, "bound": draws}
