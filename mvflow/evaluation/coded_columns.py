"""Scores of columns that hold classes: yes or no, classes without order, grades."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.evaluation.predictions import Scores
from mvflow.metrics import calibration_error, log_losses, mean_and_error, mean_over_columns

__all__ = ["class_hits", "class_scores"]

Floats = NDArray[np.float64]


def class_hits(true: Floats, classes: Mapping[int, Floats]) -> Floats:
    """Numbers (rows,) whose mean is the accuracy, mean over columns.

    Args:
        true: class numbers (rows, columns), NaN where they are not known or of another kind.
        classes: column -> probabilities of its classes (rows, classes).

    Examples:
        >>> class_hits(np.array([[1.0, 7.5], [0.0, 2.5]]), {0: np.array([[0.1, 0.9]] * 2)})
        array([1., 0.])
    """
    hits = np.full(true.shape, np.nan)
    for i, labels, shares, known in _columns(true, classes):
        hits[known, i] = shares.argmax(1) == labels
    return mean_over_columns(hits)


def class_scores(
    true: Floats, classes: Mapping[int, Floats], clusters: NDArray[np.int64]
) -> Scores:
    """Accuracy, log loss and calibration error, means over columns (see `class_hits`)."""
    losses, gaps = np.full(true.shape, np.nan), []
    for i, labels, shares, known in _columns(true, classes):
        losses[known, i] = log_losses(labels, shares)
        gaps.append(calibration_error(labels, shares))
    return Scores(
        accuracy=mean_and_error(class_hits(true, classes), clusters),
        log_loss=mean_and_error(mean_over_columns(losses), clusters),
        calibration_error=float(np.mean(gaps)),
    )


def _columns(true: Floats, classes: Mapping[int, Floats]) -> list[tuple[int, Any, Floats, Any]]:
    """Number, class numbers, probabilities and places of what is known of each column."""
    places = {i: np.flatnonzero(np.isfinite(true[:, i])) for i in classes}
    return [
        (i, true[known, i].astype(np.int64), classes[i][known], known)
        for i, known in places.items()
        if len(known)
    ]
