"""Posteriors of any subset of modalities, bound to a sampler."""

from mvflow.inference.chains import PAPER, IndependentChains, MarkovChains, TorchRandom
from mvflow.inference.diagnostics import Diagnostics
from mvflow.inference.posterior import Model, build_sampler, draw, subset_posterior
from mvflow.inference.product import (
    Aggregate,
    Draws,
    Prior,
    ProductOfExperts,
    ProductSampler,
    into_ball,
)
from mvflow.inference.sir import SIR

__all__ = [
    "PAPER",
    "SIR",
    "Aggregate",
    "Diagnostics",
    "Draws",
    "IndependentChains",
    "MarkovChains",
    "Model",
    "Prior",
    "ProductOfExperts",
    "ProductSampler",
    "TorchRandom",
    "build_sampler",
    "draw",
    "into_ball",
    "subset_posterior",
]
