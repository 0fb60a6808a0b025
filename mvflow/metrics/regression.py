"""Errors of predicted numbers: R², squared errors, correlations, deviances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "correlation",
    "poisson_deviance",
    "r_squared",
    "r_squared_terms",
    "rmse",
    "rmse_terms",
]

Floats = NDArray[np.float64]


def r_squared(true: ArrayLike, predicted: ArrayLike) -> Floats:
    """1 - squared error / variance of each column; NaN where a column does not vary.

    Args:
        true: values (rows, columns).
        predicted: the same.

    Examples:
        >>> r_squared([[0.0, 1.0], [2.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]])
        array([0.5, nan])
    """
    y, error = _squared(true, predicted)
    spread = _spread(y)
    varies = spread.sum(0) > 0
    share = error.sum(0) / np.where(varies, spread.sum(0), 1.0)
    return np.where(varies, 1 - share, np.nan)


def r_squared_terms(true: ArrayLike, predicted: ArrayLike) -> Floats:
    """Numbers (rows,) whose mean is the mean R² over columns, with its standard error.

    They are linear in the error and the spread of each row (delta method), so that the
    difference of two predictors has an error too. Columns that do not vary are left out.

    Examples:
        >>> r_squared_terms([[0.0], [2.0]], [[0.0], [1.0]]).mean()
        np.float64(0.5)
    """
    y, error = _squared(true, predicted)
    spread = _spread(y)
    varies = spread.sum(0) > 0
    if not varies.any():
        return np.full(len(y), np.nan)
    error, spread = error[:, varies], spread[:, varies]
    share = error.sum(0) / spread.sum(0)
    influence = ((share * spread - error) / spread.mean(0)).mean(1)
    return np.asarray(1 - share.mean() + influence)


def rmse(true: ArrayLike, predicted: ArrayLike) -> Floats:
    """Root of the mean squared error of each column.

    Examples:
        >>> rmse([[0.0], [2.0]], [[3.0], [2.0]]).round(4)
        array([2.1213])
    """
    return np.asarray(np.sqrt(_squared(true, predicted)[1].mean(0)))


def rmse_terms(true: ArrayLike, predicted: ArrayLike) -> Floats:
    """Numbers (rows,) whose mean is the mean over columns of `rmse`, with its standard error.

    Examples:
        >>> rmse_terms([[0.0], [2.0]], [[3.0], [2.0]]).mean().round(4)
        np.float64(2.1213)
    """
    error = _squared(true, predicted)[1]
    root = np.sqrt(error.mean(0))
    influence = (error - root**2) / (2 * np.where(root > 0, root, 1.0))
    return np.asarray((root + influence).mean(1))


def correlation(true: ArrayLike, predicted: ArrayLike) -> Floats:
    """Pearson correlation of each column; NaN where either does not vary.

    Examples:
        >>> correlation([[0.0], [1.0], [2.0]], [[5.0], [4.0], [3.0]]).round(9)
        array([-1.])
    """
    y, p = (np.asarray(x, np.float64) for x in (true, predicted))
    y, p = (np.where(np.ptp(x, axis=0) > 0, x - x.mean(0), 0.0) for x in (y, p))
    scale = np.sqrt((y**2).sum(0) * (p**2).sum(0))
    return np.where(scale > 0, (y * p).sum(0) / np.where(scale > 0, scale, 1.0), np.nan)


def poisson_deviance(true: ArrayLike, predicted: ArrayLike) -> Floats:
    """2 (y log(y / m) - y + m) of each count y with the predicted mean m, of the shape of both.

    Args:
        true: counts.
        predicted: positive means.

    Examples:
        >>> poisson_deviance([0.0, 3.0], [1.0, 3.0])
        array([2., 0.])
    """
    y, m = (np.asarray(x, np.float64) for x in (true, predicted))
    ratio = np.log(np.where(y > 0, y, 1.0) / np.where(y > 0, m, 1.0))
    return np.asarray(2 * (y * ratio - y + m))


def _squared(true: ArrayLike, predicted: ArrayLike) -> tuple[Floats, Floats]:
    y, p = (np.asarray(x, np.float64) for x in (true, predicted))
    return y, (y - p) ** 2


def _spread(y: Floats) -> Floats:
    """Squared distance from the mean of each column; 0 where only rounding tells values apart."""
    spread: NDArray[Any] = (y - y.mean(0)) ** 2
    return np.where(np.ptp(y, axis=0) > 1e-12 * np.abs(y).max(0, initial=0), spread, 0.0)
