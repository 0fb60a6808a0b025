"""Scales of likelihoods: fixed, or learned for each column from what decoders leave over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from mvflow.likelihoods.base import Likelihood, Shape

__all__ = ["Scale", "ScaledLikelihood", "column_moments", "columns_of"]

Scale = PositiveFloat | Literal["learned"]
"""In units of the data, or "learned"."""

LOG_BOUND = 7.0
"""Learned scales stay within exp(-7)...exp(7) of the spread of their column."""


class ScaledLikelihood(Likelihood):
    """Base of kinds around a location: their scale is a setting, or a parameter of each column.

    A learned scale begins at the standard deviation of its column over the training rows. Rows
    that are vectors have one for each value; of rows of another shape, such as images, all
    values share one (Rybkin et al. 2021).
    """

    scale: Scale = 1.0

    def learned(self, shape: Shape) -> dict[str, Tensor]:
        """Log of each scale, less that of the column's spread."""
        return {"log_scale": torch.zeros(columns_of(shape))} if self.scale == "learned" else {}

    def measured(self, shape: Shape) -> dict[str, Tensor]:
        """Spread of each column."""
        return {"spread": torch.ones(columns_of(shape))} if self.scale == "learned" else {}

    def measure(self, blocks: Callable[[], Iterable[Tensor]], shape: Shape) -> dict[str, Tensor]:
        """Standard deviation of each column; 1 where it is constant."""
        if self.scale != "learned":
            return {}
        _, deviation = column_moments(blocks, columns_of(shape))
        return {"spread": torch.where(deviation > 0, deviation, 1.0)}

    def scale_of(self, learned: Mapping[str, Tensor]) -> Tensor | float:
        """The scale, a number or (columns,)."""
        if self.scale != "learned":
            return self.scale
        log_scale = LOG_BOUND * torch.tanh(learned["log_scale"] / LOG_BOUND)
        return learned["spread"] * log_scale.exp()


def column_moments(
    blocks: Callable[[], Iterable[Tensor]], columns: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column over all rows, in float64.

    Args:
        blocks: gives the rows, some at a time; called twice. NaN is left out.
        columns: (columns,) for rows that are vectors, else () for all values together.
    """
    total, count = torch.zeros(columns, dtype=torch.float64), torch.zeros(columns)
    for x in blocks():
        values = _by_column(x, columns)
        total = total + values.nansum(0)
        count = count + (~values.isnan()).sum(0)
    mean, square = total / count.clamp_min(1), torch.zeros_like(total)
    for x in blocks():
        square = square + (_by_column(x, columns) - mean).square().nansum(0)
    return mean, (square / count.clamp_min(1)).sqrt()


def _by_column(x: Tensor, columns: tuple[int, ...]) -> Tensor:
    x = x.detach().cpu().double()
    return x if columns else x.flatten()


def columns_of(shape: Shape) -> tuple[int, ...]:
    """(columns,) of rows that are vectors, () of others, whose values are one column."""
    return tuple(shape) if len(shape) == 1 else ()
