"""CRMVAE (Suzuki and Matsuo 2023): a product of experts, each of which reconstructs by itself."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from zuko.distributions import DiagNormal

from mvflow.config import Config
from mvflow.core import Observed
from mvflow.functional import crmvae_bound, normal_kl_standard
from mvflow.stages import Losses
from mvflow.systems.annealing import BetaTraining
from mvflow.systems.experts import ExpertSystem, expert_kl, product_of_experts

__all__ = ["CRMVAE"]


class CRMVAE(ExpertSystem):
    """Coordinated VAE: q(z|x_S) is the product of the experts in S."""

    class Settings(Config):
        """Settings of CRMVAE."""

        system: str = "crmvae"
        joint: BetaTraining = BetaTraining()

    settings: CRMVAE.Settings

    def posterior(self, observed: Observed) -> DiagNormal:
        """q(z|x_S): in a row, the product of the experts that are present, the prior for none."""
        return DiagNormal(*product_of_experts(self.joint.experts(observed)))

    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the objective, from one draw of q(z|X) and of each q(z|x_j) per row."""
        beta = self.settings.joint.beta_at(progress)
        experts = self.joint.experts(observed)
        loc, scale = product_of_experts(experts)
        locs = torch.cat([loc[None], experts.loc])
        z = locs + torch.cat([scale[None], experts.scale]) * torch.randn_like(locs)
        alone, fits = [], {}
        for j, name in enumerate(sorted(observed.x)):  # decoded from q(z|X) and its own expert
            at = torch.stack([z[0], z[1 + j]])
            fits[name] = self.joint.decoders.log_prob(at, observed.only([name]))[name]
            alone.append(self.joint.weights[name] * fits[name])
        jointly, by_experts = torch.stack(alone).sum(0)
        kl, expert_kls = normal_kl_standard(loc, scale), expert_kl(loc, scale, experts)
        bound = crmvae_bound(jointly, by_experts, beta * kl, beta * expert_kls)
        terms = {"kl": kl.mean(), "expert_kl": expert_kls.mean()}
        terms |= {name: fit[0].mean() for name, fit in fits.items()}
        terms["elbo"] = sum(terms[name] for name in fits) - terms["kl"]
        return Losses(-bound.mean(), terms)

    def facts(self) -> Mapping[str, str]:
        """Its name."""
        return {"system": "CRMVAE"}
