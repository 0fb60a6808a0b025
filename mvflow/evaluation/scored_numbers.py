"""Scores of predicted numbers and counts, in the units of their file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from mvflow.evaluation.baselines import Baseline
from mvflow.evaluation.coded_columns import class_hits, class_scores
from mvflow.evaluation.predictions import ColumnScore, Interval, Scores
from mvflow.evaluation.predictive import LEVELS, Predictive, Table, halves
from mvflow.metrics import (
    Estimate,
    conformal_quantile,
    correlation,
    crps_of_normal,
    interval_scores,
    mean_and_error,
    mean_over_columns,
    poisson_deviance,
    r_squared,
    r_squared_terms,
    rmse,
    rmse_terms,
)

__all__ = ["ScoredNumbers"]

SHOWN = 0.9
"""Level of the intervals that are reported by column."""
MAX_COLUMNS = 100
"""Columns that are reported by name, the worst first."""

Floats = NDArray[np.float64]


class ScoredNumbers:
    """Scores of predicted numbers or counts; true ones may be NaN where they are not known.

    Columns of classes without order have no R², no error and no intervals; of a table that has
    no others the accuracy counts.
    """

    def __init__(self, table: Table, true: NDArray[Any], clusters: NDArray[np.int64]) -> None:
        self.table, self.clusters = table, clusters
        self.values = self.stored = np.asarray(true, np.float64)
        ordered = np.array([column.is_ordered for column in table.columns])
        self.has_numbers = bool(ordered.any())
        if not ordered.all():  # codes of classes are no numbers
            self.stored = np.where(ordered, self.stored, np.nan)
        self.true = self._restored(self.stored)
        self.known = np.isfinite(self.stored)
        spread = self.true.std(0) if self.known.all() else _known_deviation(self.true)
        self.varies = spread > 0
        self.spread = np.where(self.varies, spread, 1.0)
        self.measure: Literal["r2", "deviance", "accuracy"] = "r2" if ordered.any() else "accuracy"
        if table.kind == "counts":
            self.measure = "deviance"

    def _restored(self, values: Floats) -> Floats:
        return np.asarray(self.table.units.restore(values), np.float64)

    def _estimate(self, values: Floats) -> Estimate:
        return mean_and_error(values, self.clusters)

    def terms(self, found: Predictive | Baseline) -> Floats:
        """Numbers (rows,) whose mean the predictors are compared by; higher is better."""
        if self.measure == "accuracy":
            return class_hits(self.values, found.classes)
        predicted = self._restored(found.mean)
        if self.measure == "deviance":
            return -self._deviances(predicted)
        return r_squared_terms(self.true, predicted)

    def _deviances(self, predicted: Floats) -> Floats:
        return mean_over_columns(poisson_deviance(self.true, np.maximum(predicted, 1e-6)))

    def model(
        self, found: Predictive, baselines: Mapping[str, Baseline]
    ) -> tuple[Scores, list[ColumnScore], Floats]:
        """Scores of the model, of its columns, and margins of its intervals (see `score`)."""
        assert found.ends is not None
        assert found.crps is not None
        scores = interval_scores(self.values, found.ends[:, 0], found.ends[:, 1])
        margins = np.stack(
            [conformal_quantile(of, level) for of, level in zip(scores, LEVELS, strict=True)]
        )
        if not self.has_numbers:
            own = class_scores(self.values, found.classes, self.clusters)
            of_rows = self._estimate(found.log_density)
            return own.model_copy(update={"log_score": of_rows}), [], margins
        raw, calibrated = self._inside(found.ends), self._calibrated(found.ends, scores)
        intervals = {
            level: Interval(
                coverage=self._estimate(mean_over_columns(raw[i][0])),
                width=self._mean_width(raw[i][1]),
                calibrated_coverage=self._estimate(mean_over_columns(of[0])) if of else None,
                calibrated_width=self._mean_width(of[1]) if of else None,
            )
            for i, (level, of) in enumerate(zip(LEVELS, calibrated, strict=True))
        }
        log_score = found.log_density - self._log_slope()
        crps = np.where(self.known, found.crps, np.nan)
        scored = self.scores(found.mean).model_copy(
            update={
                "crps": self._estimate(mean_over_columns(crps)),
                "log_score": self._estimate(log_score),
                "intervals": intervals,
            }
        )
        at = LEVELS.index(SHOWN)
        return scored, self._columns(found.mean, raw[at], calibrated[at], baselines), margins

    def _log_slope(self) -> Floats:
        """Sum over columns of the log derivative of the file's units by the stored, (rows,)."""
        step = 1e-4 * np.maximum(np.abs(self.stored), 1.0)
        rise = self._restored(self.stored + step) - self._restored(self.stored - step)
        slope = np.log(np.maximum(rise / (2 * step), 1e-300))
        return np.asarray(np.where(self.known, slope, 0.0).sum(1))

    def _inside(self, ends: Floats) -> list[tuple[Floats, Floats]]:
        """Whether each value lies in its interval (NaN: not known), and its width, by level."""
        out = []
        for low, high in self._possible(ends):
            inside = (self.stored >= low) & (self.stored <= high)
            told = np.where(self.known, inside.astype(np.float64), np.nan)
            out.append((told, self._restored(high) - self._restored(low)))
        return out

    def _possible(self, ends: Floats) -> Floats:
        """The intervals without values that the table cannot hold."""
        if not self.table.columns:
            return ends
        least, greatest = np.transpose([column.bounds for column in self.table.columns])
        return np.clip(ends, least, greatest)

    def _calibrated(self, ends: Floats, scores: Floats) -> list[tuple[Floats, Floats] | None]:
        """The same of intervals that the other half of the rows has widened, or nothing."""
        out: list[tuple[Floats, Floats] | None] = []
        for (low, high), of, level in zip(ends, scores, LEVELS, strict=True):
            wide = np.zeros_like(of)
            if len(np.unique(self.clusters)) < 2:
                out.append(None)
                continue
            for calibrating, measured in halves(self.clusters):
                wide[measured] = conformal_quantile(of[calibrating], level)
            out.append(
                self._inside(np.stack([low - wide, high + wide])[None])[0]
                if np.isfinite(wide).all()
                else None
            )
        return out

    def _mean_width(self, width: Floats) -> float:
        relative = (width.mean(0) / self.spread)[self.varies]
        return float(relative.mean()) if relative.size else 0.0

    def scores(self, mean: Floats) -> Scores:
        """Scores of predicted means."""
        predicted = self._restored(mean)
        of_columns = r_squared(self.true, predicted)[self.varies]
        together = correlation(self.true, predicted)[self.varies]
        known = together[np.isfinite(together)]
        terms = r_squared_terms(self.true, predicted)
        is_count = self.measure == "deviance"
        return Scores(
            r2=self._estimate(terms),
            r2_median=float(np.median(of_columns)) if of_columns.size else None,
            r2_worst=float(of_columns.min()) if of_columns.size else None,
            rmse=self._estimate(rmse_terms(self.true, predicted)),
            correlation=float(np.median(known)) if known.size else None,
            correlation_worst=float(known.min()) if known.size else None,
            deviance=self._estimate(self._deviances(predicted)) if is_count else None,
        )

    def baseline(self, found: Baseline) -> Scores:
        """Scores of a baseline, whose predictions are normal with the error of rows left out."""
        if not self.has_numbers:
            return class_scores(self.values, found.classes, self.clusters)
        assert found.deviation is not None
        deviation = np.maximum(found.deviation, 1e-12)
        ends = np.stack(
            [
                [found.mean + sign * norm.ppf((1 + level) / 2) * deviation for sign in (-1, 1)]
                for level in LEVELS
            ]
        )
        inside = self._inside(ends)
        # scale of the file's units where the predictions lie, in which errors are nearly normal
        step = deviation * 1e-3
        slope = (self._restored(found.mean + step) - self._restored(found.mean - step)) / (
            2 * step
        )
        density = norm.logpdf(self.stored, found.mean, deviation)
        density = np.where(self.known, density, 0.0).sum(1)
        crps = crps_of_normal(
            self.true, self._restored(found.mean), np.maximum(slope, 1e-12) * deviation
        )
        comparable = not self.table.coded  # a density of numbers beside probabilities is not
        log_score = self._estimate(density - self._log_slope()) if comparable else None
        return self.scores(found.mean).model_copy(
            update={
                "crps": self._estimate(mean_over_columns(crps)),
                "log_score": log_score,
                "intervals": {
                    level: Interval(
                        coverage=self._estimate(mean_over_columns(of[0])),
                        width=self._mean_width(of[1]),
                    )
                    for level, of in zip(LEVELS, inside, strict=True)
                },
            }
        )

    def _columns(
        self,
        mean: Floats,
        raw: tuple[Floats, Floats],
        calibrated: tuple[Floats, Floats] | None,
        baselines: Mapping[str, Baseline],
    ) -> list[ColumnScore]:
        predicted = self._restored(mean)
        r2, root = r_squared(self.true, predicted), rmse(self.true, predicted)
        together, names = correlation(self.true, predicted), self.table.column_names()
        others = {n: r_squared(self.true, self._restored(b.mean)) for n, b in baselines.items()}
        worst = np.argsort(np.where(np.isfinite(r2), r2, np.inf), kind="stable")[:MAX_COLUMNS]
        return [
            ColumnScore(
                name=names[i],
                r2=float(r2[i]),
                rmse=float(root[i]),
                correlation=float(together[i]),
                coverage=_known_mean(raw[0][:, i]),
                width=float(raw[1][:, i].mean()),
                calibrated_coverage=_known_mean(calibrated[0][:, i]) if calibrated else None,
                calibrated_width=float(calibrated[1][:, i].mean()) if calibrated else None,
                baselines={name: float(of[i]) for name, of in others.items()},
            )
            for i in worst
        ]


def _known_mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _known_deviation(values: Floats) -> Floats:
    """Standard deviation of what is known of each column; 0 where that is not two values."""
    columns = [column[np.isfinite(column)] for column in values.T]
    return np.array([of.std() if of.size > 1 else 0.0 for of in columns])
