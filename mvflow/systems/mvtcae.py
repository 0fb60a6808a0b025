"""MVTCAE (Hwang et al. 2021): a product of experts, trained on a bound of total correlation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from zuko.distributions import DiagNormal

from mvflow.config import Config
from mvflow.core import Observed
from mvflow.functional import mvtcae_bound, normal_kl_standard
from mvflow.stages import Losses
from mvflow.systems.annealing import BetaTraining
from mvflow.systems.experts import ExpertSystem, expert_kl, product_of_experts

__all__ = ["MVTCAE"]


class Joint(BetaTraining):
    """Bound on total correlation; `alpha` is the share of the conditional bottlenecks."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9


class MVTCAE(ExpertSystem):
    """Multi-view total correlation autoencoder: q(z|x_S) is the product of the experts in S."""

    class Settings(Config):
        """Settings of MVTCAE."""

        system: str = "mvtcae"
        joint: Joint = Joint()

    settings: MVTCAE.Settings

    def posterior(self, observed: Observed) -> DiagNormal:
        """q(z|x_S): in a row, the product of the experts that are present, the prior for none."""
        return DiagNormal(*product_of_experts(self.joint.experts(observed)))

    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the bound, from one draw of z ~ q(z|X) per row."""
        settings = self.settings.joint
        experts = self.joint.experts(observed)
        loc, scale = product_of_experts(experts)
        z = loc + scale * torch.randn_like(loc)
        total, fits = self.joint.log_likelihood(z, observed)
        kl, expert_kls = normal_kl_standard(loc, scale), expert_kl(loc, scale, experts)
        beta = settings.beta_at(progress)
        count = experts.present.sum(0).clamp_min(1).to(total)
        bound = mvtcae_bound(total, beta * kl, beta * expert_kls, count, settings.alpha)
        terms = {"kl": kl.mean(), "expert_kl": expert_kls.mean()}
        terms |= {name: fit.mean() for name, fit in fits.items()}
        terms["elbo"] = sum(terms[name] for name in fits) - terms["kl"]
        return Losses(-bound.mean(), terms)

    def facts(self) -> Mapping[str, str]:
        """Its name and alpha."""
        return {"system": "MVTCAE", "alpha": f"{self.settings.joint.alpha:g}"}
