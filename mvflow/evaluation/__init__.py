"""Measuring trained models: classifiers, coherence, likelihoods, sampler diagnostics."""

from mvflow.evaluation.classifiers import Classifiers, classifiers_for, train_classifiers
from mvflow.evaluation.evaluate import direction, evaluate

__all__ = ["Classifiers", "classifiers_for", "direction", "evaluate", "train_classifiers"]
