"""Laplace likelihood with a fixed scale, or a learned one for each column."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch.distributions as td
from torch import Tensor

from mvflow.likelihoods.base import Shape, independent
from mvflow.likelihoods.scales import Scale, ScaledLikelihood

__all__ = ["Laplace"]


class Laplace(ScaledLikelihood):
    """Laplace distribution around the decoder's output.

    Examples:
        >>> import torch
        >>> x = torch.zeros(1, 2)
        >>> Laplace(scale=0.5).distribution(x, (2,), {}).log_prob(x)
        tensor([0.])
    """

    scale: Scale = 1.0
    """Diversity b (mean absolute deviation) in units of the data, or "learned" for each column."""

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """Laplace(raw, scale)."""
        return independent(td.Laplace(raw, self.scale_of(learned), validate_args=False), shape)

    def log_prob(
        self, raw: Tensor, x: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> Tensor:
        """Log density per row; constants of a fixed scale are added to rows, not to values."""
        if self.scale == "learned":
            return super().log_prob(raw, x, shape, learned)
        distance = (x - raw).abs().sum(tuple(range(-len(shape), 0)))
        return -distance / self.scale - math.prod(shape) * math.log(2 * self.scale)
