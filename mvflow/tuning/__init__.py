"""Choosing settings by what they impute of rows that were held out."""

from mvflow.tuning.search import Trial, alternatives, imputation_score, tune

__all__ = ["Trial", "alternatives", "imputation_score", "tune"]
