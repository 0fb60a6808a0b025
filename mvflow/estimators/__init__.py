"""NumPy-facing objects: `JNF`, `JNFShared`."""

from mvflow.estimators.base import Estimator, LatentDraws
from mvflow.estimators.jnf import CLASSES, JNF, JNFShared, load

__all__ = ["CLASSES", "JNF", "Estimator", "JNFShared", "LatentDraws", "load"]
