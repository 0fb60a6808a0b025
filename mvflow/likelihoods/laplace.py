"""Laplace likelihood with a fixed scale."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch.distributions as td
from pydantic import PositiveFloat
from torch import Tensor

from mvflow.likelihoods.base import Likelihood, Shape, independent

__all__ = ["Laplace"]


class Laplace(Likelihood):
    """Laplace distribution around the decoder's output.

    Examples:
        >>> import torch
        >>> x = torch.zeros(1, 2)
        >>> Laplace(scale=0.5).distribution(x, (2,), {}).log_prob(x)
        tensor([0.])
    """

    scale: PositiveFloat = 1.0
    """Diversity b (mean absolute deviation), in units of the data."""

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """Laplace(raw, scale)."""
        return independent(td.Laplace(raw, self.scale, validate_args=False), shape)

    def log_prob(
        self, raw: Tensor, x: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> Tensor:
        """Log density per row; constants are added to each row, not to each value."""
        distance = (x - raw).abs().sum(tuple(range(-len(shape), 0)))
        return -distance / self.scale - math.prod(shape) * math.log(2 * self.scale)
