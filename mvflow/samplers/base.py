"""What a sampler is: pure `init` and `step` over explicit state, with randomness passed in.

Positions have the shape (chains, rows, dim): every row of the data has its own target, and every
target several chains. All rows and chains move together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from mvflow.core import Array

__all__ = ["Info", "NumpyRandom", "Random", "SamplingAlgorithm", "State", "ValueAndGrad"]

ValueAndGrad: TypeAlias = Callable[[Array], tuple[Array, Array]]
"""Positions (chains, rows, dim) -> log density (chains, rows) and its gradient, like positions."""


@runtime_checkable
class Random(Protocol):
    """Source of randomness; its arrays have the library, dtype and device of the positions."""

    def normal(self, shape: tuple[int, ...]) -> Array:
        """Independent draws from N(0, 1)."""
        ...

    def uniform(self, shape: tuple[int, ...]) -> Array:
        """Independent draws from the uniform distribution on [0, 1)."""
        ...


@dataclass(frozen=True, slots=True)
class NumpyRandom:
    """`Random` from a NumPy generator.

    Args:
        generator: advanced by every draw.
        dtype: that of the positions.

    Examples:
        >>> NumpyRandom(np.random.default_rng(0)).normal((2, 3)).shape
        (2, 3)
    """

    generator: np.random.Generator
    dtype: type[np.float64] | type[np.float32] = np.float64

    def normal(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Independent draws from N(0, 1)."""
        return self.generator.standard_normal(shape, dtype=self.dtype)

    def uniform(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """Independent draws from the uniform distribution on [0, 1)."""
        return self.generator.random(shape, dtype=self.dtype)


@runtime_checkable
class State(Protocol):
    """What a chain carries from step to step."""

    @property
    def position(self) -> Float[Array, "chains rows dim"]:
        """Where the chains are; always finite if they started so."""
        ...

    @property
    def log_density(self) -> Float[Array, "chains rows"]:
        """Log density there; -inf outside the support."""
        ...


@runtime_checkable
class Info(Protocol):
    """What happened in a step, for the people who watch."""

    @property
    def acceptance_rate(self) -> Float[Array, "chains rows"]:
        """Probability with which the proposal was to be accepted."""
        ...

    @property
    def is_accepted(self) -> Bool[Array, "chains rows"]:
        """Whether it was."""
        ...

    @property
    def is_divergent(self) -> Bool[Array, "chains rows"]:
        """Whether the numbers broke down; a proposal outside the support is no breakdown."""
        ...

    @property
    def proposal(self) -> Float[Array, "chains rows dim"]:
        """Where the step wanted to go."""
        ...

    @property
    def step_size(self) -> Float[Array, " rows"]:
        """Step size used in each row."""
        ...


@runtime_checkable
class SamplingAlgorithm(Protocol):
    """A Markov chain Monte Carlo method for batches of chains; holds settings, never state."""

    def init(
        self,
        position: Float[Array, "chains rows dim"],
        value_and_grad: ValueAndGrad,
        *,
        inverse_mass: Float[Array, "rows dim"] | None = None,
    ) -> Any:
        """State of chains that start at `position`.

        Args:
            position: starts of the chains.
            value_and_grad: the target.
            inverse_mass: estimated variance of each coordinate; by default ones.
        """
        ...

    def step(
        self, state: Any, random: Random, value_and_grad: ValueAndGrad, *, adapt: bool
    ) -> tuple[State, Info]:
        """Advance all chains by one step.

        Args:
            state: from `init` or from the previous step.
            random: the step's randomness.
            value_and_grad: the target.
            adapt: whether settings may be tuned from this step; draws are kept from steps
                without adaptation only.

        Returns:
            The new state, and what happened.
        """
        ...
