"""Rows that were taken from sources, in memory, as a source of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core.covariates import Covariate
from mvflow.core.sources import check_rows
from mvflow.core.types import PRESENT, Column, Modality, Source

__all__ = ["TakenRows"]


class TakenRows:
    """Some rows of one source or of several with the same modalities, in memory.

    Args:
        sources: all with the same modalities and covariates.
        rows: of each source; by default all.

    Examples:
        >>> from mvflow.core import ArraySource
        >>> source = ArraySource({"a": np.arange(4.0)[:, None]}, covariates={"batch": [*"ABAB"]})
        >>> taken = TakenRows([source, source], [[3], [0, 1]])
        >>> taken.take([0, 2])["a"].ravel(), sorted(taken.columns())
        (array([3., 1.], dtype=float32), ['a', 'covariates/batch'])
        >>> taken.subset([2]).take([0])["a"].ravel()
        array([1.], dtype=float32)
    """

    factors: dict[str, NDArray[Any]]

    def __init__(self, sources: Sequence[Source], rows: Sequence[ArrayLike] | None = None) -> None:
        chosen = [np.arange(len(s)) for s in sources] if rows is None else [*map(np.asarray, rows)]
        parts = [s.take(at) for s, at in zip(sources, chosen, strict=True)]
        first = sources[0]
        self.modalities: tuple[Modality, ...] = first.modalities
        self.covariates: dict[str, Covariate] = dict(getattr(first, "covariates", {}))
        self._arrays: dict[str, NDArray[Any]] = {}
        for name in dict.fromkeys(key for part in parts for key in part):
            each: list[Any] = [part.get(name) for part in parts]
            if name.startswith(PRESENT):
                each = _masks_alike(
                    each, [len(part[name.removeprefix(PRESENT)]) for part in parts]
                )
            self._arrays[name] = np.concatenate(each)
        labels = [s.labels for s in sources]
        self.labels: NDArray[np.int64] | None = None
        if all(of is not None for of in labels):
            known = [np.asarray(of)[at] for of, at in zip(labels, chosen, strict=True)]
            self.labels = np.concatenate(known)
        self.factors = {}
        self._rows = sum(map(len, chosen))

    def __len__(self) -> int:
        return self._rows

    def subset(self, rows: ArrayLike) -> TakenRows:
        """Some of these rows."""
        return TakenRows([self], [rows])

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


def _masks_alike(masks: Sequence[NDArray[Any] | None], rows: Sequence[int]) -> list[Any]:
    """Masks of one modality in several parts, of entries where any is; None: nothing is absent."""
    ndim, shape = max((x.ndim, x.shape[1:]) for x in masks if x is not None)
    alike = []
    for mask, count in zip(masks, rows, strict=True):
        own = np.ones(count, np.bool_) if mask is None else mask
        spread = own.reshape(*own.shape, *[1] * (ndim - own.ndim))
        alike.append(np.broadcast_to(spread, (count, *shape)))
    return alike
