"""Hamiltonian Monte Carlo over a target: the default sampler."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from mvflow.inference.chains import IndependentChains, MarkovChains
from mvflow.inference.target import Draws, Sampler, Target
from mvflow.samplers import HMC, SamplingAlgorithm

__all__ = ["ChainSampler", "HMCSampler"]


class ChainSampler(Sampler):
    """Markov chains with any kernel of `mvflow.samplers`: a few long ones, or a short one a draw.

    A subclass adds the settings of its kernel and implements `kernel`.
    """

    chains: PositiveInt = 4
    """Chains per row; R-hat compares them."""
    warmup: NonNegativeInt = 100
    """Steps that adapt the kernel and are thrown away."""
    draws: PositiveInt = 200
    """Least steps kept per chain; with `independent`, steps of each chain."""
    candidates: PositiveInt = 128
    """Draws per expert among which the starts are resampled."""
    independent: bool = False
    """One chain for each draw, of which only the last state is kept; `chains` and `candidates`
    then have no meaning."""

    @abstractmethod
    def kernel(self) -> SamplingAlgorithm:
        """The Markov kernel."""

    def sample(self, target: Target, n: int) -> Draws:
        """`n` draws per row with diagnostics of the chains."""
        if self.independent:
            return IndependentChains(self.kernel(), self.draws, self.warmup).sample(target, n)
        return MarkovChains(
            self.kernel(), self.chains, self.warmup, self.draws, self.candidates
        ).sample(target, n)


class HMCSampler(ChainSampler):
    """Batched Hamiltonian Monte Carlo with step sizes that adapt in each row (paper 3.3)."""

    num_steps: PositiveInt = 5
    """Leapfrog steps of a proposal."""
    step_size: PositiveFloat = 0.1
    """Where the adaptation starts, or with `adaptive = false` the size of all steps."""
    adaptive: bool = True
    """Whether the step size is adapted in the warm-up."""

    def kernel(self) -> HMC:
        """The kernel; without adaptation its step size and number of steps are fixed."""
        if self.adaptive:
            return HMC(self.step_size, self.num_steps)
        return HMC(self.step_size, self.num_steps, jitter=0.0, adaptive=False)
