"""Ends of intervals within the values that a column can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Modality

__all__ = ["within_bounds"]


def within_bounds(
    modality: Modality, low: NDArray[Any], high: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both ends of intervals, none of them a value that the table cannot hold.

    Args:
        modality: its specification; what is no table of columns is left as it is.
        low: lower ends (..., columns), in stored units.
        high: upper ends.

    Examples:
        >>> counts = Modality("genes", (2,), "poisson")
        >>> low, high = within_bounds(counts, np.array([[-2.0, 1.0]]), np.array([[3.0, 9.0]]))
        >>> low.tolist(), high.tolist()
        ([[0.0, 1.0]], [[3.0, 9.0]])
    """
    if len(modality.shape) != 1:
        return low, high
    columns = modality.likelihood_part.columns(modality.shape)
    least, greatest = np.transpose([column.bounds for column in columns])
    return np.clip(low, least, greatest), np.clip(high, least, greatest)
