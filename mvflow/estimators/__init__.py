"""NumPy-facing objects: fit, sample, generate, score, save."""

from mvflow.estimators.estimator import Estimator, LatentDraws
from mvflow.estimators.faces import estimator_class, load
from mvflow.estimators.fitting import check_fits

__all__ = [
    "Estimator",
    "LatentDraws",
    "check_fits",
    "estimator_class",
    "load",
]
