"""The paper's own figures, to be set beside measured ones."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

from mvflow.core import UsageError

__all__ = ["Figure", "Published", "published"]


class Figure(NamedTuple):
    """A number that the paper prints."""

    mean: float
    deviation: float | None
    """Over four seeds, where it is printed."""


class Published(NamedTuple):
    """What the paper reports of one benchmark."""

    recipe: str
    """With the paper's settings."""
    data: tuple[str, ...]
    """Names of the data sets that it is about."""
    place: str
    note: str
    measures: tuple[str, ...]
    systems: dict[tuple[str, float, int], dict[str, Figure]]
    """(system, beta, transforms) -> measure -> figure; transforms are 0 where not varied."""
    chosen: dict[str, dict[str, Figure]]
    """System -> its figures at the beta of the main text."""
    settings: dict[str, dict[str, Any]]
    """System -> settings of a configuration that make it; "beta" and "transforms" -> their key."""

    def find(
        self, settings: Mapping[str, Any], beta_factor: float | None = 1.0
    ) -> tuple[str, dict[str, Figure]]:
        """A system of the paper and its figures with these settings; empty if there is none.

        Args:
            settings: "section.key" -> value of a configuration.
            beta_factor: what times beta acts as the paper's beta; None: nothing does.
        """
        for name, wanted in self.settings.items():
            values = {k: v for k, v in wanted.items() if k not in ("beta", "transforms")}
            if all(settings.get(key) == value for key, value in values.items()):
                beta, transforms = (
                    settings.get(wanted.get(k, ""), 0) for k in ("beta", "transforms")
                )
                if beta_factor is None:
                    return name, {}
                beta = round(beta * beta_factor, 9)
                exact = self.systems.get((name, beta, transforms), {})
                return name, exact or self.systems.get((name, beta, 0), {})
        return "", {}


def published(recipe: str) -> Published:
    """The paper's figures for the benchmark of a recipe, or of another variant of it.

    Raises:
        UsageError: if the paper has no such benchmark.

    Examples:
        >>> published("mnist-svhn").chosen["JNF"]["coherence/joint"]
        Figure(mean=0.51, deviation=0.01)
    """
    text = (resources.files("mvflow.evaluation") / "paper.toml").read_text("utf-8")
    known = tomllib.loads(text)
    benchmark = recipe.removesuffix("-small").removesuffix("-paper")
    benchmarks = sorted(known.keys() - {"settings"})
    rebuilds = {name: b for b in benchmarks for name in known[b].get("rebuilt", ())}
    benchmark = rebuilds.get(benchmark, benchmark)
    if benchmark not in benchmarks:
        msg = f"the paper has no figures for recipe {recipe!r}: it has {', '.join(benchmarks)}"
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
    measures, settings = tuple(raw["measures"]), known["settings"]
    about = raw["recipe"], tuple(raw["data"]), raw["place"], raw["note"]
    return Published(*about, measures, systems, chosen, settings)
