"""Samplers over batches of chains, on any array library: HMC, and the contract for others."""

from mvflow.samplers.adaptation import (
    DualAveraging,
    dual_averaging_init,
    dual_averaging_update,
)
from mvflow.samplers.base import (
    Info,
    NumpyRandom,
    Random,
    SamplingAlgorithm,
    State,
    ValueAndGrad,
)
from mvflow.samplers.chains import Chains, run
from mvflow.samplers.hmc import HMC, AdaptiveHMCState, HMCInfo, HMCState, Noise
from mvflow.samplers.integrators import PhasePoint, leapfrog, safe_gradient

__all__ = [
    "HMC",
    "AdaptiveHMCState",
    "Chains",
    "DualAveraging",
    "HMCInfo",
    "HMCState",
    "Info",
    "Noise",
    "NumpyRandom",
    "PhasePoint",
    "Random",
    "SamplingAlgorithm",
    "State",
    "ValueAndGrad",
    "dual_averaging_init",
    "dual_averaging_update",
    "leapfrog",
    "run",
    "safe_gradient",
]
