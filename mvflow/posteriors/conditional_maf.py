"""Masked autoregressive flows whose transforms depend on x."""

from __future__ import annotations

from pydantic import PositiveInt
from zuko import flows
from zuko.lazy import LazyTransform

from mvflow.posteriors.base import Count, Family

__all__ = ["ConditionalMAF"]


class ConditionalMAF(Family):
    """Masked autoregressive flow whose transforms see features of x, too.

    Reference: Papamakarios et al., Masked Autoregressive Flow for Density Estimation (2017),
    https://arxiv.org/abs/1705.07057.

    Examples:
        >>> ConditionalMAF(context=8).context_features
        8
    """

    transforms: Count = 2
    """Number of autoregressive transforms."""
    hidden: tuple[PositiveInt, ...] = (128, 128)
    """Widths of the hidden layers of each transform's network."""
    context: PositiveInt = 16
    """Number of features of x that condition the transforms."""

    @property
    def context_features(self) -> int:
        """The setting `context`."""
        return self.context

    def transform(self, latent: int) -> LazyTransform | None:
        """Affine autoregressive transforms, in alternating orders."""
        flow = flows.MAF(
            latent, self.context, transforms=self.transforms, hidden_features=self.hidden
        )
        return flow.transform
