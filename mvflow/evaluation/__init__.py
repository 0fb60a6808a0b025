"""Measuring trained models: classifiers, coherence, likelihoods, sampler diagnostics."""

from mvflow.evaluation.classifiers import Classifiers, classifiers_for, train_classifiers
from mvflow.evaluation.diagnose import diagnose
from mvflow.evaluation.evaluate import direction, evaluate

__all__ = [
    "Classifiers",
    "classifiers_for",
    "diagnose",
    "direction",
    "evaluate",
    "train_classifiers",
]
