"""Split conformal prediction: intervals with a promised coverage of new rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["conformal_quantile", "interval_scores"]


def interval_scores(true: ArrayLike, low: ArrayLike, high: ArrayLike) -> NDArray[Any]:
    """How far each value lies outside its interval, negative inside (Romano et al. 2019).

    Examples:
        >>> interval_scores([0.0, 5.0], [1.0, 1.0], [2.0, 9.0])
        array([ 1., -4.])
    """
    y = np.asarray(true)
    return np.asarray(np.maximum(np.asarray(low) - y, y - np.asarray(high)))


def conformal_quantile(scores: ArrayLike, level: float) -> NDArray[np.float64]:
    """Score that one of a new row does not exceed with at least this probability.

    The ceil((n + 1) level)-th smallest of n scores: whatever their distribution, if the rows are
    exchangeable, the probability lies between `level` and `level` + 1 / (n + 1).

    Args:
        scores: (rows, ...); NaN where one is not known.
        level: of (0, 1).

    Returns:
        Of the shape of one row; infinite where rows are too few for this level.

    Examples:
        >>> conformal_quantile(np.arange(9.0), 0.9), conformal_quantile(np.arange(8.0), 0.9)
        (array(8.), array(inf))
    """
    values = np.asarray(scores, np.float64)
    if np.isnan(values).any():
        flat = values.reshape(len(values), -1).T
        each = [conformal_quantile(of[np.isfinite(of)], level) for of in flat]
        return np.reshape(each, values.shape[1:])
    rank = math.ceil((len(values) + 1) * level - 1e-9)
    if rank > len(values):
        return np.full(values.shape[1:], np.inf)
    return np.asarray(np.partition(values, rank - 1, axis=0)[rank - 1])
