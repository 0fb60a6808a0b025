"""Draws from any posterior, whether it can be sampled directly or not."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from mvflow.core import UsageError
from mvflow.inference.diagnostics import exact, merged_rows
from mvflow.inference.finite import refuse
from mvflow.inference.gaussian import PartlyProperProduct
from mvflow.inference.product import into_ball
from mvflow.inference.target import Draws, Sampler, Target

__all__ = ["draw"]

MAX_REDRAWS = 50
"""How often draws outside the ball are drawn again before they are moved to its surface."""


@runtime_checkable
class DrawsSome(Protocol):
    """A distribution whose draws cost much, and can be left out one by one."""

    def sample_where(self, mask: Tensor) -> Tensor:
        """Draws, mask.shape + event shape; what stands where the mask is false does not matter."""
        ...


@torch.no_grad()
def draw(
    posterior: Distribution | Target,
    n: int,
    sampler: Sampler,
    radius: Tensor | float = math.inf,
) -> Draws:
    """Draw `n` values of z per row, (n, rows, latent_dim), none outside the ball.

    Distributions that can be sampled are; those of their draws that fall outside the ball are
    drawn again, and the share that did is reported. What is still outside after that is moved to
    the surface of the ball, and its share reported. Other densities are drawn by the sampler,
    but for rows in which they have a closed form.

    Raises:
        NumericsError: if a row has draws that are not finite numbers.
        UsageError: if `n` is not positive.
    """
    if n < 1:
        msg = f"n={n}: expected at least one draw"
        raise UsageError(msg)
    if isinstance(posterior, PartlyProperProduct):
        return _draw_by_rows(posterior, n, sampler)
    if not isinstance(posterior, Distribution):
        return sampler.sample(posterior, n)
    z = posterior.sample((n,))
    outside = _outside(z, radius)
    contacts = outside.double().mean(0)
    for _ in range(MAX_REDRAWS):
        if not outside.any():
            break
        again = (
            posterior.sample_where(outside)
            if isinstance(posterior, DrawsSome)
            else posterior.sample((n,))
        )
        z = torch.where(outside[..., None], again, z)
        outside = _outside(z, radius)
    refuse(~z.isfinite().all(-1).all(0), "draws of a posterior are not finite numbers")
    if outside.any():
        z = into_ball(z, radius)
    return Draws(z, exact(contacts, outside.double().mean(0)))


def _draw_by_rows(product: PartlyProperProduct, n: int, sampler: Sampler) -> Draws:
    """Draws in closed form of the rows where a product is proper, of the others by the sampler."""
    proper = product.proper
    exactly = draw(product.proper_rows(), n, sampler, product.radius)
    sampled = sampler.sample(product.improper_rows(), n)
    z = exactly.z.new_empty(n, len(proper), exactly.z.shape[-1])
    z[:, proper], z[:, ~proper] = exactly.z, sampled.z
    by_rows = merged_rows(exactly.diagnostics, sampled.diagnostics, proper.cpu().numpy())
    return Draws(z, by_rows)


def _outside(z: Tensor, radius: Tensor | float) -> Tensor:
    return ~(z.norm(dim=-1) <= radius)
