"""Errors of predicted class probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["calibration_error", "log_losses", "probability_ahead"]

SMALLEST = float(np.finfo(np.float64).tiny)


def log_losses(labels: ArrayLike, probabilities: ArrayLike) -> NDArray[np.float64]:
    """Minus the log probability of the right class of each row, in nats.

    Args:
        labels: (rows,).
        probabilities: (rows, classes).

    Examples:
        >>> log_losses([1], [[0.5, 0.5]]).round(4)
        array([0.6931])
    """
    p = np.asarray(probabilities, np.float64)
    right = p[np.arange(len(p)), np.asarray(labels)]
    return np.asarray(-np.log(np.maximum(right, SMALLEST)))


def calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """Mean difference of the largest probability and how often it is right (Guo et al. 2017).

    Args:
        labels: (rows,).
        probabilities: (rows, classes).
        bins: of equal width, in which probabilities are averaged.

    Examples:
        >>> round(calibration_error([0, 1], [[0.9, 0.1], [0.9, 0.1]]), 9)  # right in one of two
        0.4
    """
    p = np.asarray(probabilities, np.float64)
    confidence, right = p.max(1), p.argmax(1) == np.asarray(labels)
    at = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(at, right - confidence, bins)
    return float(np.abs(gaps).sum() / len(p))


def probability_ahead(probabilities: ArrayLike) -> NDArray[np.float64]:
    """Sum of the probabilities larger than that of each class, (rows, classes).

    The classes with less than a level ahead of them are the smallest set with that probability.

    Examples:
        >>> probability_ahead([[0.2, 0.5, 0.3]])
        array([[0.8, 0. , 0.5]])
    """
    p = np.asarray(probabilities, np.float64)
    order = np.argsort(-p, axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, 1)
    before = np.cumsum(ranked, 1) - ranked
    out = np.empty_like(p)
    np.put_along_axis(out, order, before, 1)
    return out
