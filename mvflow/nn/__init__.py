"""Networks by kind of modality."""

from mvflow.nn.classifiers import build_classifier
from mvflow.nn.containers import ModalityDict
from mvflow.nn.layers import BatchNorm, LayersDecoder, LayersEncoder
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
from mvflow.nn.precision import widened
from mvflow.nn.random import seeded
from mvflow.nn.residual import ResidualBlock, ResidualDecoder, ResidualEncoder

__all__ = [
    "MLP",
    "BatchNorm",
    "ConvDecoder",
    "ConvEncoder",
    "LayersDecoder",
    "LayersEncoder",
    "ModalityDict",
    "OneHot",
    "ResidualBlock",
    "ResidualDecoder",
    "ResidualEncoder",
    "Standardise",
    "build_classifier",
    "build_decoder",
    "build_encoder",
    "flat",
    "seeded",
    "widened",
]
