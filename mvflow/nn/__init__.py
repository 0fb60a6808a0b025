"""Networks by kind of modality."""

from mvflow.nn.classifiers import build_classifier
from mvflow.nn.containers import ModalityDict
from mvflow.nn.networks import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    OneHot,
    Standardise,
    build_decoder,
    build_encoder,
    flat,
)
from mvflow.nn.random import seeded

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "ModalityDict",
    "OneHot",
    "Standardise",
    "build_classifier",
    "build_decoder",
    "build_encoder",
    "flat",
    "seeded",
]
