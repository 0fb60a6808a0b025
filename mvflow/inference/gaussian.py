"""Products of Gaussian experts, drawn in closed form where they are proper (paper Eq. 12)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import AffineTransform, Distribution, Independent, Normal
from zuko.distributions import DiagNormal, NormalizingFlow
from zuko.transforms import ComposedTransform, DependentTransform

from mvflow.functional import inside_ball, normal_poe
from mvflow.inference.product import (
    AggregateDivisor,
    Divisor,
    PriorDivisor,
    ProductOfExperts,
)

__all__ = ["PartlyProperProduct", "normal_moments", "product_of"]


def product_of(
    experts: Sequence[Distribution],
    radius: Tensor | float = math.inf,
    divisor: Divisor | None = None,
) -> DiagNormal | ProductOfExperts:
    """The product of two experts or more: a Gaussian if all experts are, and it is proper.

    Where it is improper in some rows, it is a Gaussian in the others. Under an `AggregateDivisor`
    that Gaussian is divided by the Gaussian of the same moments, whose tail needs no power law.

    Args:
        experts: as of `ProductOfExperts`.
        radius: of the ball; not a part of the Gaussian, from which `draw` keeps what is inside.
        divisor: as of `ProductOfExperts`.

    Examples:
        >>> half = DiagNormal(torch.zeros(4, 1), torch.full((4, 1), 0.5))
        >>> product_of([half, half]).stddev[0]  # precision 4 + 4 - 1
        tensor([0.3780])
    """
    moments = [normal_moments(q) for q in experts]
    product = ProductOfExperts(experts, radius, divisor)
    if any(m is None for m in moments):
        return product
    locs, scales = (torch.stack([m[i] for m in moments if m is not None]) for i in (0, 1))
    shared = product.divisor
    mean, std = locs.new_zeros(()), locs.new_ones(())
    if isinstance(shared, AggregateDivisor):
        mean, std = shared.mean, shared.std
    elif isinstance(shared, PriorDivisor):
        std = std * shared.precision**-0.5
    precision = (scales**-2).sum(0) - (len(experts) - 1) * shared.precision
    proper = (precision > 0).all(-1)
    if not proper.any():
        return product
    if proper.all():
        return DiagNormal(*normal_poe(locs, scales, mean, std))
    safe = torch.where(proper[:, None], scales, std)  # a stand-in, in rows that are not read
    gaussian = DiagNormal(*normal_poe(locs, safe, mean, std))
    return PartlyProperProduct(product, gaussian, proper, (locs, scales))


class PartlyProperProduct(ProductOfExperts):
    """A product of Gaussian experts that is proper in some rows only.

    Args:
        product: of all rows.
        gaussian: its closed form, in the rows where it is proper.
        proper: those rows, bool (rows,).
        moments: means and scales of the experts, (experts, rows, latent) each.
    """

    def __init__(
        self,
        product: ProductOfExperts,
        gaussian: DiagNormal,
        proper: Tensor,
        moments: tuple[Tensor, Tensor],
    ) -> None:
        super().__init__(product.experts, product.radius, product.divisor)
        self.gaussian, self.proper, self.moments = gaussian, proper, moments

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density, normalised up to the ball where it is proper; -inf outside the ball."""
        closed = inside_ball(self.gaussian.log_prob(z), z, self.radius)
        return torch.where(self.proper, closed, super().log_prob(z))

    def proper_rows(self) -> DiagNormal:
        """The Gaussian of the rows where it is proper, in their order."""
        base = self.gaussian.base_dist
        return DiagNormal(base.loc[self.proper], base.scale[self.proper])

    def improper_rows(self) -> ProductOfExperts:
        """The product of the other rows, in their order."""
        experts = [
            DiagNormal(loc[~self.proper], scale[~self.proper])
            for loc, scale in zip(*self.moments, strict=True)
        ]
        return ProductOfExperts(experts, self.radius, self.divisor)


def normal_moments(q: Distribution) -> tuple[Tensor, Tensor] | None:
    """Mean and scale of a diagonal Gaussian, perhaps of standardised z; None for all others.

    Examples:
        >>> normal_moments(DiagNormal(torch.zeros(2), torch.ones(2)))
        (tensor([0., 0.]), tensor([1., 1.]))
    """
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal):
        return q.base_dist.loc, q.base_dist.scale
    if not isinstance(q, NormalizingFlow) or not isinstance(q.transform, ComposedTransform):
        return None
    parts = [t.base if isinstance(t, DependentTransform) else t for t in q.transform.transforms]
    inner = normal_moments(q.base)
    if inner is None or not all(type(t) is AffineTransform for t in parts):
        return None
    loc, scale = inner
    for affine in reversed(parts):  # from the base variable back to z
        loc, scale = (loc - affine.loc) / affine.scale, scale / abs(affine.scale)
    return loc, scale
