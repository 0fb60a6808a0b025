"""Metrics with standard errors: means over dependent rows, predictions, moments and distances."""

from mvflow.metrics.calibrated import CalibratedIntervals
from mvflow.metrics.classification import calibration_error, log_losses, probability_ahead
from mvflow.metrics.conformal import conformal_quantile, interval_scores
from mvflow.metrics.estimates import (
    Distance,
    Estimate,
    Jackknife,
    mean_and_error,
    mean_of_means,
)
from mvflow.metrics.forecasts import central_intervals, crps_of_draws, crps_of_normal
from mvflow.metrics.frechet_limit import FrechetLimit, limit_sizes
from mvflow.metrics.moments import (
    FeatureRows,
    FrechetDistance,
    MeanAndCovariance,
    Moments,
    feature_blocks,
)
from mvflow.metrics.precision_recall import NEIGHBOURS, Manifold, precision_and_recall
from mvflow.metrics.regression import (
    correlation,
    mean_over_columns,
    poisson_deviance,
    r_squared,
    r_squared_terms,
    rmse,
    rmse_terms,
)

__all__ = [
    "NEIGHBOURS",
    "CalibratedIntervals",
    "Distance",
    "Estimate",
    "FeatureRows",
    "FrechetDistance",
    "FrechetLimit",
    "Jackknife",
    "Manifold",
    "MeanAndCovariance",
    "Moments",
    "calibration_error",
    "central_intervals",
    "conformal_quantile",
    "correlation",
    "crps_of_draws",
    "crps_of_normal",
    "feature_blocks",
    "interval_scores",
    "limit_sizes",
    "log_losses",
    "mean_and_error",
    "mean_of_means",
    "mean_over_columns",
    "poisson_deviance",
    "precision_and_recall",
    "probability_ahead",
    "r_squared",
    "r_squared_terms",
    "rmse",
    "rmse_terms",
]
