"""Projectors that agree between modalities and do not repeat themselves (Barlow Twins)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from mvflow.nn.precision import upcast_to_float32
from mvflow.projectors.base import Objective

__all__ = ["BarlowTwins"]


class BarlowTwins(Objective):
    r"""Distance of cross-correlations from the identity, summed over all pairs of modalities.

    With C_ik the correlation of feature i of one modality with feature k of the other, the loss
    of a pair is sum_i (1 - C_ii)^2 + `redundancy_weight` * sum_{i != k} C_ik^2. It needs neither
    negatives, as InfoNCE does, nor an inverse of covariances, as CCA does.

    Reference: Zbontar et al., Barlow Twins (2021), https://arxiv.org/abs/2103.03230.

    Examples:
        >>> z = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> loss = BarlowTwins(dim=2).loss
        >>> loss({"a": z, "b": 3 * z}), loss({"a": z, "b": -z})
        (tensor(0.), tensor(8.))
    """

    redundancy_weight: NonNegativeFloat = 0.005
    """Weight of correlations between different features."""

    @property
    def min_rows(self) -> int:
        """Three: any two rows correlate perfectly, or not at all."""
        return 3

    def loss(
        self, projections: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Sum over pairs, in float32 or more; correlations are over the rows that have both."""
        ordered = {name: upcast_to_float32(g) for name, g in projections.items()}
        with torch.autocast(next(iter(ordered.values())).device.type, enabled=False):
            if not present:
                ordered = {name: _standardised(x) for name, x in ordered.items()}
            return torch.stack([self._of_pair(*p) for p in self.pairs(ordered, present)]).sum()

    def _of_pair(self, a: Tensor, b: Tensor, here: Tensor | None) -> Tensor:
        count: Any = len(a)
        if here is not None:
            count = here.sum().clamp_min(1)
            a, b = _standardised(a, here), _standardised(b, here)
        correlations = a.T @ b / count
        same = correlations.diagonal()
        others = correlations.square().sum() - same.square().sum()
        return (1 - same).square().sum() + self.redundancy_weight * others


def _standardised(x: Tensor, here: Tensor | None = None) -> Tensor:
    """Columns with mean 0 and variance 1; a constant column is 0, with finite gradients.

    Where only some rows are there, the moments are theirs, and the others are 0.
    """
    if here is None:
        x = x - x.mean(0)
        variance = x.square().mean(0)
    else:
        count, wide = here.sum().clamp_min(1), here[:, None]
        x = torch.where(wide, x - torch.where(wide, x, 0.0).sum(0) / count, 0.0)
        variance = x.square().sum(0) / count
    return x / torch.where(variance > 0, variance, 1.0).sqrt()
