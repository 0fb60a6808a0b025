"""NumPy-facing objects: fit, sample, generate, score, save."""

from mvflow.estimators.classes import estimator_class, load
from mvflow.estimators.completing import completions
from mvflow.estimators.estimator import Estimator
from mvflow.estimators.fitting import check_fits, config_for
from mvflow.estimators.gaps import margins
from mvflow.estimators.generative import LatentDraws

__all__ = [
    "Estimator",
    "LatentDraws",
    "check_fits",
    "completions",
    "config_for",
    "estimator_class",
    "load",
    "margins",
]
