"""Products of experts over the latent space, inside a ball (paper 3.3), and their samplers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from mvflow.functional import (
    inside_ball,
    mixture_log_prob,
    poe_log_density,
    standard_normal_log_prob,
)
from mvflow.inference.diagnostics import Diagnostics

__all__ = ["Draws", "ProductOfExperts", "ProductSampler", "into_ball"]


class Draws(NamedTuple):
    """Draws of the latent variable and what is known of their quality."""

    z: Tensor
    """(n, rows, latent_dim)."""
    diagnostics: Diagnostics


@runtime_checkable
class ProductSampler(Protocol):
    """A way to draw from a product of experts; holds settings, never state."""

    def sample(self, product: ProductOfExperts, n: int) -> Draws:
        """`n` draws per row, none outside the ball, with diagnostics."""
        ...


class ProductOfExperts:
    r"""prod_j q_j(z|x_j) / p(z)^(|S|-1) within |z| <= radius, up to a constant (Eq. 12).

    The exponent is |S|-1 (F.3 prints one division by the prior, which agrees only for |S| = 2).
    Experts wider than the prior make the quotient improper in the tails; inside the ball that
    the training rows' latents span it always has a finite mass.

    Args:
        experts: distributions with batch shape (rows,) and event shape (latent_dim,).
        radius: of the ball; infinity for none.

    Examples:
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

    def candidates(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` draws of each expert, and their log weights under the balance heuristic.

        Returns:
            Draws (|S| count, rows, latent_dim), each expert's in turn, and their log weights
            (|S| count, rows); the weight of a draw that is not finite or outside the ball is 0.
        """
        pool = torch.cat([expert.sample((count,)) for expert in self.experts])
        pool = torch.where(pool.isfinite(), pool, 0.0)
        terms = torch.stack([expert.log_prob(pool) for expert in self.experts])
        target = poe_log_density(terms, standard_normal_log_prob(pool))
        log_weights = inside_ball(target, pool, self.radius) - mixture_log_prob(terms)
        bad = ~torch.isfinite(log_weights)
        return pool, log_weights.masked_fill(bad, -math.inf)

    def variance(self, pool: Tensor) -> Tensor:
        """Variance of the product, (rows, latent_dim), as if all experts were Gaussian.

        Precisions add up, less |S|-1 times the prior's. Where that leaves little or nothing
        (experts wider than the prior), half the experts' mean precision stands in.

        Args:
            pool: of `candidates`.
        """
        parts = pool.split(len(pool) // len(self.experts))
        precision = torch.stack([1 / part.var(0).clamp_min(1e-12) for part in parts]).sum(0)
        least = precision / len(parts) / 2
        return 1 / torch.maximum(precision - (len(parts) - 1), least)

    def mixture_draws(self, n: int) -> Tensor:
        """`n` draws per row, (n, rows, latent_dim), each of an expert chosen at random."""
        each = torch.stack([expert.sample((n,)) for expert in self.experts])
        chosen = torch.randint(len(each), each.shape[1:-1], device=each.device)
        return torch.gather(each, 0, chosen[None, ..., None].expand(1, *each.shape[1:]))[0]

    def _unbounded(self, z: Tensor) -> Tensor:
        terms = torch.stack([expert.log_prob(z) for expert in self.experts])
        return poe_log_density(terms, standard_normal_log_prob(z))


def into_ball(z: Tensor, radius: Tensor | float) -> Tensor:
    """Values of z (..., latent_dim), those outside the ball moved to its surface; NaN becomes 0.

    Examples:
        >>> into_ball(torch.tensor([[3.0, 4.0], [0.5, 0.0]]), 1.0)
        tensor([[0.5994, 0.7992],
                [0.5000, 0.0000]])
    """
    norm = z.norm(dim=-1, keepdim=True)
    surface = 0.999 * radius * z / norm
    return torch.where(norm <= radius, z, surface.nan_to_num())
