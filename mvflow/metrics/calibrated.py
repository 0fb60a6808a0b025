"""Calibrated intervals: by how much predictive intervals are widened, for new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import DataError, UsageError

__all__ = ["CalibratedIntervals"]

LEVELS = "levels"
SETTINGS = "draws"


@dataclass(frozen=True)
class CalibratedIntervals:
    """Margins by which central intervals of predictive draws are widened (split conformal).

    They were found on held-out rows, by direction and column: an interval so widened holds a new
    value with at least the probability of its level, if rows are exchangeable. A direction that
    was not measured takes, column by column, the widest of the same target and number of
    observed modalities. A target that is itself observed (`a+b->b`) stands for its single values.

    Args:
        levels: of the intervals.
        draws: of the predictive distribution, of which the intervals are quantiles.
        margins: direction (`a+b->c`) -> (levels, columns), in stored units; infinite where rows
            were too few.

    Examples:
        >>> wide = CalibratedIntervals((0.9,), 100, {"a->b": np.array([[0.5, 0.0]])})
        >>> wide.widened("b", ["a"], 0.9, [[1.0, 1.0]], [[2.0, 2.0]])
        (array([[0.5, 1. ]]), array([[2.5, 2. ]]))
    """

    levels: tuple[float, ...]
    draws: int
    margins: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def margin(self, target: str, given: Sequence[str], level: float) -> NDArray[np.float64]:
        """By how much intervals of each column are widened, (columns,).

        Raises:
            UsageError: if there is no such level, or nothing was measured of this target with so
                many observed modalities.
        """
        if level not in self.levels:
            known = ", ".join(f"{of:g}" for of in self.levels)
            msg = f"intervals were calibrated at the levels {known}: {level:g} is none of them"
            raise UsageError(msg)
        at = self.levels.index(level)
        own = self.margins.get(f"{'+'.join(sorted(given))}->{target}")
        if own is not None:
            return own[at]
        alike = [
            margin[at]
            for key, margin in self.margins.items()
            for names in [key.removesuffix(f"->{target}").split("+")]
            if key.endswith(f"->{target}")
            and (target in names) == (target in given)
            and (target in given or len(names) == len(given))
        ]
        if not alike:
            msg = (
                f"no intervals of {target!r} were calibrated with {len(given)} observed: "
                "evaluate the run on rows with these modalities"
            )
            raise UsageError(msg)
        return np.asarray(np.max(alike, axis=0))

    def widened(
        self, target: str, given: Sequence[str], level: float, low: ArrayLike, high: ArrayLike
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Ends (rows, columns) of calibrated intervals, from those of draws, in stored units."""
        margin = self.margin(target, given, level)
        return np.asarray(low) - margin, np.asarray(high) + margin

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """As named arrays, for a file."""
        return {
            LEVELS: np.array(self.levels),
            SETTINGS: np.array([self.draws], np.float64),
            **self.margins,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], where: str) -> CalibratedIntervals:
        """From named arrays.

        Args:
            arrays: as `to_arrays` gave them.
            where: what to call them in a message, such as the path of their file.

        Raises:
            DataError: if something is missing or has another shape.
        """
        margins = {k: np.asarray(v, np.float64) for k, v in arrays.items() if "->" in k}
        levels, draws = arrays.get(LEVELS), arrays.get(SETTINGS)
        if levels is None or draws is None or levels.ndim != 1 or draws.shape != (1,):
            msg = f"{where} holds no calibrated intervals: run 'mvflow evaluate' again"
            raise DataError(msg)
        for key, margin in margins.items():
            if margin.ndim != 2 or len(margin) != len(levels) or np.isnan(margin).any():
                msg = f"{where} is damaged: the margins of {key!r} are not (levels, columns)"
                raise DataError(msg)
        return cls(tuple(map(float, levels)), int(draws[0]), margins)
