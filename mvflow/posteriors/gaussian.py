"""Diagonal Gaussian posteriors."""

from __future__ import annotations

from zuko.lazy import LazyTransform

from mvflow.posteriors.base import Family

__all__ = ["Gaussian"]


class Gaussian(Family):
    """A diagonal Gaussian without any transform.

    Examples:
        >>> Gaussian().transform(2) is None
        True
    """

    def transform(self, latent: int) -> LazyTransform | None:
        """None."""
        return None
