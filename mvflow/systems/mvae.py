"""MVAE (Wu and Goodman 2018): the posterior of any subset is a product of Gaussian experts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import NonNegativeInt
from torch import Tensor
from zuko.distributions import DiagNormal

from mvflow.config import Config
from mvflow.core import Observed
from mvflow.functional import normal_kl_standard
from mvflow.stages import Losses
from mvflow.systems.annealing import BetaTraining
from mvflow.systems.experts import ExpertSystem, product_of_experts

__all__ = ["MVAE"]


class Joint(BetaTraining):
    """Sub-sampled ELBO: of all modalities, of each alone, of `random_subsets` others per row."""

    random_subsets: NonNegativeInt = 1


class MVAE(ExpertSystem):
    """Product-of-experts VAE: q(z|x_S) is p(z) times a Gaussian expert of each modality in S."""

    class Settings(Config):
        """Settings of MVAE."""

        system: str = "mvae"
        joint: Joint = Joint()

    settings: MVAE.Settings

    def posterior(self, observed: Observed) -> DiagNormal:
        """q(z|x_S): in a row, the product of the prior and of the experts that are present."""
        return DiagNormal(*product_of_experts(self.joint.experts(observed), with_prior=True))

    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the sum of the ELBOs of the subsets, each from one draw of z per row.

        What is absent adds nothing to any of them. Terms are those of all modalities, unweighted.
        """
        settings, names = self.settings.joint, sorted(observed.x)
        beta = settings.beta_at(progress)
        experts = self.joint.experts(observed)
        subsets = _subsets(experts.present, settings.random_subsets)
        loc, scale = product_of_experts(experts, subsets, with_prior=True)
        z = loc + scale * torch.randn_like(loc)
        kl = normal_kl_standard(loc, scale)  # (subsets, rows)
        elbos, terms = list(-beta * kl), {"kl": kl[0].mean()}
        for j, name in enumerate(names):  # decoded only where it may be in the subset
            having = [s for s in range(len(elbos)) if s in (0, 1 + j) or s > len(names)]
            at = torch.stack([z[s] for s in having])
            fits = self.joint.decoders.log_prob(at, observed.only([name]))[name]
            for s, fit in zip(having, fits, strict=True):
                weighted = self.joint.weights[name] * torch.where(subsets[j, s], fit, 0.0)
                elbos[s] = elbos[s] + weighted
            terms[name] = fits[0].mean()
        terms["elbo"] = sum(terms[name] for name in names) - terms["kl"]
        return Losses(-torch.stack(elbos).mean(1).sum(), terms)

    def facts(self) -> Mapping[str, str]:
        """Its name."""
        return {"system": "MVAE"}


def _subsets(present: Tensor, count: int) -> Tensor:
    """Modalities of each subset, (modalities, subsets, rows): all, each alone, random ones.

    The random ones have two modalities or more, but not all, any number as likely as any other.
    """
    modalities, rows, device = *present.shape, present.device
    alone = torch.eye(modalities, dtype=torch.bool, device=device)[..., None].expand(-1, -1, rows)
    subsets = [torch.ones_like(alone[:, :1]), alone[:, : modalities if modalities > 1 else 0]]
    if modalities > 2 and count:
        order = torch.rand(modalities, count, rows, device=device).argsort(0).argsort(0)
        subsets.append(order < torch.randint(2, modalities, (count, rows), device=device))
    return torch.cat(subsets, 1) & present[:, None]
