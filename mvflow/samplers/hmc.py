"""Hamiltonian Monte Carlo (paper, Appendix F): a deterministic kernel, and a sampler around it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Bool, Float

from mvflow.core import Array, UsageError, namespace
from mvflow.samplers.adaptation import (
    DualAveraging,
    dual_averaging_init,
    dual_averaging_update,
)
from mvflow.samplers.base import Random, ValueAndGrad
from mvflow.samplers.integrators import leapfrog, safe_gradient

__all__ = ["HMC", "AdaptiveHMCState", "HMCInfo", "HMCState", "Noise", "init", "step"]

_DIVERGENCE = 1000.0  # error of the energy from which on the integration has failed


class HMCState(NamedTuple):
    """What the kernel carries: the target is evaluated once a position."""

    position: Float[Array, "chains rows dim"]
    log_density: Float[Array, "chains rows"]
    grad: Float[Array, "chains rows dim"]


class HMCInfo(NamedTuple):
    """What happened in a step (see `Info`)."""

    acceptance_rate: Float[Array, "chains rows"]
    is_accepted: Bool[Array, "chains rows"]
    is_divergent: Bool[Array, "chains rows"]
    proposal: Float[Array, "chains rows dim"]
    step_size: Float[Array, " rows"] | float


class Noise(NamedTuple):
    """All the randomness of a step; given it, the kernel is deterministic."""

    momentum: Float[Array, "chains rows dim"]
    """Standard normal; the kernel scales it by the mass."""
    uniform: Float[Array, "chains rows"]
    """On [0, 1), compared with the probability of acceptance."""


def init(position: Float[Array, "chains rows dim"], value_and_grad: ValueAndGrad) -> HMCState:
    """State of chains at `position`; a NaN log density counts as -inf."""
    log_density, grad = value_and_grad(position)
    return HMCState(position, _nan_to_outside(log_density), safe_gradient(grad))


def step(
    state: HMCState,
    noise: Noise,
    value_and_grad: ValueAndGrad,
    *,
    step_size: Float[Array, " rows"] | float,
    inverse_mass: Float[Array, "rows dim"],
    num_steps: int,
) -> tuple[HMCState, HMCInfo]:
    """Propose by `num_steps` leapfrog steps, accept or reject (paper, Eq. F.1 and F.2).

    A proposal is rejected when it is not finite, or outside the support (log density -inf or
    NaN). It is divergent when the energy error is NaN or beyond 1000, or when it is not finite;
    one whose log density is exactly -inf is not. Chains that start outside the support accept
    any proposal inside.

    Args:
        state: from `init` or from the previous step.
        noise: all the randomness.
        value_and_grad: the target.
        step_size: one number, or one a row.
        inverse_mass: diagonal of the inverse mass matrix of each row.
        num_steps: number of leapfrog steps, each with one gradient.

    Returns:
        The new state, and what happened.
    """
    xp = namespace(state.position)
    momentum = noise.momentum / xp.sqrt(inverse_mass)
    end = leapfrog(
        state.position,
        momentum,
        state.grad,
        value_and_grad,
        step_size=step_size,
        inverse_mass=inverse_mass,
        num_steps=num_steps,
    )
    finite = xp.all(xp.isfinite(end.position) & xp.isfinite(end.momentum), axis=-1)
    broken = ~finite | xp.isnan(end.log_density) | (end.log_density == math.inf)
    outside = end.log_density == -math.inf
    starts_outside = state.log_density == -math.inf
    gain = (
        xp.where(broken | outside, 0.0, end.log_density)
        - xp.where(starts_outside, 0.0, state.log_density)
        + _kinetic(momentum, inverse_mass)
        - _kinetic(end.momentum, inverse_mass)
    )
    metropolis = xp.where(starts_outside, 1.0, xp.exp(xp.clip(gain, max=0.0)))
    acceptance = xp.where(broken | outside, 0.0, metropolis)
    accepted = noise.uniform < acceptance
    moved = HMCState(
        xp.where(accepted[..., None], end.position, state.position),
        xp.where(accepted, end.log_density, state.log_density),
        xp.where(accepted[..., None], end.grad, state.grad),
    )
    divergent = broken | ((gain < -_DIVERGENCE) & ~outside & ~starts_outside)
    return moved, HMCInfo(acceptance, accepted, divergent, end.position, step_size)


class AdaptiveHMCState(NamedTuple):
    """State of `HMC`: the kernel's, the step sizes' and the mass."""

    kernel: HMCState
    adaptation: DualAveraging
    inverse_mass: Float[Array, "rows dim"]

    @property
    def position(self) -> Float[Array, "chains rows dim"]:
        """Where the chains are."""
        return self.kernel.position

    @property
    def log_density(self) -> Float[Array, "chains rows"]:
        """Log density there."""
        return self.kernel.log_density


@dataclass(frozen=True, slots=True)
class HMC:
    """Hamiltonian Monte Carlo whose step size adapts in each row during warm-up.

    Args:
        step_size: where the adaptation starts.
        num_steps: leapfrog steps a proposal.
        target_acceptance: mean acceptance that the warm-up aims at.
        jitter: after the warm-up each step's size is scaled by a factor drawn from
            [1 - jitter, 1 + jitter], so that no orbit returns to its start. Much of it helps
            where the mass is wrong, as for trained experts: with 0.2 some of them need three
            times the gradients, while Gaussians are indifferent.
        adaptive: whether `step` obeys its argument `adapt`; if not, the step size is fixed.
        longest: longest trajectory, step size times steps, where the step size adapts. In units
            of the mass a quarter orbit of a Gaussian, at whose end nothing of its start is left;
            without it, small targets let the steps grow until trajectories return.

    Raises:
        UsageError: if a setting lies outside its range.

    Examples:
        >>> import numpy as np
        >>> from mvflow.samplers import NumpyRandom
        >>> normal = lambda z: (-0.5 * (z * z).sum(-1), -z)
        >>> hmc, random = HMC(), NumpyRandom(np.random.default_rng(0))
        >>> state = hmc.init(np.zeros((4, 3, 2)), normal)  # 4 chains for each of 3 rows
        >>> state, info = hmc.step(state, random, normal, adapt=True)
        >>> state.position.shape, info.step_size
        ((4, 3, 2), array([0.1, 0.1, 0.1]))
    """

    step_size: float = 0.1
    num_steps: int = 5
    target_acceptance: float = 0.8
    jitter: float = 0.5
    adaptive: bool = True
    longest: float = math.pi / 2

    def __post_init__(self) -> None:
        for name, value, fits, expected in (
            ("step_size", self.step_size, 0 < self.step_size < math.inf, "a positive number"),
            ("num_steps", self.num_steps, self.num_steps >= 1, "at least 1"),
            (
                "target_acceptance",
                self.target_acceptance,
                0 < self.target_acceptance < 1,
                "a share between 0 and 1",
            ),
            ("jitter", self.jitter, 0 <= self.jitter < 1, "a number from 0 to below 1"),
            ("longest", self.longest, self.longest > 0, "a positive number"),
        ):
            if not fits:
                msg = f"HMC: {name} is {value}, expected {expected}"
                raise UsageError(msg)

    @classmethod
    def paper(cls, step_size: float = 0.01) -> "HMC":
        """HMC for the paper's Appendix F: 10 leapfrogs of one fixed size, no jitter."""
        return cls(step_size=step_size, num_steps=10, jitter=0.0, adaptive=False)

    def init(
        self,
        position: Float[Array, "chains rows dim"],
        value_and_grad: ValueAndGrad,
        *,
        inverse_mass: Float[Array, "rows dim"] | None = None,
    ) -> AdaptiveHMCState:
        """State of chains that start at `position` (see `SamplingAlgorithm`)."""
        xp = namespace(position)
        if inverse_mass is None:
            inverse_mass = xp.ones_like(position[0, ...])
        first = xp.full_like(position[0, :, 0], self.step_size)
        adaptation = self._capped(dual_averaging_init(first))
        return AdaptiveHMCState(init(position, value_and_grad), adaptation, inverse_mass)

    def step(
        self,
        state: AdaptiveHMCState,
        random: Random,
        value_and_grad: ValueAndGrad,
        *,
        adapt: bool,
    ) -> tuple[AdaptiveHMCState, HMCInfo]:
        """Advance all chains by one step (see `SamplingAlgorithm`)."""
        xp = namespace(state.position)
        adapts = adapt and self.adaptive
        noise = Noise(random.normal(state.position.shape), random.uniform(state.log_density.shape))
        if adapts:
            step_size = xp.exp(state.adaptation.log_step)
        else:
            u = random.uniform(state.adaptation.log_step.shape)
            step_size = xp.exp(state.adaptation.log_step_avg) * (
                1.0 + self.jitter * (2.0 * u - 1.0)
            )
        kernel, info = step(
            state.kernel,
            noise,
            value_and_grad,
            step_size=step_size,
            inverse_mass=state.inverse_mass,
            num_steps=self.num_steps,
        )
        adaptation = state.adaptation
        if adapts:
            adaptation = dual_averaging_update(
                adaptation, xp.mean(info.acceptance_rate, axis=0), target=self.target_acceptance
            )
            adaptation = self._capped(adaptation)
        return AdaptiveHMCState(kernel, adaptation, state.inverse_mass), info

    def _capped(self, adaptation: DualAveraging) -> DualAveraging:
        if not self.adaptive or self.longest == math.inf:
            return adaptation
        xp, limit = namespace(adaptation.log_step), math.log(self.longest / self.num_steps)
        return adaptation._replace(
            log_step=xp.clip(adaptation.log_step, max=limit),
            log_step_avg=xp.clip(adaptation.log_step_avg, max=limit),
        )


def _kinetic(
    momentum: Float[Array, "chains rows dim"], inverse_mass: Float[Array, "rows dim"]
) -> Float[Array, "chains rows"]:
    return 0.5 * namespace(momentum).sum(inverse_mass * momentum * momentum, axis=-1)


def _nan_to_outside(log_density: Float[Array, "chains rows"]) -> Float[Array, "chains rows"]:
    xp = namespace(log_density)
    return xp.where(xp.isnan(log_density), -math.inf, log_density)
