"""Some rows of a source as a source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core.door import UNLABELLED
from mvflow.core.presence import present_columns, row_presence
from mvflow.core.sources import check_rows
from mvflow.core.types import Column, Modality, Source

__all__ = ["SelectedRows", "complete_rows"]


class SelectedRows:
    """The rows of a source with the given numbers, in their order; values are shared.

    Args:
        source: the rows that there are.
        rows: numbers of those wanted.

    Examples:
        >>> from mvflow.core import ArraySource
        >>> some = SelectedRows(ArraySource({"a": np.arange(4.0)[:, None]}), [3, 1])
        >>> len(some), some.take([0])["a"].tolist()
        (2, [[3.0]])
    """

    def __init__(self, source: Source, rows: ArrayLike) -> None:
        self._source, self._rows = source, check_rows(rows, len(source), "the data")
        self.modalities: tuple[Modality, ...] = source.modalities
        self.labels = None if source.labels is None else source.labels[self._rows]
        self.factors = {name: x[self._rows] for name, x in source.factors.items()}
        self.class_names: Mapping[int, str] = getattr(source, "class_names", {})
        self.factor_names: Mapping[str, str] = getattr(source, "factor_names", {})
        self.covariates = getattr(source, "covariates", {})

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: ArrayLike) -> dict[str, NDArray[Any]]:
        """Arrays of the given rows, by their place among those selected."""
        return self._source.take(self._rows[check_rows(rows, len(self), "the data")])

    def columns(self) -> dict[str, Column]:
        """All modalities as stored."""
        return {
            name: Column(c.values, self._rows if c.index is None else c.index[self._rows])
            for name, c in self._source.columns().items()
        }


def complete_rows(source: Source) -> Source:
    """The rows that have all modalities, of these the ones whose class is known, if there are any.

    A source that lacks nothing, or has no such rows, is returned as it is.

    Examples:
        >>> from mvflow.core import ArraySource
        >>> x = {"a": np.ones((3, 1)), "b": np.ones((3, 1))}
        >>> rows = ArraySource(x, present={"b": np.array([True, False, True])})
        >>> len(complete_rows(rows)), complete_rows(ArraySource(x)) is not None
        (2, True)
    """
    kept = np.ones(len(source), np.bool_)
    if present_columns(source.columns()):
        kept = np.logical_and.reduce(list(row_presence(source).values()))
    labels = source.labels
    known = kept if labels is None else kept & (labels != UNLABELLED)
    kept = known if known.any() else kept
    return SelectedRows(source, np.flatnonzero(kept)) if 0 < kept.sum() < len(source) else source
