"""Unnormalised posteriors, and the contract of what draws from them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from torch import Tensor
from torch.distributions import Distribution

from mvflow.core.parts import Part
from mvflow.inference.diagnostics import Diagnostics

__all__ = ["Draws", "DrawsWithDensity", "Guidable", "Sampler", "Target"]


class Draws(NamedTuple):
    """Draws of the latent variable and what is known of their quality."""

    z: Tensor
    """(n, rows, latent_dim)."""
    diagnostics: Diagnostics


@runtime_checkable
class Target(Protocol):
    """An unnormalised density of z for each row, inside a ball, from which samplers draw."""

    @property
    def radius(self) -> float:
        """Of the ball outside of which the density is zero; infinity for none."""
        ...

    @property
    def experts(self) -> Sequence[Distribution]:
        """Normalised distributions that together cover it: proposals for importance sampling."""
        ...

    def log_prob(self, z: Tensor) -> Tensor:
        """Unnormalised log density, (..., rows), of z (..., rows, latent_dim)."""
        ...

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob` and its gradient inside the ball."""
        ...

    def candidates(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` draws of each expert and their log importance weights."""
        ...

    def mixture_draws(self, n: int) -> Tensor:
        """`n` draws per row, (n, rows, latent_dim), each of an expert chosen at random."""
        ...

    def variance(self, pool: Tensor) -> Tensor:
        """Estimated variance of each coordinate, (rows, latent_dim), from `candidates`."""
        ...

    def is_improper(self, pool: Tensor) -> Tensor:
        """Whether each row's density has most of its mass outside the ball, bool (rows,)."""
        ...


@runtime_checkable
class Guidable(Protocol):
    """A posterior that can be drawn from with guidance."""

    def guided(self, weight: float) -> Distribution:
        """Draws that follow what is observed more than the posterior does; with 0 its own."""
        ...


@runtime_checkable
class DrawsWithDensity(Protocol):
    """A distribution whose densities cost much, but those of its own draws nothing more."""

    def sample_with_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draws, and their log-densities."""
        ...


class Sampler(Part):
    """A way to draw from a `Target`; its fields are its settings, and it holds no state."""

    group: ClassVar[str] = "samplers"

    @abstractmethod
    def sample(self, target: Target, n: int) -> Draws:
        """`n` draws per row, none outside the ball, with diagnostics."""
