"""Running a sampler: warm-up, then draws."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Float, Int

from mvflow.core import Array, UsageError, namespace
from mvflow.samplers.base import Info, Random, SamplingAlgorithm, ValueAndGrad

__all__ = ["Chains", "run"]


class Chains(NamedTuple):
    """Draws, and what happened after the warm-up while they were made."""

    positions: Float[Array, "draws chains rows dim"]
    acceptance: Float[Array, " rows"]
    """Mean acceptance rate over chains and steps."""
    divergences: Int[Array, " rows"]
    """Number of divergent steps, over all chains."""
    step_size: Float[Array, " rows"]
    """Mean step size."""
    num_gradients: int
    """Calls of `value_and_grad`, warm-up included; each evaluates every chain once."""
    state: Any
    """State after the last step, to go on from."""


def run(
    algorithm: SamplingAlgorithm,
    position: Float[Array, "chains rows dim"],
    value_and_grad: ValueAndGrad,
    random: Random,
    *,
    warmup: int,
    draws: int,
    thin: int = 1,
    inverse_mass: Float[Array, "rows dim"] | None = None,
    on_step: Callable[[Info], None] | None = None,
) -> Chains:
    """Run `warmup` adapting steps, then draws * thin others of which every thin-th is kept.

    Args:
        algorithm: the sampler.
        position: starts of the chains.
        value_and_grad: the target.
        random: source of randomness.
        warmup: number of steps that adapt and are not kept.
        draws: number of positions kept.
        thin: steps from one kept position to the next.
        inverse_mass: estimated variance of each coordinate; by default ones.
        on_step: called with what happened in each step after the warm-up, kept or not.

    Raises:
        UsageError: if `draws` or `thin` is below 1, or `warmup` below 0.

    Examples:
        >>> import numpy as np
        >>> from mvflow.samplers import HMC, NumpyRandom
        >>> normal = lambda z: (-0.5 * (z * z).sum(-1), -z)
        >>> random = NumpyRandom(np.random.default_rng(0))
        >>> chains = run(HMC(), np.zeros((8, 1, 2)), normal, random, warmup=50, draws=100)
        >>> chains.positions.shape, bool(abs(chains.positions.std() - 1) < 0.1)
        ((100, 8, 1, 2), True)
    """
    for name, value, minimum in (("warmup", warmup, 0), ("draws", draws, 1), ("thin", thin, 1)):
        if value < minimum:
            msg = f"{name} is {value}, expected at least {minimum}"
            raise UsageError(msg)
    xp = namespace(position)
    target = _Counted(value_and_grad)
    state = algorithm.init(position, target, inverse_mass=inverse_mass)
    for _ in range(warmup):
        state, _ = algorithm.step(state, random, target, adapt=True)
    positions, acceptances, divergences, step_sizes = [], [], [], []
    for i in range(draws * thin):
        state, info = algorithm.step(state, random, target, adapt=False)
        acceptances.append(xp.mean(info.acceptance_rate, axis=0))
        divergences.append(xp.sum(xp.astype(info.is_divergent, xp.int64), axis=0))
        step_sizes.append(info.step_size)
        if (i + 1) % thin == 0:
            positions.append(state.position)
        if on_step is not None:
            on_step(info)
    return Chains(
        positions=xp.stack(positions),
        acceptance=xp.mean(xp.stack(acceptances), axis=0),
        divergences=xp.sum(xp.stack(divergences), axis=0),
        step_size=xp.mean(xp.stack(step_sizes), axis=0),
        num_gradients=target.calls,
        state=state,
    )


class _Counted:
    """`value_and_grad` that counts its calls."""

    def __init__(self, value_and_grad: ValueAndGrad) -> None:
        self.value_and_grad = value_and_grad
        self.calls = 0

    def __call__(self, position: Array) -> tuple[Array, Array]:
        self.calls += 1
        return self.value_and_grad(position)
