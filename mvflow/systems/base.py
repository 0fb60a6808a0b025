"""What a system is, and what only some systems have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from mvflow.config import Config
from mvflow.core import LatentSpace, Modality, Observed, UsageError, registry
from mvflow.inference import Target
from mvflow.nn import checked_allocation, seeded, torch_defaults
from mvflow.stages import StageSpec

__all__ = [
    "Bounded",
    "Encodes",
    "Guides",
    "LearnedPrior",
    "LearnsPrior",
    "Projects",
    "System",
    "build_system",
    "require_all_present",
    "stages_of",
]


class System(nn.Module, ABC):
    """A generative model p(X, z) of several modalities, with posteriors of z given any of them.

    Generation, likelihoods, metrics, reports and commands are written against this class alone. A
    new system is one file with a subclass, and one entry point of the group `mvflow.systems`.

    Attributes:
        settings: the configuration that it was built from.
        modalities: specifications, sorted by name.
        latent: parts of z.
        fitted_prior: module whose call gives a prior fitted after training, or None.
    """

    Settings: ClassVar[type[Config]] = Config
    accepts_absent: ClassVar[bool] = False
    """Whether rows may lack modalities in training, with the settings that `for_absence` gives."""
    settings: Any
    modalities: tuple[Modality, ...]
    latent: LatentSpace
    fitted_prior: nn.Module | None

    @classmethod
    @abstractmethod
    def build(cls, settings: Config) -> Self:
        """The untrained system; initial weights follow from the settings' seed."""

    @classmethod
    def for_absence(cls, settings: Config) -> Config:
        """The settings with which it trains on rows that lack modalities.

        Raises:
            UsageError: if there are none, naming the systems that take such rows.
        """
        if not cls.accepts_absent:
            raise UsageError(_needs_all(settings.system, "but rows lack some of them"))
        return settings

    @abstractmethod
    def prior(self) -> Distribution:
        """p(z): batch shape (1,), event shape (latent.dim,)."""

    @abstractmethod
    def posterior(self, observed: Observed) -> Distribution | Target:
        """q(z|x_S) of any non-empty subset S: batch shape (rows,), event shape (latent.dim,)."""

    def proposals(self, observed: Observed) -> Sequence[Distribution]:
        """Normalised distributions that together cover p(z|x_S), for importance sampling.

        By default q(z|x_S), or its experts where it is an unnormalised density.
        """
        posterior = self.posterior(observed)
        return [posterior] if isinstance(posterior, Distribution) else list(posterior.experts)

    @abstractmethod
    def decode(
        self,
        z: Tensor,
        names: Collection[str] | None = None,
        covariates: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Distribution]:
        """p(x_j|z) for z (..., latent.dim), of each modality or of the named ones."""

    @abstractmethod
    def stages(self) -> Sequence[StageSpec]:
        """What is trained, in order."""

    @abstractmethod
    def facts(self) -> Mapping[str, str]:
        """What it is, in a few words each, for reports and tables."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device


@runtime_checkable
class Encodes(Protocol):
    """A system with a joint encoder q(z|X)."""

    encoder_stages: tuple[str, ...]
    """Stages after which it can encode."""

    def encode(self, observed: Observed) -> Distribution:
        """q(z|X) given all modalities."""
        ...

    def combine(self, observed: Observed) -> Distribution | Target:
        """What stands for q(z|x_S) of other subsets, here for any number of modalities."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A system whose decoders were trained only within a ball."""

    @property
    def radius(self) -> Tensor:
        """Of the ball around the origin that training rows' latents span; a scalar."""
        ...


@runtime_checkable
class Guides(Protocol):
    """A system whose draws may follow what is observed more than its posterior does."""

    @property
    def guidance(self) -> float | None:
        """How much they do where nothing else is asked for; None if this one has no guidance."""
        ...


class LearnedPrior(NamedTuple):
    """A distribution of z that a stage has learned besides posteriors."""

    name: str
    title: str
    """What z is drawn from, in a sentence."""
    stage: str
    distribution: Callable[[], Distribution]
    """Gives it: batch shape (1,)."""


@runtime_checkable
class LearnsPrior(Protocol):
    """A system that learns what its latents are like where nothing is observed."""

    @property
    def learned_prior(self) -> LearnedPrior | None:
        """What it has learned; None if this one has not."""
        ...


@runtime_checkable
class Projects(Protocol):
    """A system that may have maps of each modality to what the modalities share."""

    projectors: nn.Module | None
    """The maps; None if this one has none."""

    def project(self, name: str, x: Tensor) -> Tensor:
        """g_j(x_j), (rows, width), of rows of one modality."""
        ...


@torch_defaults()
def build_system(config: Config) -> System:
    """The untrained system of a configuration, with its fitted prior if one is configured.

    Raises:
        ConfigError: if its parts do not fit together, or its networks do not fit into memory.
    """
    with checked_allocation(f"the networks of system {config.system!r}"):
        system: System = registry("systems").load(config.system).build(config)
        system.settings = config
        with seeded(config.seed, "weights", "prior"):
            system.fitted_prior = config.prior.build(system)
    return system


def require_all_present(system: System, observed: Observed, advice: str | None = None) -> None:
    """Refuse rows that lack an observed modality, or values of it.

    Args:
        system: that needs them.
        observed: some rows.
        advice: what to do; by default to choose one of the systems that take such rows.

    Raises:
        UsageError: saying so.
    """
    for name, present in sorted((observed.present or {}).items()):
        if name not in observed.x or bool(present.all()):
            continue
        lacking = int((~present.reshape(len(present), -1).all(1)).sum())
        but = f"but {name!r} is absent in {lacking} of {len(present)} rows"
        raise UsageError(_needs_all(system.settings.system, but, advice))


def _needs_all(system: str, but: str, advice: str | None = None) -> str:
    if advice is None:
        systems = registry("systems")
        able = [n for n in systems.names() if getattr(systems.load(n), "accepts_absent", False)]
        advice = f"choose a system that takes them ({', '.join(able)})"
    return f"system {system!r} needs all values of every row, {but}: leave these out, or {advice}"


def stages_of(system: System) -> tuple[StageSpec, ...]:
    """All stages of a system in the order of training; those of its fitted prior come last."""
    if system.fitted_prior is None:
        return tuple(system.stages())
    prior = system.settings.prior.stages(system, system.fitted_prior)
    return (*system.stages(), *prior)
