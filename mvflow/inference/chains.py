"""Draws of a product of experts by Markov chains: a few long ones, or a short one a draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mvflow.core import UsageError
from mvflow.functional import effective_sample_size
from mvflow.inference.diagnostics import chain_diagnostics
from mvflow.inference.product import into_ball
from mvflow.inference.target import Draws, Target
from mvflow.nn import captured, passed_generator
from mvflow.samplers import SamplingAlgorithm, run

__all__ = ["IndependentChains", "MarkovChains", "TorchRandom", "resample", "spread"]

SNAPSHOTS = 10
"""States of each independent chain that R-hat compares."""


@dataclass(frozen=True)
class TorchRandom:
    """Random arrays for samplers, from a generator or torch's global one."""

    like: Tensor
    generator: torch.Generator | None = None

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator, **self._about)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Uniform numbers of [0, 1)."""
        return torch.rand(shape, generator=self.generator, **self._about)

    @property
    def _about(self) -> dict[str, Any]:
        return {"dtype": self.like.dtype, "device": self.like.device}


@dataclass(frozen=True)
class MarkovChains:
    """A few long chains per row, from importance-resampled draws of the experts.

    Args:
        algorithm: the sampler.
        chains: chains per row; R-hat compares them.
        warmup: steps that adapt the sampler and are thrown away.
        draws: least steps kept per chain; more are made if the number of draws needs them.
        candidates: draws per expert among which the starts are resampled.

    Examples:
        >>> from mvflow.inference import ProductOfExperts
        >>> from mvflow.samplers import HMC
        >>> from zuko.distributions import DiagNormal
        >>> half = DiagNormal(torch.zeros(4, 2), torch.full((4, 2), 0.5))
        >>> found = MarkovChains(HMC(num_steps=3)).sample(ProductOfExperts([half, half]), 7)
        >>> found.z.shape, found.diagnostics.method
        (torch.Size([7, 4, 2]), 'mcmc')
    """

    algorithm: SamplingAlgorithm
    chains: int = 4
    warmup: int = 100
    draws: int = 200
    candidates: int = 128

    @torch.no_grad()
    def sample(self, target: Target, n: int) -> Draws:
        """`n` draws per row, spread over all chains and their length (see `Sampler`)."""
        pool, log_weights = target.candidates(self.candidates)
        start, ess = resample(pool, log_weights, self.chains)
        start = into_ball(start, target.radius)
        contacts = _Contacts(target.radius, start)
        with passed_generator() as generator:
            chain = run(
                self.algorithm,
                start,
                captured(target.value_and_grad, start),
                TorchRandom(start, generator),
                warmup=self.warmup,
                draws=max(self.draws, -(-n // self.chains)),
                inverse_mass=target.variance(pool),
                on_step=contacts.count,
            )
        kept = chain.positions  # (draws, chains, rows, latent_dim)
        diagnostics = chain_diagnostics(
            kept,
            acceptance=chain.acceptance,
            divergences=chain.divergences,
            contacts=contacts.share,
            start_ess=ess / len(pool),
            improper=target.is_improper(pool),
        )
        return Draws(kept[spread(n, *kept.shape[:2])], diagnostics)


@dataclass(frozen=True)
class IndependentChains:
    """One chain a draw, from a draw of a random expert, of which the last state is kept.

    Draws are independent, but only as good as a chain's end: R-hat compares its states on the
    way. The mass is one in each coordinate.

    Args:
        algorithm: the sampler.
        steps: steps of each chain after the warm-up.
        warmup: steps before, which adapt the sampler.

    Raises:
        UsageError: if there are fewer than 4 steps, which R-hat needs.
    """

    algorithm: SamplingAlgorithm
    steps: int = 100
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.steps < 4:
            msg = f"draws is {self.steps}, expected at least 4 steps of each independent chain"
            raise UsageError(msg)

    @torch.no_grad()
    def sample(self, target: Target, n: int) -> Draws:
        """`n` draws per row, the ends of as many chains (see `Sampler`)."""
        start = into_ball(target.mixture_draws(n), target.radius)
        contacts = _Contacts(target.radius, start)
        thin = _thinning(self.steps)
        with passed_generator() as generator:
            chain = run(
                self.algorithm,
                start,
                captured(target.value_and_grad, start),
                TorchRandom(start, generator),
                warmup=self.warmup,
                draws=self.steps // thin,
                thin=thin,
                on_step=contacts.count,
            )
        kept = chain.positions
        diagnostics = chain_diagnostics(
            kept,
            acceptance=chain.acceptance,
            divergences=chain.divergences,
            contacts=contacts.share,
            improper=target.is_improper(start),
        )
        return Draws(kept[-1], diagnostics)


class _Contacts:
    """Share of proposals outside the ball, per row."""

    def __init__(self, radius: float, start: Tensor) -> None:
        self.radius = radius
        self.outside = torch.zeros(start.shape[1], device=start.device)
        self.proposals = 0

    def count(self, info: Any) -> None:
        self.outside = self.outside + (info.proposal.norm(dim=-1) > self.radius).sum(0)
        self.proposals += len(info.proposal)

    @property
    def share(self) -> Tensor:
        return self.outside / max(self.proposals, 1)


def _thinning(steps: int) -> int:
    """Largest divisor of `steps` that leaves `SNAPSHOTS` states, or 1 where none does."""
    fits = [d for d in range(1, steps // SNAPSHOTS + 1) if steps % d == 0]
    return fits[-1] if fits else 1


def spread(n: int, steps: int, chains: int) -> tuple[Tensor, Tensor]:
    """Step and chain of each of `n` draws: of all chains in turn, evenly over their whole length.

    No state is taken twice where there are as many, and the last draw is the last state.

    Examples:
        >>> [at.tolist() for at in spread(4, 6, 2)]
        [[1, 2, 4, 5], [0, 1, 0, 1]]
        >>> [at.tolist() for at in spread(1, 200, 4)]
        [[199], [0]]
    """
    k = torch.arange(n)
    return -(-(k + 1) * steps // n) - 1, k % chains


def resample(pool: Tensor, log_weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
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
