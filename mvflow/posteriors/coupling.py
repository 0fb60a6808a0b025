"""Affine coupling flows."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt
from zuko import flows
from zuko.lazy import LazyTransform

from mvflow.posteriors.base import Count, Family

__all__ = ["Coupling"]


class Coupling(Family):
    """Affine coupling flow (RealNVP): half of z is scaled and shifted given the other half.

    A draw costs two levels of each network instead of one for each dimension of z. Each transform
    also scales and shifts the half that it conditions on, by constants or by the context.

    Reference: Dinh et al., Density Estimation Using Real NVP (2017),
    https://arxiv.org/abs/1605.08803.

    Examples:
        >>> len(Coupling(transforms=6).transform(4).transforms)
        6
    """

    transforms: Count = 4
    """Number of coupling transforms; the halves change roles from each to the next."""
    hidden: tuple[PositiveInt, ...] = (128, 128)
    """Widths of the hidden layers of each transform's network."""
    context: NonNegativeInt = 0
    """Number of features of x that condition the transforms; none as in the paper (Eq. 10)."""

    @property
    def context_features(self) -> int:
        """The setting `context`."""
        return self.context

    def transform(self, latent: int) -> LazyTransform | None:
        """Autoregressive transforms of two groups of dimensions, in alternating orders."""
        flow = flows.MAF(
            latent,
            self.context,
            transforms=self.transforms,
            hidden_features=self.hidden,
            passes=2,
        )
        return flow.transform
