"""Products of experts over the latent space, inside a ball (paper 3.3), and their samplers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from mvflow.functional import (
    inside_ball,
    mixture_log_prob,
    poe_log_density,
    power_tail_log_density,
    standard_normal_log_prob,
)
from mvflow.inference.finite import finite_draws, refuse
from mvflow.nn import concurrently

__all__ = ["AggregateDivisor", "Divisor", "PriorDivisor", "ProductOfExperts", "into_ball"]

INSIDE = 0.9
"""Share of a Gaussian's mass that lies inside the edge at which its tail becomes a power law.

Chosen by the density of q(z|X) under products of trained experts (`benchmarks/divisor.py`): from
0.99 on wide experts put mass far outside, below 0.7 narrow ones lose.
"""
PROBES = 32
"""Draws of the experts in whose directions the tail of a product is probed."""


class Divisor(Protocol):
    """What every expert contains once, and a product of |S| experts divides out |S|-1 times."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density up to a constant, (...,), of z (..., latent_dim)."""
        ...

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob` and its gradient."""
        ...

    @property
    def precision(self) -> Tensor | float:
        """Of its Gaussian part: a number, or one for each dimension."""
        ...


@dataclass(frozen=True, slots=True)
class PriorDivisor:
    """p(z)^precision, p(z) = N(0, I): Eq. 12 has 1. Wider experts make the product improper.

    A product of |S| experts that is divided once by the prior, as F.3 is printed, has the
    precision 1 / (|S|-1).
    """

    precision: float = 1.0

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density up to a constant."""
        return self.precision * standard_normal_log_prob(z)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density up to a constant, and its gradient."""
        return self.log_prob(z), -self.precision * z


class AggregateDivisor:
    r"""The aggregated posterior, a Gaussian with the latents' moments and a power-law tail.

    Experts are trained at z ~ q(z|X) of the data (Eq. 8), so what they all contain is the law of
    these z over all rows, which is the prior only if training has made it so. The tail beyond
    the edge that holds 0.9 of a Gaussian falls more slowly than any Gaussian pushed through
    autoregressive or spline transforms, whose inverses are Lipschitz: every q_j divided by this
    is bounded, and a product of experts is therefore always proper.

    Args:
        mean: of the latents over all rows, (latent_dim,).
        std: their standard deviation.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        from scipy.special import gammaincinv  # a seventh of a second, for who has products

        self.mean, self.std = mean, std
        self.edge = float(2 * gammaincinv(len(mean) / 2, INSIDE)) ** 0.5

    @property
    def precision(self) -> Tensor:
        """Of the Gaussian, (latent_dim,)."""
        return self.std**-2

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density up to a constant."""
        return self.value_and_grad(z)[0]

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log density up to a constant; its gradient, a Gaussian's but for the tail."""
        white = (z - self.mean) / self.std
        squares = white.square().sum(-1)
        slope = (self.edge**2 / squares).clamp_max(1.0)[..., None]
        return power_tail_log_density(squares, self.edge), -slope * white / self.std


class ProductOfExperts:
    r"""prod_j q_j(z|x_j) / s(z)^(|S|-1) within |z| <= radius, up to a constant (Eq. 12).

    The exponent is |S|-1 (F.3 prints one division by the prior, which agrees only for |S| = 2; a
    `PriorDivisor` of the precision 1 / (|S|-1) makes it so).
    Divided by the prior, experts wider than it make the quotient grow outwards: it then has a
    finite mass only inside the ball that the training rows' latents span.

    Args:
        experts: distributions with batch shape (rows,) and event shape (latent_dim,).
        radius: of the ball; infinity for none.
        divisor: s(z), what each expert contains once: the `PriorDivisor` of Eq. 12, or an
            `AggregateDivisor`.

    Examples:
        >>> from zuko.distributions import DiagNormal
        >>> half = DiagNormal(torch.zeros(4, 2), torch.ones(4, 2))
        >>> p = ProductOfExperts([half, half, half])
        >>> p.log_prob(torch.zeros(5, 4, 2)).shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        experts: Sequence[Distribution],
        radius: Tensor | float = math.inf,
        divisor: Divisor | None = None,
    ) -> None:
        self.experts = tuple(experts)
        self.radius = float(radius)
        self.divisor = PriorDivisor() if divisor is None else divisor

    def log_prob(self, z: Tensor) -> Tensor:
        """Unnormalised log density, (..., rows), of z (..., rows, latent_dim)."""
        return inside_ball(self._unbounded(z), z, self.radius)

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob` and the gradient of the density that holds inside the ball."""
        z = z.detach()
        calls = [partial(_value_and_grad, expert, z) for expert in self.experts]
        *found, (shared, shared_grad) = concurrently(
            [*calls, partial(self.divisor.value_and_grad, z)]
        )
        values, grads = zip(*found, strict=True)
        value = poe_log_density(torch.stack(values), shared)
        grad = torch.stack(grads).sum(0) - (len(grads) - 1) * shared_grad
        return inside_ball(value, z, self.radius), grad

    def candidates(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` draws of each expert, and their log weights under the balance heuristic.

        Returns:
            Draws (|S| count, rows, latent_dim), each expert's in turn, and their log weights
            (|S| count, rows). A draw that is not finite has the weight 0, and another of the same
            expert in its place; so has one outside the ball.

        Raises:
            NumericsError: if an expert has no finite draw in a row, or no density is a number.
        """
        drawn = [finite_draws(expert, count) for expert in self.experts]
        pool, finite = (torch.cat(each) for each in zip(*drawn, strict=True))
        terms = torch.stack([expert.log_prob(pool) for expert in self.experts])
        target = poe_log_density(terms, self.divisor.log_prob(pool))
        log_weights = inside_ball(target, pool, self.radius) - mixture_log_prob(terms)
        refuse(target.isnan().all(0), "the density of a product of experts is not a number")
        return pool, log_weights.masked_fill(~(finite & log_weights.isfinite()), -math.inf)

    @torch.no_grad()
    def is_improper(self, pool: Tensor) -> Tensor:
        """Whether each row's product has most of its mass far outside, (rows,) of bool.

        Along the axes and towards some draws of the experts, log pi(z) + d log |z| must fall
        between 4 and 16 times the radius: the mass of shells around the experts' centre. Never
        so for an `AggregateDivisor`, under which products are proper by construction.

        Args:
            pool: of `candidates`.
        """
        rows, latent = pool.shape[1:]
        if isinstance(self.divisor, AggregateDivisor):
            return torch.zeros(rows, dtype=torch.bool, device=pool.device)
        centre = pool.mean(0)
        offsets = pool[:: max(1, len(pool) // PROBES)] - centre
        towards = offsets / offsets.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        axes = torch.eye(latent, dtype=pool.dtype, device=pool.device)[:, None].expand(
            -1, rows, -1
        )
        directions = torch.cat([towards, axes, -axes])
        reach = self.radius if math.isfinite(self.radius) else float(pool.norm(dim=-1).max())
        near, far = (self._unbounded(centre + k * reach * directions) for k in (4, 16))
        grows = (far - near) + latent * math.log(4) > 0  # False where either is not a number
        return (grows & (directions.norm(dim=-1) > 0.5)).any(0)  # a lone draw has no direction

    def variance(self, pool: Tensor) -> Tensor:
        """Variance of the product, (rows, latent_dim), as if all experts were Gaussian.

        Precisions add up, less |S|-1 times that of what they share. Where that leaves little or
        nothing (experts that are wider), half the experts' mean precision stands in.

        Args:
            pool: of `candidates`.
        """
        parts = pool.split(len(pool) // len(self.experts))
        precision = torch.stack([1 / part.var(0).clamp_min(1e-12) for part in parts]).sum(0)
        minimum = precision / len(parts) / 2
        return 1 / torch.maximum(precision - (len(parts) - 1) * self.divisor.precision, minimum)

    def mixture_draws(self, n: int) -> Tensor:
        """`n` draws per row, (n, rows, latent_dim), each of an expert chosen at random."""
        each = torch.stack([finite_draws(expert, n)[0] for expert in self.experts])
        chosen = torch.randint(len(each), each.shape[1:-1], device=each.device)
        return torch.gather(each, 0, chosen[None, ..., None].expand(1, *each.shape[1:]))[0]

    def _unbounded(self, z: Tensor) -> Tensor:
        terms = torch.stack([expert.log_prob(z) for expert in self.experts])
        return poe_log_density(terms, self.divisor.log_prob(z))


def _value_and_grad(expert: Distribution, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log density at z and its gradient, by the expert's own formula if it has one."""
    if hasattr(expert, "value_and_grad"):
        return expert.value_and_grad(z)
    with torch.inference_mode(False), torch.enable_grad():
        z = z.detach().clone().requires_grad_()  # no tensor of inference mode, if z was one
        value = expert.log_prob(z)
        (grad,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), grad


def into_ball(z: Tensor, radius: Tensor | float) -> Tensor:
    """Values of z (..., latent_dim), those outside the ball moved to its surface; NaN stays NaN.

    Examples:
        >>> into_ball(torch.tensor([[3.0, 4.0], [0.5, 0.0]]), 1.0)
        tensor([[0.5994, 0.7992],
                [0.5000, 0.0000]])
    """
    norm = z.norm(dim=-1, keepdim=True)
    unit = z / z.abs().amax(-1, keepdim=True)  # whose norm does not overflow
    surface = 0.999 * radius * unit / unit.norm(dim=-1, keepdim=True)
    return torch.where(norm <= radius, z, surface)
