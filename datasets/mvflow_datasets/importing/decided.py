"""What was decided about the values of a modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from mvflow.core import Modality, Units

__all__ = ["NOISE", "Decided", "plain_number", "with_gaps"]

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
        present: part of the data -> bool (rows, *shape), which of its values are not absent;
            nothing for parts with all of them.
    """

    modality: Modality
    arrays: Mapping[str, Any]
    units: Units
    words: str
    transform: str = "none"
    warning: str = ""
    lines: tuple[str, ...] = ()
    present: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)


def with_gaps(decided: Decided) -> Decided:
    """The same with zeros in place of absent values, which are NaN, and with their masks."""
    arrays, present = dict(decided.arrays), {}
    for part, x in arrays.items():
        if issparse(x) or x.dtype.kind != "f" or not (absent := np.isnan(x)).any():
            continue
        arrays[part], present[part] = np.where(absent, x.dtype.type(0), x), ~absent
    if not present:
        return decided
    count = sum(int((~mask).sum()) for mask in present.values())
    total = sum(x.size for x in arrays.values())
    line = (
        f"{decided.modality.name}: {count:,} of {total:,} values are absent ({count / total:.1%})"
    )
    return replace(decided, arrays=arrays, present=present, lines=(*decided.lines, line))


def plain_number(value: Any) -> Any:
    """A number in four digits; texts stay."""
    return f"{value:.4g}" if isinstance(value, int | float | np.number | np.bool_) else value
