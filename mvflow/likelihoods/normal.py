"""Gaussian likelihood with a fixed scale, or a learned one for each column."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch.distributions as td
from torch import Tensor

from mvflow.likelihoods.base import Shape, independent
from mvflow.likelihoods.scales import Scale, ScaledLikelihood

__all__ = ["Normal"]


class Normal(ScaledLikelihood):
    """Normal distribution around the decoder's output.

    Examples:
        >>> import torch
        >>> Normal(scale=2.0).distribution(torch.zeros(1, 3), (3,), {}).stddev
        tensor([[2., 2., 2.]])
    """

    scale: Scale = 1.0
    """Standard deviation in units of the data, or "learned" for each column."""

    def distribution(
        self, raw: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> td.Distribution:
        """N(raw, scale^2)."""
        return independent(td.Normal(raw, self.scale_of(learned), validate_args=False), shape)

    def log_prob(
        self, raw: Tensor, x: Tensor, shape: Shape, learned: Mapping[str, Tensor]
    ) -> Tensor:
        """Log density per row; constants of a fixed scale are added to rows, not to values."""
        if self.scale == "learned":
            return super().log_prob(raw, x, shape, learned)
        square = (x - raw).square().sum(tuple(range(-len(shape), 0)))
        constant = math.log(self.scale) + 0.5 * math.log(2 * math.pi)
        return -square / (2 * self.scale**2) - math.prod(shape) * constant
