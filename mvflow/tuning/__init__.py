"""Choosing settings and priors by what they make of rows that were held out."""

from mvflow.tuning.priors import PriorScore, best_prior, score_priors
from mvflow.tuning.search import Trial, alternatives, imputation_scores, tune

__all__ = [
    "PriorScore",
    "Trial",
    "alternatives",
    "best_prior",
    "imputation_scores",
    "score_priors",
    "tune",
]
