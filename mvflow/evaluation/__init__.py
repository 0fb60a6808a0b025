"""Measuring trained models: classifiers, coherence, likelihoods, sampler diagnostics."""

from mvflow.evaluation.autoencoders import ModalityAutoencoders
from mvflow.evaluation.classifiers import ModalityClassifiers
from mvflow.evaluation.diagnose import diagnose
from mvflow.evaluation.evaluate import evaluate
from mvflow.evaluation.generation import FeatureNetwork, direction

__all__ = [
    "FeatureNetwork",
    "ModalityAutoencoders",
    "ModalityClassifiers",
    "diagnose",
    "direction",
    "evaluate",
]
