"""Metrics with standard errors: means over dependent rows, moments and distances in batches."""

from mvflow.metrics.estimates import (
    Distance,
    Estimate,
    Jackknife,
    mean_and_error,
    mean_of_means,
)
from mvflow.metrics.moments import FrechetDistance, MeanAndCovariance, Moments

__all__ = [
    "Distance",
    "Estimate",
    "FrechetDistance",
    "Jackknife",
    "MeanAndCovariance",
    "Moments",
    "mean_and_error",
    "mean_of_means",
]
