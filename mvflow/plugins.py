"""Entry points: how samplers and dataset builders, ours and other people's, are found by name."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from mvflow.core.errors import UsageError, unknown_name

__all__ = ["find", "known"]


def known(group: str) -> list[str]:
    """Sorted names registered under the entry-point group `mvflow.<group>`."""
    return sorted({e.name for e in entry_points(group=f"mvflow.{group}")})


def find(group: str, name: str) -> Any:
    """Load the object registered as `name` under the entry-point group `mvflow.<group>`.

    Raises:
        UsageError: if nothing is registered under that name; the message lists what is.

    Examples:
        >>> find("samplers", "hmc").__name__
        'HMC'
    """
    for entry in entry_points(group=f"mvflow.{group}", name=name):
        return entry.load()
    raise UsageError(unknown_name(group.rstrip("s"), name, known(group)))
