"""MoPoE (Sutter et al. 2021): a mixture of the products of experts of all subsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution
from zuko.distributions import DiagNormal

from mvflow.config import Config
from mvflow.core import ConfigError, Observed
from mvflow.functional import normal_kl_standard
from mvflow.stages import Losses
from mvflow.systems.annealing import BetaTraining
from mvflow.systems.experts import (
    Experts,
    ExpertSystem,
    equal_mixture,
    mean_over_present,
    product_of_experts,
)

__all__ = ["MoPoE"]

MAX_MODALITIES = 10
"""Of 11, a batch would hold 2,047 products."""


class Joint(BetaTraining):
    """Generalised multimodal ELBO of a mixture over `subsets`: "all", or each "single" one."""

    subsets: Literal["all", "single"] = "all"


class MoPoE(ExpertSystem):
    """Mixture-of-products-of-experts VAE.

    In training q(z|X) is the equal mixture over all subsets of what is there; given x_S, z is
    drawn from the product of S, as the authors evaluate it.
    """

    class Settings(Config):
        """Settings of MoPoE."""

        system: str = "mopoe"
        joint: Joint = Joint()

    settings: MoPoE.Settings

    def __init__(self, settings: MoPoE.Settings) -> None:
        count = len(settings.modalities)
        if count > MAX_MODALITIES and settings.joint.subsets == "all":
            msg = (
                f"MoPoE multiplies the experts of all {2**count - 1:,} subsets of {count} "
                f"modalities: expected at most {MAX_MODALITIES}, or joint.subsets=single; mvae, "
                "mvtcae and crmvae take any number"
            )
            raise ConfigError(msg)
        super().__init__(settings)

    def posterior(self, observed: Observed) -> DiagNormal:
        """q(z|x_S): in a row, the product of the experts that are present, the prior for none."""
        return DiagNormal(*product_of_experts(self.joint.experts(observed)))

    def proposals(self, observed: Observed) -> Sequence[Distribution]:
        """The mixture that is trained, which is wider than the product."""
        experts = self.joint.experts(observed)
        members, available = self._subsets(experts)
        loc, scale = product_of_experts(experts, members)
        return [equal_mixture(DiagNormal(loc.transpose(0, 1), scale.transpose(0, 1)), available)]

    def losses(self, observed: Observed, progress: float | Tensor) -> Losses:
        """Minus the ELBO, the KL divergence bounded by the mean of those of the products.

        One z per row, of one subset; over a batch all subsets have their share of rows.
        """
        beta = self.settings.joint.beta_at(progress)
        experts = self.joint.experts(observed)
        members, available = self._subsets(experts)
        loc, scale = product_of_experts(experts, members)  # (subsets, rows, latent)
        chosen = _stratified(available)[None, :, None].expand(1, -1, loc.shape[-1])
        loc_of, scale_of = loc.gather(0, chosen)[0], scale.gather(0, chosen)[0]
        z = loc_of + scale_of * torch.randn_like(loc_of)
        total, fits = self.joint.log_likelihood(z, observed)
        kl = mean_over_present(normal_kl_standard(loc, scale), available)
        terms = {"kl": kl} | {name: fit.mean() for name, fit in fits.items()}
        terms["elbo"] = sum(terms[name] for name in fits) - kl
        return Losses(beta * kl - total.mean(), terms)

    def _subsets(self, experts: Experts) -> tuple[Tensor, Tensor]:
        """Members of each subset, (experts, subsets, rows), and whether a row has all of them."""
        count, rows = experts.present.shape
        if self.settings.joint.subsets == "single":
            bits = torch.eye(count, dtype=torch.bool, device=experts.present.device)
        else:
            numbers = torch.arange(1, 2**count, device=experts.present.device)
            places = torch.arange(count, device=experts.present.device)
            bits = (numbers >> places[:, None]) & 1 == 1
        available = (experts.present[:, None] | ~bits[..., None]).all(0)
        return bits[..., None].expand(-1, -1, rows), available

    def facts(self) -> Mapping[str, str]:
        """Its name."""
        return {"system": "MoPoE"}


def _stratified(available: Tensor) -> Tensor:
    """A subset of each row, any available one as likely as any other, spread over the batch."""
    rows = available.shape[1]
    places = torch.rand(rows, device=available.device).argsort()
    at = (places + torch.rand((), device=available.device)) / rows
    count = available.sum(0)
    rank = (at * count).long().clamp(max=count - 1)  # of the available ones, from 0
    return ((available.cumsum(0) == rank + 1) & available).int().argmax(0)
