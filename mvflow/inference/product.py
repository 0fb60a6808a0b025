"""Products of experts over the latent space, inside a ball, sampled by MCMC (paper 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from mvflow.functional import (
    effective_sample_size,
    inside_ball,
    mixture_log_prob,
    poe_log_density,
    standard_normal_log_prob,
)
from mvflow.inference.diagnostics import Diagnostics, diagnose
from mvflow.samplers import SamplingAlgorithm, run

__all__ = ["Draws", "ProductOfExperts", "TorchRandom", "into_ball"]


class Draws(NamedTuple):
    """Draws of the latent variable and what is known of their quality."""

    z: Tensor
    """(n, rows, latent_dim)."""
    diagnostics: Diagnostics


@dataclass(frozen=True)
class TorchRandom:
    """Random arrays for samplers from torch's generator (seed it with `mvflow.nn.seeded`)."""

    like: Tensor

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, dtype=self.like.dtype, device=self.like.device)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Uniform numbers of [0, 1)."""
        return torch.rand(shape, dtype=self.like.dtype, device=self.like.device)


class ProductOfExperts:
    r"""prod_j q_j(z|x_j) / p(z)^(|S|-1) within |z| <= radius, up to a constant (Eq. 12).

    The exponent is |S|-1 (F.3 prints one division by the prior, which agrees only for |S| = 2).
    Experts wider than the prior make the quotient improper in the tails; inside the ball that
    the training rows' latents span it always has a finite mass.

    Args:
        experts: distributions with batch shape (rows,) and event shape (latent_dim,).
        radius: of the ball; infinity for none.

    Example:
        >>> from zuko.distributions import DiagNormal
        >>> half = DiagNormal(torch.zeros(4, 2), torch.ones(4, 2))
        >>> p = ProductOfExperts([half, half, half])
        >>> p.log_prob(torch.zeros(5, 4, 2)).shape
        torch.Size([5, 4])
    """

    def __init__(self, experts: Sequence[Distribution], radius: Tensor | float = math.inf) -> None:
        self.experts = tuple(experts)
        self.radius = float(radius)

    def log_prob(self, z: Tensor) -> Tensor:
        """Unnormalised log density, (..., rows), of z (..., rows, latent_dim)."""
        return inside_ball(self._unbounded(z), z, self.radius)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob` and the gradient of the density that holds inside the ball."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = self._unbounded(z)
            (grad,) = torch.autograd.grad(value.sum(), z)
        return inside_ball(value.detach(), z.detach(), self.radius), grad

    @torch.no_grad()
    def sample(
        self,
        n: int,
        algorithm: SamplingAlgorithm,
        *,
        chains: int = 4,
        warmup: int = 100,
        draws: int = 50,
        candidates: int = 128,
    ) -> Draws:
        """Draw by MCMC from chains that start at importance-resampled draws of the experts.

        Args:
            n: draws per row.
            algorithm: the sampler.
            chains: chains per row; R-hat compares them.
            warmup: steps that adapt the sampler and are thrown away.
            draws: least steps kept per chain; more are made if `n` needs them.
            candidates: draws per expert among which the starts are resampled.

        Returns:
            `n` draws per row, evenly spaced over all chains, with diagnostics.
        """
        pool, log_weights = self._candidates(candidates)
        start, ess = _resample(pool, log_weights, chains)
        start = into_ball(start, self.radius)
        inverse_mass = self._variance(pool)
        steps = max(draws, -(-n // chains))
        contacts = torch.zeros(start.shape[1], device=start.device)
        proposals = 0

        def count(info: object) -> None:
            nonlocal contacts, proposals
            outside = info.proposal.norm(dim=-1) > self.radius  # type: ignore[attr-defined]
            contacts = contacts + outside.sum(0)
            proposals += len(outside)

        chain = run(
            algorithm,
            start,
            self.value_and_grad,
            TorchRandom(start),
            warmup=warmup,
            draws=steps,
            inverse_mass=inverse_mass,
            on_step=count,
        )
        kept = chain.positions  # (draws, chains, rows, latent_dim)
        at = torch.linspace(0, len(kept) * chains - 1, n, device=kept.device).long()
        z = kept.flatten(0, 1)[at]
        found = diagnose(
            kept,
            acceptance=chain.acceptance,
            divergences=chain.divergences,
            contacts=contacts / max(proposals, 1),
            start_ess=ess / len(pool),
        )
        return Draws(z, found)

    def _unbounded(self, z: Tensor) -> Tensor:
        terms = torch.stack([expert.log_prob(z) for expert in self.experts])
        return poe_log_density(terms, standard_normal_log_prob(z))

    def _candidates(self, count: int) -> tuple[Tensor, Tensor]:
        """Draws from all experts and their log weights under the balance heuristic."""
        pool = torch.cat([expert.sample((count,)) for expert in self.experts])
        pool = torch.where(pool.isfinite(), pool, 0.0)
        terms = torch.stack([expert.log_prob(pool) for expert in self.experts])
        target = poe_log_density(terms, standard_normal_log_prob(pool))
        log_weights = inside_ball(target, pool, self.radius) - mixture_log_prob(terms)
        bad = ~torch.isfinite(log_weights)
        return pool, log_weights.masked_fill(bad, -math.inf)

    def _variance(self, pool: Tensor) -> Tensor:
        """Variance of the product, (rows, latent_dim), as if all experts were Gaussian.

        Precisions add up, less |S|-1 times the prior's. Where that leaves little or nothing
        (experts wider than the prior), half the experts' mean precision stands in.
        """
        parts = pool.split(len(pool) // len(self.experts))
        precision = torch.stack([1 / part.var(0).clamp_min(1e-12) for part in parts]).sum(0)
        least = precision / len(parts) / 2
        return 1 / torch.maximum(precision - (len(parts) - 1), least)


def into_ball(z: Tensor, radius: Tensor | float) -> Tensor:
    """Values of z (..., latent_dim), those outside the ball moved to its surface; NaN becomes 0.

    Example:
        >>> into_ball(torch.tensor([[3.0, 4.0], [0.5, 0.0]]), 1.0)
        tensor([[0.5994, 0.7992],
                [0.5000, 0.0000]])
    """
    norm = z.norm(dim=-1, keepdim=True)
    surface = 0.999 * radius * z / norm
    return torch.where(norm <= radius, z, surface.nan_to_num())


def _resample(pool: Tensor, log_weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Multinomial resampling per row; rows whose weights all vanish start at the nearest draw.

    Args:
        pool: (candidates, rows, latent_dim).
        log_weights: (candidates, rows).
        count: how many to take per row.

    Returns:
        Positions (count, rows, latent_dim) and the effective sample size of each row (rows,).
    """
    dead = torch.isneginf(log_weights).all(0)
    nearest = -pool.norm(dim=-1)
    logits = torch.where(dead, 50 * nearest, log_weights)
    chosen = torch.distributions.Categorical(logits=logits.T, validate_args=False).sample((count,))
    rows = torch.arange(pool.shape[1], device=pool.device)
    ess = effective_sample_size(logits, axis=0)
    return pool[chosen, rows], torch.where(dead, 0.0, ess)
