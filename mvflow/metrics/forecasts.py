"""Scores of predictive distributions, given as draws or as normal distributions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["central_intervals", "crps_of_draws", "crps_of_normal"]

Floats = NDArray[np.float64]


def crps_of_draws(true: ArrayLike, draws: ArrayLike) -> Floats:
    """Continuous ranked probability score of each value: E|X - y| - E|X - X'| / 2.

    The second mean is over pairs of different draws, so that few draws do not make it larger on
    average (Ferro 2014). Lower is better; of one certain draw it is the absolute error.

    Args:
        true: values of any shape.
        draws: (draws, *shape).

    Examples:
        >>> crps_of_draws([0.0], [[-1.0], [1.0]])
        array([0.])
    """
    x, y = np.sort(np.asarray(draws, np.float64), axis=0), np.asarray(true, np.float64)
    n = len(x)
    distance = np.abs(x - y).mean(0)
    if n == 1:
        return np.asarray(distance)
    weights = 2 * np.arange(1, n + 1) - n - 1
    return np.asarray(distance - np.tensordot(weights, x, 1) / (n * (n - 1)))


def crps_of_normal(true: ArrayLike, mean: ArrayLike, deviation: ArrayLike) -> Floats:
    """Continuous ranked probability score under normal distributions (Gneiting et al. 2005).

    Examples:
        >>> float(crps_of_normal(0.0, 0.0, 1.0).round(4))
        0.2337
    """
    from scipy.special import ndtr  # takes long to import

    y, m, sd = (np.asarray(x, np.float64) for x in (true, mean, deviation))
    z = (y - m) / sd
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.asarray(sd * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi)))


def central_intervals(draws: ArrayLike, levels: Sequence[float]) -> Floats:
    """Ends of the central intervals of each level, (levels, 2, *shape).

    Quantiles lie at p (n + 1) of the sorted draws: a new draw falls into the interval with
    exactly that probability, wherever the draws are enough for it.

    Args:
        draws: (draws, *shape).
        levels: shares of (0, 1).

    Examples:
        >>> central_intervals(np.arange(1.0, 20.0), [0.5, 0.9])
        array([[ 5., 15.],
               [ 1., 19.]])
    """
    tails = [[(1 - level) / 2, (1 + level) / 2] for level in levels]
    quantiles = np.quantile(np.asarray(draws), np.ravel(tails), axis=0, method="weibull")
    return np.asarray(quantiles.reshape(len(levels), 2, *quantiles.shape[1:]), np.float64)
