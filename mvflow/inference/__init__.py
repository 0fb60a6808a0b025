"""Unnormalised posteriors, products of experts, and the samplers that draw from them."""

from mvflow.inference.chains import IndependentChains, MarkovChains, TorchRandom
from mvflow.inference.diagnostics import Diagnostics, pareto_k
from mvflow.inference.draws import draw
from mvflow.inference.finite import finite_draws, refuse
from mvflow.inference.gaussian import PartlyProperProduct, normal_moments, product_of
from mvflow.inference.hmc import ChainSampler, HMCSampler
from mvflow.inference.product import (
    AggregateDivisor,
    Divisor,
    PriorDivisor,
    ProductOfExperts,
    into_ball,
)
from mvflow.inference.sir import SIR
from mvflow.inference.target import Draws, DrawsWithDensity, Guidable, Sampler, Target

__all__ = [
    "SIR",
    "AggregateDivisor",
    "ChainSampler",
    "Diagnostics",
    "Divisor",
    "Draws",
    "DrawsWithDensity",
    "Guidable",
    "HMCSampler",
    "IndependentChains",
    "MarkovChains",
    "PartlyProperProduct",
    "PriorDivisor",
    "ProductOfExperts",
    "Sampler",
    "Target",
    "TorchRandom",
    "draw",
    "finite_draws",
    "into_ball",
    "normal_moments",
    "pareto_k",
    "product_of",
    "refuse",
]
