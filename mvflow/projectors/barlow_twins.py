"""Projectors that agree between modalities and do not repeat themselves (Barlow Twins)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

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

    def loss(self, projections: Mapping[str, Tensor]) -> Tensor:
        """Sum over pairs, in float32 or more."""
        ordered = [upcast_to_float32(projections[name]) for name in sorted(projections)]
        with torch.autocast(ordered[0].device.type, enabled=False):
            standardised = [_standardised(x) for x in ordered]
            return torch.stack([self._of_pair(*p) for p in combinations(standardised, 2)]).sum()

    def _of_pair(self, a: Tensor, b: Tensor) -> Tensor:
        correlations = a.T @ b / len(a)
        same = correlations.diagonal()
        others = correlations.square().sum() - same.square().sum()
        return (1 - same).square().sum() + self.redundancy_weight * others


def _standardised(x: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1; a constant column is 0, with finite gradients."""
    x = x - x.mean(0)
    variance = x.square().mean(0)
    return x / torch.where(variance > 0, variance, 1.0).sqrt()
