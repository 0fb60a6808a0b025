"""How well modalities are predicted from others: typed values, beside those of baselines."""

from __future__ import annotations

from typing import Literal

from mvflow.evaluation.values import Values
from mvflow.metrics import Estimate

__all__ = [
    "ColumnScore",
    "Interval",
    "KindScores",
    "Prediction",
    "PredictionMeans",
    "Scores",
    "measure_of_kind",
]


class Interval(Values):
    """Central prediction intervals of one level; of classes, sets that hold so much probability.

    Args:
        coverage: share of true values inside.
        width: mean over columns, in standard deviations of the column; of classes, their number.
        calibrated_coverage: the same of intervals that were widened on other held-out rows (split
            conformal); None for baselines, and where rows are too few for this level.
        calibrated_width: of those.
    """

    coverage: Estimate
    width: float
    calibrated_coverage: Estimate | None = None
    calibrated_width: float | None = None


class Scores(Values):
    """How well one predictor does on test rows; None is what a kind of values does not have.

    Args:
        r2: 1 - squared error / variance, mean over the columns that vary; columns of classes
            without order have none.
        r2_median: over columns.
        r2_worst: of all columns.
        rmse: root of the mean squared error, mean over columns, in the units of the file.
        correlation: of predicted and true values, median over columns.
        correlation_worst: of all columns.
        deviance: Poisson deviance per value, of counts.
        accuracy: share of rows whose most probable class is right.
        log_loss: minus the log probability of the right class, in nats.
        calibration_error: mean difference of probability and accuracy, over ten bins.
        log_score: log density or probability of the true values, in nats per row and in the units
            of the file; higher is better.
        crps: continuous ranked probability score, mean over columns, in the units of the file.
        intervals: level -> interval.
    """

    r2: Estimate | None = None
    r2_median: float | None = None
    r2_worst: float | None = None
    rmse: Estimate | None = None
    correlation: float | None = None
    correlation_worst: float | None = None
    deviance: Estimate | None = None
    accuracy: Estimate | None = None
    log_loss: Estimate | None = None
    calibration_error: float | None = None
    log_score: Estimate | None = None
    crps: Estimate | None = None
    intervals: dict[float, Interval] = {}


class ColumnScore(Values):
    """How well the model predicts one column, in the units of the file.

    Args:
        name: as the file has it, or its number.
        r2: NaN where the column does not vary.
        rmse: root of the mean squared error.
        correlation: of predicted and true values.
        coverage: share of true values in 90 % intervals.
        width: mean width of those.
        calibrated_coverage: the same of calibrated intervals.
        calibrated_width: the same of calibrated intervals.
        baselines: baseline -> its r2.
    """

    name: str
    r2: float
    rmse: float
    correlation: float
    coverage: float
    width: float
    calibrated_coverage: float | None = None
    calibrated_width: float | None = None
    baselines: dict[str, float] = {}


class KindScores(Values):
    """Scores of the columns of one kind in a table.

    Numbers have R² and errors, counts the deviance too; yes or no, classes and grades have
    accuracy, log loss and calibration error, and of these all but classes R² of the expected
    value.

    Args:
        columns: how many there are.
        model: scores of the model.
        baselines: those of predictors fitted on training rows.
    """

    columns: int
    model: Scores
    baselines: dict[str, Scores]


def measure_of_kind(kind: str) -> Literal["r2", "accuracy"]:
    """By which columns of a kind are compared.

    Examples:
        >>> measure_of_kind("counts"), measure_of_kind("grades")
        ('r2', 'accuracy')
    """
    return "r2" if kind in ("numbers", "counts") else "accuracy"


class Prediction(Values):
    """One modality predicted from others on test rows, in the units of the file.

    Args:
        given: observed modalities.
        target: predicted modality.
        kind: of its values.
        rows: of the test split.
        draws: of the predictive distribution per row.
        width: number of columns, or of classes.
        model: scores of the model.
        baselines: "ridge", "neighbours" and "constant" -> scores of predictors that were fitted
            on training rows.
        baseline_rows: number of those.
        components: principal components that they saw in place of their inputs; 0: none.
        measure: "r2", "deviance" or "accuracy": by which predictors are compared.
        differences: baseline -> by how much the model is better, on the same rows.
        winner: "model", a baseline, or "tied" where noise does not tell.
        sentence: who predicts best.
        columns: the worst first, at most a hundred; none of classes.
        by_kind: "numbers", "counts", "yes or no", "classes" or "grades" -> scores of these
            columns, where a table has others than numbers or counts alone.
    """

    given: list[str]
    target: str
    kind: Literal["numbers", "counts", "classes"]
    rows: int
    draws: int
    width: int
    model: Scores
    baselines: dict[str, Scores]
    baseline_rows: int
    measure: Literal["r2", "deviance", "accuracy"]
    differences: dict[str, Estimate]
    winner: str
    sentence: str
    columns: list[ColumnScore] = []
    by_kind: dict[str, KindScores] = {}
    components: int = 0


class PredictionMeans(Values):
    """Means over the directions with one number of observed modalities.

    Args:
        directions: how many there are.
        r2: "model" or baseline -> mean over directions to numbers and counts.
        accuracy: the same over directions to classes.
        coverage: level -> share of true values in intervals of the model.
        calibrated_coverage: the same of calibrated intervals.
        wins: "model", baseline or "tied" -> number of directions.
        by_kind: kind of column -> "model" or baseline -> mean R² (of numbers, counts) or accuracy
            over directions to tables with several kinds.
    """

    directions: int
    r2: dict[str, Estimate] = {}
    accuracy: dict[str, Estimate] = {}
    coverage: dict[float, Estimate] = {}
    calibrated_coverage: dict[float, Estimate] = {}
    wins: dict[str, int] = {}
    by_kind: dict[str, dict[str, Estimate]] = {}
