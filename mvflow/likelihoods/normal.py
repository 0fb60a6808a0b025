"""Gaussian likelihood with a fixed scale."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch.distributions as td
from pydantic import PositiveFloat
from torch import Tensor

from mvflow.likelihoods.base import Likelihood, Shape, independent

__all__ = ["Normal"]


class Normal(Likelihood):
    """Normal distribution around the decoder's output.

    Examples:
        >>> import torch
        >>> Normal(scale=2.0).distribution(torch.zeros(1, 3), (3,), {}).stddev
        tensor([[2., 2., 2.]])
    """

    scale: PositiveFloat = 1.0
    """Standard deviation, in units of the data."""

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """N(raw, scale^2)."""
        return independent(td.Normal(raw, self.scale, validate_args=False), shape)

    def log_prob(
        self, raw: Tensor, x: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> Tensor:
        """Log density per row; constants are added to each row, not to each value."""
        square = (x - raw).square().sum(tuple(range(-len(shape), 0)))
        constant = math.log(self.scale) + 0.5 * math.log(2 * math.pi)
        return -square / (2 * self.scale**2) - math.prod(shape) * constant
