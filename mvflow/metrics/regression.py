"""Errors of predicted numbers: R², squared errors, correlations, deviances.

True values may be NaN where they are not known: each column is then measured on its own rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "correlation",
    "mean_over_columns",
    "poisson_deviance",
    "r_squared",
    "r_squared_terms",
    "rmse",
    "rmse_terms",
]

Floats = NDArray[np.float64]


def mean_over_columns(values: ArrayLike) -> Floats:
    """Numbers (rows,) whose mean is the mean over columns of the mean of each, with its error.

    Without NaN these are the means of the rows. A column with NaN has the mean of what is known;
    columns of which nothing is known are left out.

    Args:
        values: (rows, columns), NaN where they are not known.

    Examples:
        >>> mean_over_columns([[1.0, 5.0], [3.0, np.nan]]).mean()
        np.float64(3.5)
    """
    x = np.asarray(values, np.float64)
    kept = np.isfinite(x).any(0)
    return np.asarray(_completed(x if kept.all() else x[:, kept]).mean(1))


def _completed(x: Floats) -> Floats:
    """Numbers of all rows with the same mean of each column, and the same error of it.

    A known one stands for all rows that its column lacks, about the mean (delta method).
    """
    known = np.isfinite(x)
    if known.all():
        return x
    share = known.mean(0)
    weight = np.where(share > 0, share, 1.0)
    mean = np.where(known, x, 0.0).mean(0) / weight
    return np.where(known, mean + (np.where(known, x, 0.0) - mean) / weight, mean)


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
    y, error = _squared(true, predicted)
    kept = np.isfinite(y).any(0)
    error = error if kept.all() else error[:, kept]
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
    known = np.isfinite(y)
    if not known.all():
        y, p = (np.where(known, x, _known_mean(x, known)) for x in (y, p))
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
    return y, _completed((y - p) ** 2)


def _known_mean(x: Floats, known: NDArray[np.bool_]) -> Floats:
    """Mean of what is known of each column; 0 where nothing is."""
    return np.asarray(np.where(known, x, 0.0).sum(0) / np.maximum(known.sum(0), 1))


def _spread(y: Floats) -> Floats:
    """Squared distance from the mean of each column; 0 where only rounding tells values apart."""
    known = np.isfinite(y)
    if not known.all():
        mean = _known_mean(y, known)
        filled = np.where(known, y, mean)
        varies = np.ptp(filled, axis=0) > 1e-12 * np.abs(filled).max(0, initial=0)
        return np.where(varies, _completed((y - mean) ** 2), 0.0)
    spread: NDArray[Any] = (y - y.mean(0)) ** 2
    return np.where(np.ptp(y, axis=0) > 1e-12 * np.abs(y).max(0, initial=0), spread, 0.0)
