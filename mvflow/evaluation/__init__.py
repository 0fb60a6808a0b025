"""Measuring trained models: classifiers, coherence, likelihoods, calibration."""

from mvflow.evaluation.autoencoders import ModalityAutoencoders
from mvflow.evaluation.calibration import check_calibration
from mvflow.evaluation.calibration_result import Calibration
from mvflow.evaluation.classifiers import ModalityClassifiers
from mvflow.evaluation.evaluate import evaluate
from mvflow.evaluation.features import FeatureNetwork
from mvflow.evaluation.inception import InceptionFeatures
from mvflow.evaluation.judges import read_autoencoders, read_classifiers
from mvflow.evaluation.parts import EvaluationPlan, PartStore
from mvflow.evaluation.predictions import Prediction, PredictionMeans
from mvflow.evaluation.result import Evaluation
from mvflow.evaluation.rows import direction

__all__ = [
    "Calibration",
    "Evaluation",
    "EvaluationPlan",
    "FeatureNetwork",
    "InceptionFeatures",
    "ModalityAutoencoders",
    "ModalityClassifiers",
    "PartStore",
    "Prediction",
    "PredictionMeans",
    "check_calibration",
    "direction",
    "evaluate",
    "read_autoencoders",
    "read_classifiers",
]
