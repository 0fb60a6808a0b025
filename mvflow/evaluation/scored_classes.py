"""Scores of predicted class probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mvflow.evaluation.baselines import Baseline
from mvflow.evaluation.predictions import ColumnScore, Interval, Scores
from mvflow.evaluation.predictive import LEVELS, Predictive, Table, halves
from mvflow.metrics import (
    Estimate,
    calibration_error,
    conformal_quantile,
    log_losses,
    mean_and_error,
    probability_ahead,
)

__all__ = ["ScoredClasses"]

Floats = NDArray[np.float64]


class ScoredClasses:
    """Scores of predicted class probabilities."""

    measure: Literal["r2", "deviance", "accuracy"] = "accuracy"

    def __init__(self, table: Table, true: NDArray[Any], clusters: NDArray[np.int64]) -> None:
        self.table, self.clusters, self.true = table, clusters, np.asarray(true, np.int64)

    def _estimate(self, values: NDArray[Any]) -> Estimate:
        return mean_and_error(values, self.clusters)

    def terms(self, found: Predictive | Baseline) -> Floats:
        """Whether the most probable class is right, (rows,)."""
        return self._hits(found.mean)

    def _hits(self, mean: Floats) -> Floats:
        return (mean.argmax(1) == self.true).astype(np.float64)

    def model(
        self, found: Predictive, baselines: Mapping[str, Baseline]
    ) -> tuple[Scores, list[ColumnScore], Floats]:
        """Scores of the model, of its columns, and margins of its intervals (see `score`)."""
        ahead = probability_ahead(found.mean)
        own = ahead[np.arange(len(ahead)), self.true]
        intervals, margins = {}, []
        for level in LEVELS:
            margins.append([conformal_quantile(own, level)])
            limit = np.zeros(len(own))
            if len(np.unique(self.clusters)) > 1:
                for calibrating, measured in halves(self.clusters):
                    limit[measured] = conformal_quantile(own[calibrating], level)
            else:
                limit[:] = np.inf
            known = np.isfinite(limit).all()
            intervals[level] = self._sets(ahead, own, level).model_copy(
                update={
                    "calibrated_coverage": self._estimate(own <= limit) if known else None,
                    "calibrated_width": float((ahead <= limit[:, None]).sum(1).mean())
                    if known
                    else None,
                }
            )
        scores = self._scores(found.mean, intervals)
        log_score = self._estimate(found.log_density)
        return scores.model_copy(update={"log_score": log_score}), [], np.array(margins, float)

    def _sets(self, ahead: Floats, own: Floats, level: float) -> Interval:
        width = float((ahead < level).sum(1).mean())
        return Interval(coverage=self._estimate(own < level), width=width)

    def _scores(self, mean: Floats, intervals: Mapping[float, Interval]) -> Scores:
        losses = log_losses(self.true, mean)
        return Scores(
            accuracy=self._estimate(self._hits(mean)),
            log_loss=self._estimate(losses),
            calibration_error=calibration_error(self.true, mean),
            log_score=self._estimate(-losses),
            intervals=dict(intervals),
        )

    def baseline(self, found: Baseline) -> Scores:
        """Scores of a baseline."""
        ahead = probability_ahead(found.mean)
        own = ahead[np.arange(len(ahead)), self.true]
        return self._scores(found.mean, {level: self._sets(ahead, own, level) for level in LEVELS})
