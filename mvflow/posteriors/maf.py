"""Masked autoregressive flows whose transforms do not depend on x (Eq. 10)."""

from __future__ import annotations

from pydantic import PositiveInt
from zuko import flows
from zuko.lazy import LazyTransform

from mvflow.posteriors.base import Count, Family

__all__ = ["MAF"]


class MAF(Family):
    """Masked autoregressive flow of the paper: x acts on its Gaussian base only (Eq. 10).

    Reference: Papamakarios et al., Masked Autoregressive Flow for Density Estimation (2017),
    https://arxiv.org/abs/1705.07057.

    Examples:
        >>> len(MAF(transforms=3).transform(2).transforms)
        3
    """

    transforms: Count = 2
    """Number of autoregressive transforms."""
    hidden: tuple[PositiveInt, ...] = (128, 128)
    """Widths of the hidden layers of each transform's network."""

    def transform(self, latent: int) -> LazyTransform | None:
        """Affine autoregressive transforms, in alternating orders."""
        flow = flows.MAF(latent, transforms=self.transforms, hidden_features=self.hidden)
        return flow.transform
