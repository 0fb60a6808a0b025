"""Projectors by deep canonical correlation analysis (Appendix B.1)."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import PositiveFloat
from torch import Tensor

from mvflow.functional import total_correlation
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

    def loss(
        self, projections: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Minus `mvflow.functional.total_correlation` of each pair, in float64.

        Means and covariances of a pair are those of the rows that have both.
        """
        each = [
            total_correlation(a, b, self.ridge, here)
            for a, b, here in self.pairs(projections, present)
        ]
        return -sum(each[1:], start=each[0])
