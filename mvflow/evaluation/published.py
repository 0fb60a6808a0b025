"""The paper's own figures, to be set beside measured ones."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import NamedTuple

from mvflow.core import UsageError

__all__ = ["Figure", "Published", "published"]


class Figure(NamedTuple):
    """A number that the paper prints."""

    mean: float
    deviation: float | None
    """Over four seeds, where it is printed."""


class Published(NamedTuple):
    """What the paper reports of one benchmark."""

    place: str
    note: str
    measures: tuple[str, ...]
    systems: dict[tuple[str, float, int], dict[str, Figure]]
    """(system, beta, transforms) -> measure -> figure; transforms are 0 where not varied."""
    chosen: dict[str, dict[str, Figure]]
    """System -> its figures at the beta of the main text."""

    def find(self, system: str, beta: float, transforms: int) -> dict[str, Figure]:
        """Figures of a system with these settings; empty if the paper has none."""
        exact = self.systems.get((system, beta, transforms), {})
        return exact or self.systems.get((system, beta, 0), {})


def published(recipe: str) -> Published:
    """The paper's figures for the benchmark of a recipe, or of its small variant.

    Raises:
        UsageError: if the paper has no such benchmark.

    Examples:
        >>> published("mnist-svhn").chosen["JNF"]["coherence/joint"]
        Figure(mean=0.51, deviation=0.01)
    """
    text = (resources.files("mvflow.evaluation") / "paper.toml").read_text("utf-8")
    known = tomllib.loads(text)
    benchmark = recipe.removesuffix("-small")
    if benchmark not in known:
        msg = f"the paper has no figures for recipe {recipe!r}: it has {', '.join(sorted(known))}"
        raise UsageError(msg)
    raw = known[benchmark]
    systems, chosen = {}, {}
    for system, beta, transforms, *numbers in raw["rows"]:
        found = {
            measure: Figure(pair[0], pair[1] if len(pair) > 1 else None)
            for measure, pair in zip(raw["measures"], numbers, strict=True)
            if pair
        }
        systems[system, beta, transforms] = found
        if raw["chosen"].get(system) == beta:
            chosen[system] = found  # of two numbers of transforms the second, which is the better
    return Published(raw["place"], raw["note"], tuple(raw["measures"]), systems, chosen)
