"""What was decided about the values of a modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvflow.core import Modality, Units

__all__ = ["NOISE", "Decided", "plain_number"]

NOISE = 0.5
"""Standard deviation of the Normal as a share of the data's: a quarter of the variance."""


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """A modality as it will be stored.

    Args:
        modality: its specification.
        arrays: part of the data -> (rows, *shape) stored values, or a sparse matrix of them.
        units: how they came from those of the files.
        words: what was found and done, for the report.
        transform: what was done to the values.
        warning: what the user should look at, or nothing.
        lines: a sentence for each guess about columns.
    """

    modality: Modality
    arrays: Mapping[str, Any]
    units: Units
    words: str
    transform: str = "none"
    warning: str = ""
    lines: tuple[str, ...] = ()


def plain_number(value: Any) -> Any:
    """A number in four digits; texts stay."""
    return f"{value:.4g}" if isinstance(value, int | float | np.number | np.bool_) else value
