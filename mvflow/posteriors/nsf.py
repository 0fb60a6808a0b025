"""Autoregressive flows of rational-quadratic splines."""

from __future__ import annotations

from pydantic import PositiveInt
from zuko import flows
from zuko.lazy import LazyTransform

from mvflow.posteriors.base import Count, Family

__all__ = ["NSF"]


class NSF(Family):
    """Neural spline flow: monotonic splines on [-5, 5], whose shapes see features of x.

    Reference: Durkan et al., Neural Spline Flows (2019), https://arxiv.org/abs/1906.04032.

    Examples:
        >>> NSF(bins=4).transform(2) is None
        False
    """

    transforms: Count = 2
    """Number of autoregressive transforms."""
    hidden: tuple[PositiveInt, ...] = (128, 128)
    """Widths of the hidden layers of each transform's network."""
    bins: PositiveInt = 8
    """Number of bins of each spline."""
    context: PositiveInt = 16
    """Number of features of x that condition the transforms."""

    @property
    def context_features(self) -> int:
        """The setting `context`."""
        return self.context

    def transform(self, latent: int) -> LazyTransform | None:
        """Spline transforms, in alternating orders."""
        flow = flows.NSF(
            latent,
            self.context,
            bins=self.bins,
            transforms=self.transforms,
            hidden_features=self.hidden,
        )
        return flow.transform
