"""Draws of a product of experts by importance resampling of the experts' own, without chains."""

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt
from torch import Tensor

from mvflow.inference.diagnostics import weighted
from mvflow.inference.product import into_ball
from mvflow.inference.target import Draws, Sampler, Target

__all__ = ["SIR"]


class SIR(Sampler):
    """Sampling-importance-resampling (Rubin 1987) from the experts: no gradient is taken.

    Candidates of all experts get the weight pi(z) / mean_j q_j(z), and draws are resampled among
    them. The draws' law nears pi as the effective number of candidates grows; where experts
    disagree or the latent space is large it is a handful, and the diagnostics say so.

    Examples:
        >>> from mvflow.inference import ProductOfExperts
        >>> from zuko.distributions import DiagNormal
        >>> half = DiagNormal(torch.zeros(4, 2), torch.full((4, 2), 0.5))
        >>> found = SIR().sample(ProductOfExperts([half, half]), 7)
        >>> found.z.shape, found.diagnostics.method, bool((found.diagnostics.ess > 200).all())
        (torch.Size([7, 4, 2]), 'sir', True)
    """

    candidates: PositiveInt = 128
    """Draws per expert in a round; only one round at a time is held."""
    least: PositiveInt = 1000
    """Candidates per row in all, at the least."""
    oversampling: PositiveInt = 10
    """Candidates for each draw, at the least."""

    @torch.no_grad()
    def sample(self, target: Target, n: int) -> Draws:
        """`n` draws per row, resampled with replacement."""
        in_all = max(self.least, self.oversampling * n)
        rounds = -(-in_all // (self.candidates * len(target.experts)))
        chosen = _Chosen(n)
        log_weights, outside = [], []
        for _ in range(rounds):
            pool, each = target.candidates(self.candidates)
            chosen.offer(pool, each)
            log_weights.append(each)
            outside.append((pool.norm(dim=-1) > target.radius).double().mean(0))
        diagnostics = weighted(
            torch.cat(log_weights),
            contacts=torch.stack(outside).mean(0),
            improper=target.is_improper(pool),
        )
        return Draws(into_ball(chosen.z, target.radius), diagnostics)


class _Chosen:
    """Multinomial resampling of a stream of candidates, of which one batch is held at a time.

    Each of the `n` places is taken by a candidate of the new batch with the share of its weight
    in all so far, which makes every place a draw from all candidates in proportion to weight.
    """

    z: Tensor

    def __init__(self, n: int) -> None:
        self.n = n
        self.total: Tensor | None = None
        """Log of the weights so far, (rows,)."""

    def offer(self, pool: Tensor, log_weights: Tensor) -> None:
        """Candidates (count, rows, latent_dim) and their log weights (count, rows)."""
        new = torch.logsumexp(log_weights, 0)
        dead = torch.isneginf(new)
        # rows without any weight take the candidate nearest to the ball until one has some
        logits = torch.where(dead, -50 * pool.norm(dim=-1), log_weights)
        law = torch.distributions.Categorical(logits=logits.T, validate_args=False)
        index = law.sample((self.n,))
        picked = pool[index, torch.arange(pool.shape[1], device=pool.device)]
        if self.total is None:
            self.z, self.total = picked, new
            return
        total = torch.logaddexp(self.total, new)
        share = torch.where(dead, 0.0, torch.exp(new - total.masked_fill(dead, math.inf)))
        replaced = torch.rand(index.shape, dtype=share.dtype, device=share.device) < share
        self.z = torch.where(replaced[..., None], picked, self.z)
        self.total = total
