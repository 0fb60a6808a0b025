"""A Gaussian whose correlations are the same in all rows, and whose scales are not."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

__all__ = ["CorrelatedNormal"]


class CorrelatedNormal(Distribution):
    """N(loc, D F F' D) with D = diag(scale) of a row and one lower triangular F for all rows.

    Args:
        loc: (rows, dim).
        scale: (rows, dim), positive.
        factor: (dim, dim), lower triangular with a positive diagonal.

    Examples:
        >>> q = CorrelatedNormal(torch.zeros(5, 2), torch.ones(5, 2), torch.eye(2))
        >>> q.sample((3,)).shape, round(q.log_prob(torch.zeros(5, 2))[0].item(), 4)
        (torch.Size([3, 5, 2]), -1.8379)
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, factor: Tensor) -> None:
        self.loc, self.scale, self.factor = loc, scale, factor
        super().__init__(loc.shape[:1], loc.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Location."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """Of each dimension."""
        return self.scale.square() * self.factor.square().sum(-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws that gradients pass through."""
        shape = torch.Size((*sample_shape, *self.loc.shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * (noise @ self.factor.mT)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of each row."""
        unit = (value - self.loc) / self.scale
        white = torch.linalg.solve_triangular(self.factor.mT, unit, upper=True, left=False)
        size = self.scale.log().sum(-1) + self.factor.diagonal().log().sum()
        return -0.5 * white.square().sum(-1) - size - 0.5 * unit.shape[-1] * math.log(2 * math.pi)
