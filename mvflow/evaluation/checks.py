"""A check: one fact about a model, its verdict, and what to do; grades that all rules use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

__all__ = ["LEVELS", "Check", "Level", "check_of", "grade_high", "grade_low", "number", "worst"]

Level = Literal["good", "not checked", "look closer", "do not trust"]
LEVELS: tuple[Level, ...] = ("good", "not checked", "look closer", "do not trust")
"""From best to worst."""


class Check(NamedTuple):
    """One fact: its name and value, what to think of it and what to do."""

    name: str
    value: str
    verdict: Level
    advice: str


def worst(levels: Iterable[Level]) -> Level:
    """The worst of some verdicts; "good" if there are none.

    Examples:
        >>> worst(["good", "look closer", "not checked"])
        'look closer'
    """
    return max(levels, key=LEVELS.index, default="good")


def grade_low(value: float, good: float, fair: float) -> Level:
    """Where a number that should be small stands; NaN is the worst."""
    if value <= good:
        return "good"
    return "look closer" if value <= fair else "do not trust"


def grade_high(value: float, good: float, fair: float) -> Level:
    """Where a number that should be large stands; NaN is the worst."""
    return grade_low(-value, -good, -fair)


def check_of(name: str, value: str, advice: Mapping[Level, str], *levels: Level) -> Check:
    """A check whose verdict is the worst of some, with the advice for it."""
    level = worst(levels)
    return Check(name, value, level, advice.get(level, "Nothing to do."))


def number(value: float | None) -> float:
    """A number, NaN in place of None."""
    return math.nan if value is None else value
