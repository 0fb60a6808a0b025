"""Networks of modalities, one file a kind, and the layers that they are made of."""

from mvflow.nn.allocation import checked_allocation
from mvflow.nn.base import GivenNetwork, Network
from mvflow.nn.classifiers import build_classifier
from mvflow.nn.containers import ModalityDict
from mvflow.nn.conv import ConvDecoder, ConvEncoder, ConvNetwork
from mvflow.nn.covariates import (
    ConditionalNetwork,
    SummedNetwork,
    encode_rows,
    join_covariates,
    total_width,
)
from mvflow.nn.cuda_graphs import (
    WARM_UP,
    CapturedFunction,
    capture_stream,
    captured,
    concurrently,
)
from mvflow.nn.defaults import torch_defaults
from mvflow.nn.gaps import GapsEncoder, GapsNetwork, accepting_gaps
from mvflow.nn.gather import all_gather, sharded
from mvflow.nn.inception import InceptionV3
from mvflow.nn.inputs import MeasuredInputs, OneHot, Standardise, flat, flat_features
from mvflow.nn.layers import BatchNorm, Layer, LayersDecoder, LayersEncoder, LayersNetwork
from mvflow.nn.mlp import MLP, MLPNetwork
from mvflow.nn.precision import upcast_to_float32
from mvflow.nn.random import own_generator, passed_generator, seeded
from mvflow.nn.resnet import ResidualBlock, ResidualDecoder, ResidualEncoder, ResNetwork

__all__ = [
    "MLP",
    "WARM_UP",
    "BatchNorm",
    "CapturedFunction",
    "ConditionalNetwork",
    "ConvDecoder",
    "ConvEncoder",
    "ConvNetwork",
    "GapsEncoder",
    "GapsNetwork",
    "GivenNetwork",
    "InceptionV3",
    "Layer",
    "LayersDecoder",
    "LayersEncoder",
    "LayersNetwork",
    "MLPNetwork",
    "MeasuredInputs",
    "ModalityDict",
    "Network",
    "OneHot",
    "ResNetwork",
    "ResidualBlock",
    "ResidualDecoder",
    "ResidualEncoder",
    "Standardise",
    "SummedNetwork",
    "accepting_gaps",
    "all_gather",
    "build_classifier",
    "capture_stream",
    "captured",
    "checked_allocation",
    "concurrently",
    "encode_rows",
    "flat",
    "flat_features",
    "join_covariates",
    "own_generator",
    "passed_generator",
    "seeded",
    "sharded",
    "torch_defaults",
    "total_width",
    "upcast_to_float32",
]
