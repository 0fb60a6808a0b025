"""The contract of posterior families, and the posterior that is built of one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn
from zuko.lazy import LazyTransform

from mvflow.core.parts import Part
from mvflow.posteriors.flow import FlowPosterior

__all__ = ["Count", "Family", "build_posterior"]


Count = Annotated[int, Field(ge=1, le=1000)]
"""Number of transforms: each is built one by one, and a thousand take seconds already."""


class Family(Part):
    """Settings of a family of distributions q(z|x): a Gaussian, pushed through transforms."""

    group: ClassVar[str] = "posteriors"

    @property
    def context_features(self) -> int:
        """Number of features of x that condition the transforms; in the paper none."""
        return 0

    @abstractmethod
    def transform(self, latent: int) -> LazyTransform | None:
        """Flow from standardised z to the Gaussian, conditioned on `context_features`, or None.

        zuko's autoregressive transforms are made faster later: a family need not do it.

        Args:
            latent: dimension of z.
        """


def build_posterior(
    family: Family, latent: int, encoder: Callable[[int], nn.Module]
) -> FlowPosterior:
    """A posterior of a family over an encoder with as many outputs as it needs.

    Args:
        family: its settings.
        latent: dimension of z.
        encoder: number of output features -> network that takes the data.

    Examples:
        >>> import torch
        >>> from mvflow.posteriors import MAF
        >>> q = build_posterior(MAF(transforms=3), 2, lambda n: nn.Linear(3, n))
        >>> q(torch.zeros(5, 3)).sample().shape
        torch.Size([5, 2])
    """
    transform, context = family.transform(latent), family.context_features
    return FlowPosterior(encoder(2 * latent + context), latent, transform, context)
