"""Rows of sources as a source: a view of some of one, or a copy of some of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core.covariates import Covariate
from mvflow.core.door import UNLABELLED
from mvflow.core.presence import present_columns, row_presence
from mvflow.core.sources import check_rows
from mvflow.core.types import PRESENT, Column, Modality, Source

__all__ = ["SelectedRows", "TakenRows", "complete_rows"]


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


class TakenRows:
    """A copy in memory of all rows of one source or of several, one after another.

    Args:
        sources: all with the same modalities and covariates.

    Examples:
        >>> from mvflow.core import ArraySource
        >>> source = ArraySource({"a": np.arange(4.0)[:, None]}, covariates={"batch": [*"ABAB"]})
        >>> taken = TakenRows([SelectedRows(source, [3]), SelectedRows(source, [0, 1])])
        >>> taken.take([0, 2])["a"].ravel(), sorted(taken.columns())
        (array([3., 1.], dtype=float32), ['a', 'covariates/batch'])
    """

    factors: dict[str, NDArray[Any]]

    def __init__(self, sources: Sequence[Source]) -> None:
        parts = [source.take(np.arange(len(source))) for source in sources]
        first = sources[0]
        self.modalities: tuple[Modality, ...] = first.modalities
        self.covariates: dict[str, Covariate] = dict(getattr(first, "covariates", {}))
        self._arrays: dict[str, NDArray[Any]] = {}
        for name in dict.fromkeys(key for part in parts for key in part):
            each: list[Any] = [part.get(name) for part in parts]
            if name.startswith(PRESENT):
                each = _masks_alike(each, [len(source) for source in sources])
            self._arrays[name] = np.concatenate(each)
        labels = [source.labels for source in sources if source.labels is not None]
        self.labels = np.concatenate(labels) if len(labels) == len(sources) else None
        self.factors = {}
        self._rows = sum(map(len, sources))

    def __len__(self) -> int:
        return self._rows

    def take(self, rows: ArrayLike) -> dict[str, NDArray[Any]]:
        """Arrays of the given rows; see `Source.take`."""
        at = check_rows(rows, self._rows, "the data")
        return {name: x[at] for name, x in self._arrays.items()}

    def columns(self) -> dict[str, Column]:
        """All arrays; rows that lack a modality have the index -1."""
        columns = {}
        for name, x in self._arrays.items():
            mask = self._arrays.get(PRESENT + name)
            if name.startswith(PRESENT) and x.ndim == 1:
                continue
            index = None
            if mask is not None:
                has = mask.reshape(self._rows, -1).any(1)
                index = None if has.all() else np.where(has, np.arange(self._rows), -1)
            columns[name] = Column(x, index)
        return columns


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


def _masks_alike(masks: Sequence[NDArray[Any] | None], rows: Sequence[int]) -> list[Any]:
    """Masks of one modality in several parts, of entries where any is; None: nothing is absent."""
    ndim, shape = max((x.ndim, x.shape[1:]) for x in masks if x is not None)
    alike = []
    for mask, count in zip(masks, rows, strict=True):
        own = np.ones(count, np.bool_) if mask is None else mask
        spread = own.reshape(*own.shape, *[1] * (ndim - own.ndim))
        alike.append(np.broadcast_to(spread, (count, *shape)))
    return alike
