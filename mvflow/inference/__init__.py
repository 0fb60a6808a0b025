"""Posteriors of any subset of modalities, bound to a sampler."""

from mvflow.inference.diagnostics import Diagnostics
from mvflow.inference.posterior import Model, build_sampler, draw, subset_posterior
from mvflow.inference.product import Draws, ProductOfExperts, TorchRandom, into_ball

__all__ = [
    "Diagnostics",
    "Draws",
    "Model",
    "ProductOfExperts",
    "TorchRandom",
    "build_sampler",
    "draw",
    "into_ball",
    "subset_posterior",
]
