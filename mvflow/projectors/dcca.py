"""Projectors by deep canonical correlation analysis (Appendix B.1)."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import PositiveFloat
from torch import Tensor

from mvflow.functional import pairwise_total_correlation
from mvflow.projectors.base import Objective

__all__ = ["DCCA"]


class DCCA(Objective):
    """Minus the total correlation, summed over all pairs of modalities (paper B.1).

    Examples:
        >>> import torch
        >>> z = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> DCCA(dim=2).loss({"a": z, "b": 3 * z}).round(decimals=3)
        tensor(-2., dtype=torch.float64)
    """

    ridge: PositiveFloat = 1e-4
    """Share of the mean variance that is added to each variance."""

    @property
    def min_rows(self) -> int:
        """Ten a dimension: in n rows, noise correlates by about sqrt(dim / n) in each."""
        return 10 * self.dim

    def loss(self, projections: Mapping[str, Tensor]) -> Tensor:
        """Minus `mvflow.functional.pairwise_total_correlation`, in float64."""
        ordered = [projections[name] for name in sorted(projections)]
        return -pairwise_total_correlation(ordered, self.ridge)
