"""Registries: the kinds that each contract has, by name, filled by entry points.

mvflow's own kinds and those of other distributions are registered in the same way: an entry point
of the group `mvflow.<group>` in a `pyproject.toml`. Nothing is imported until it is asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from mvflow.core.errors import ConfigError, UsageError, unknown_name

__all__ = ["REGISTRIES", "Registry", "registry", "trust", "trusted"]

_TRUSTED: set[str] = set()


@dataclass(frozen=True)
class Registry:
    """The kinds of one contract.

    Args:
        group: entry points of `mvflow.<group>` fill it.
        noun: what one of them is called in messages.
        contract: import path of the abstract class that says which methods a kind has, or "" if
            any object will do.
    """

    group: str
    noun: str
    contract: str = ""

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        entries: dict[str, EntryPoint] = {}
        for entry in entry_points(group=f"mvflow.{self.group}"):
            other = entries.setdefault(entry.name, entry)
            if other.value != entry.value:
                msg = (
                    f"{self.noun} {entry.name!r} is registered twice, as {other.value} and as "
                    f"{entry.value}: uninstall one of the two packages"
                )
                raise UsageError(msg)
        return entries

    def names(self) -> list[str]:
        """Sorted names of all registered kinds, loaded or not.

        Examples:
            >>> registry("samplers").names()
            ['hamiltorch', 'hmc', 'sir']
        """
        return sorted(self._entries)

    def load(self, name: str) -> Any:
        """The object registered as `name`, or, for a name `module:object`, that object.

        Raises:
            UsageError: if there is none (the message has the nearest name), it cannot be imported
                (the message names the package and the error), or it lacks a method of the
                contract (the message says which).

        Examples:
            >>> registry("posteriors").load("maf").__name__
            'MAF'
        """
        if ":" in name:
            registered = self._by_path(name)
        elif name in self._entries:
            registered = self._imported(self._entries[name])
        else:
            raise UsageError(unknown_name(self.noun, name, self.names()))
        missing = self.missing(registered)
        if missing:
            msg = (
                f"{self.noun} {name!r} does not fulfil its contract "
                f"({self.contract.replace(':', '.')}): it has no {', '.join(missing)}"
            )
            raise UsageError(msg)
        return registered

    def name_of(self, kind: type) -> str:
        """The name under which a class is registered, or else its import path `module:class`."""
        path = f"{kind.__module__}:{kind.__qualname__}"
        for name, entry in self._entries.items():
            if entry.value == path:
                return name
            module = sys.modules.get(entry.module)
            if module is not None and getattr(module, entry.attr, None) is kind:
                return name
        return path

    def by_class_name(self, name: str) -> str | None:
        """The registered name of the object called `name` in its module, without importing it.

        Examples:
            >>> registry("systems").by_class_name("JNF")
            'jnf'
        """
        return next((k for k, e in sorted(self._entries.items()) if e.attr == name), None)

    def missing(self, candidate: Any) -> list[str]:
        """Methods of the contract that an object or a class does not have."""
        return [name for name in self.methods if not hasattr(candidate, name)]

    @property
    def methods(self) -> list[str]:
        """Names of the methods that the contract asks for, sorted."""
        return sorted(getattr(self.base, "__abstractmethods__", ())) if self.contract else []

    @cached_property
    def base(self) -> type:
        """The abstract class of the contract."""
        module, _, name = self.contract.partition(":")
        contract: type = getattr(importlib.import_module(module), name)
        return contract

    def _imported(self, entry: EntryPoint) -> Any:
        try:
            return entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist is not None else entry.module
            msg = (
                f"{self.noun} {entry.name!r} of package {package!r} cannot be imported "
                f"({entry.value}): {type(error).__name__}: {error}"
            )
            raise UsageError(msg) from error

    def _by_path(self, path: str) -> Any:
        module, _, name = path.partition(":")
        if module not in sys.modules and module not in _TRUSTED:
            msg = (
                f"{self.noun} {path!r} is code outside mvflow that has not been imported: import "
                f"{module} first, or on the command line name it with 'mvflow --plugin {module}'"
            )
            raise ConfigError(msg)
        value = importlib.import_module(module)
        for part in name.split("."):
            if not hasattr(value, part):
                msg = f"{self.noun} {path!r}: module {module} has no {name}"
                raise ConfigError(msg)
            value = getattr(value, part)
        return value


REGISTRIES: Mapping[str, Registry] = MappingProxyType(
    {
        each.group: each
        for each in (
            Registry("systems", "system", "mvflow.systems.base:System"),
            Registry("posteriors", "posterior", "mvflow.posteriors.base:Family"),
            Registry("priors", "prior", "mvflow.priors.base:Prior"),
            Registry("projectors", "projector", "mvflow.projectors.base:Projector"),
            Registry("likelihoods", "likelihood", "mvflow.likelihoods.base:Likelihood"),
            Registry("networks", "network", "mvflow.nn.base:Network"),
            Registry("augmentations", "augmentation", "mvflow.augmentations.base:Augmentation"),
            Registry("subsets", "subset rule", "mvflow.systems.subsets.base:SubsetRule"),
            Registry("samplers", "sampler", "mvflow.inference.target:Sampler"),
            Registry("datasets", "dataset"),
        )
    }
)
"""Group -> registry."""


def registry(group: str) -> Registry:
    """The registry of a group.

    Raises:
        UsageError: if there is no such group.
    """
    if group not in REGISTRIES:
        raise UsageError(unknown_name("registry", group, REGISTRIES))
    return REGISTRIES[group]


def trust(module: str) -> None:
    """Import a module whose classes configurations may name by their import path.

    Raises:
        UsageError: if it cannot be imported.
    """
    try:
        importlib.import_module(module)
    except Exception as error:
        msg = f"plugin {module!r} cannot be imported: {type(error).__name__}: {error}"
        raise UsageError(msg) from error
    _TRUSTED.add(module)


def trusted() -> tuple[str, ...]:
    """The modules that `trust` has imported."""
    return tuple(sorted(_TRUSTED))
