"""Measuring trained models: classifiers, coherence, likelihoods, sampler diagnostics."""

from mvflow.evaluation.autoencoders import Autoencoders, autoencoders_for, train_autoencoders
from mvflow.evaluation.classifiers import Classifiers, classifiers_for, train_classifiers
from mvflow.evaluation.diagnose import diagnose
from mvflow.evaluation.evaluate import evaluate
from mvflow.evaluation.generation import FeatureNetwork, direction

__all__ = [
    "Autoencoders",
    "Classifiers",
    "FeatureNetwork",
    "autoencoders_for",
    "classifiers_for",
    "diagnose",
    "direction",
    "evaluate",
    "train_autoencoders",
    "train_classifiers",
]
