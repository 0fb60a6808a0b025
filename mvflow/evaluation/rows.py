"""Which rows and which subsets of modalities an evaluation takes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.core import (
    PRESENT,
    UNLABELLED,
    Source,
    generator,
    present_columns,
    row_presence,
)

__all__ = [
    "MIN_SCORED",
    "EvaluationRows",
    "Indices",
    "PresentRows",
    "batches",
    "chosen_subsets",
    "direction",
]

BATCH_ROWS = 2048
"""Rows generated and measured at once."""
MIN_SCORED = 2
"""Rows that have what is compared, from which on it is scored."""

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PresentRows:
    """What each row of a source has, where some rows lack modalities, values or their class.

    Args:
        has: modality -> bool (rows,), rows that have it.
        full: modality -> bool (rows,), rows that have all of its values.
        labelled: bool (rows,), rows whose class is known; None without classes.
    """

    has: Mapping[str, Mask]
    full: Mapping[str, Mask]
    labelled: Mask | None

    @classmethod
    def of(cls, source: Source) -> PresentRows | None:
        """From a source; None if nothing is absent in it.

        Examples:
            >>> from mvflow.core import ArraySource
            >>> x = np.array([[1.0, np.nan], [3.0, 4.0], [np.nan, np.nan]])
            >>> rows = ArraySource({"a": np.ma.masked_invalid(x), "b": np.ones((3, 1))})
            >>> PresentRows.of(rows).has["a"], PresentRows.of(rows).full["a"]
            (array([ True,  True, False]), array([False,  True, False]))
        """
        masks, labels = present_columns(source.columns()), source.labels
        is_labelled = labels is None or (labels != UNLABELLED).all()
        if not masks and is_labelled:
            return None
        has = row_presence(source)
        full = dict(has)
        for key, mask in masks.items():
            if len(mask.values.shape) > 1:
                each = [
                    np.asarray(mask.values[i : i + BATCH_ROWS]).reshape(-1, mask.values[0].size)
                    for i in range(0, len(mask.values), BATCH_ROWS)
                ]
                of_values = np.concatenate([rows.all(1) for rows in each])
                at = np.arange(len(source)) if mask.index is None else mask.index
                full[key.removeprefix(PRESENT)] = (at >= 0) & of_values[at]
        return cls(has, full, None if labels is None else labels != UNLABELLED)

    @property
    def complete(self) -> Mask:
        """Rows that have all modalities."""
        return np.logical_and.reduce(list(self.has.values()))


class EvaluationRows(NamedTuple):
    """Which rows of a source are used for what."""

    chosen: Indices
    """To condition on, where draws need no sampler."""
    few: Indices
    """Where they do: the first of those chosen."""
    reference: Indices
    """Real rows that generated ones are compared with."""
    is_apart: bool
    """Whether `reference` has none of the chosen rows."""
    order: Indices
    """All rows: complete ones first, and among these ones whose class is known."""
    present: PresentRows | None
    """What each row has; None if they lack nothing."""

    @classmethod
    def of(
        cls, count: int, settings: Any, seed: int, present: PresentRows | None = None
    ) -> EvaluationRows:
        """Choose from `count` rows; `reference` avoids the chosen ones where rows are enough.

        Rows that lack a modality are chosen only if no row has all.
        """
        order, limit = generator(seed, "evaluation rows").permutation(count), settings.rows
        if present is not None:
            complete = present.complete
            known = complete if present.labelled is None else present.labelled
            order = order[np.lexsort((~known[order], ~complete[order]))]
            limit = min(limit, int(complete.sum())) or limit
        chosen, rest = order[:limit], order[limit:]
        is_apart = len(rest) >= len(chosen)
        wanted = max(settings.rows, settings.prior_draws)
        reference = (rest if is_apart else order)[:wanted]
        few = chosen[: settings.product_rows]
        return cls(chosen, few, reference, is_apart, order, present)

    @property
    def is_complete(self) -> bool:
        """Whether the chosen rows have all modalities."""
        return self.present is None or bool(self.present.complete[self.chosen].all())

    def having(self, names: Collection[str], limit: int) -> Indices:
        """The chosen rows; where some lack modalities, the first that have all those named."""
        if self.present is None:
            return self.chosen
        kept = np.logical_and.reduce([self.present.has[n][self.order] for n in names])
        return self.order[kept][:limit]

    def has(self, name: str, at: Indices) -> Mask:
        """Which of some rows have a modality."""
        return np.ones(len(at), bool) if self.present is None else self.present.has[name][at]

    def is_full(self, name: str, at: Indices) -> Mask:
        """Which of some rows have all values of a modality."""
        return np.ones(len(at), bool) if self.present is None else self.present.full[name][at]

    def is_labelled(self, at: Indices) -> Mask:
        """Of which of some rows the class is known."""
        if self.present is None or self.present.labelled is None:
            return np.ones(len(at), bool)
        return self.present.labelled[at]


def chosen_subsets(
    names: Sequence[str], per_size: int, seed: int
) -> dict[int, list[tuple[str, ...]]]:
    """Subsets to condition on, by number of observed modalities.

    Args:
        names: of all modalities.
        per_size: how many of each size are drawn, if there are more; of single modalities, and
            of all but one, all are taken.
        seed: of what is drawn.

    Examples:
        >>> chosen_subsets(["a", "b", "c"], 1, 0)
        {1: [('a',), ('b',), ('c',)], 2: [('a', 'b'), ('a', 'c'), ('b', 'c')]}
        >>> [len(found) for found in chosen_subsets("abcdef", 2, 0).values()]
        [6, 2, 2, 2, 6]
    """
    known, out = sorted(names), {}
    for size in range(1, len(known)):
        if size in (1, len(known) - 1) or comb(len(known), size) <= per_size:
            out[size] = list(combinations(known, size))
            continue
        rng, drawn = generator(seed, "subsets", size), set[tuple[str, ...]]()
        while len(drawn) < per_size:
            at = np.sort(rng.choice(len(known), size, replace=False))
            drawn.add(tuple(known[i] for i in at))
        out[size] = sorted(drawn)
    return out


def direction(given: tuple[str, ...], target: str) -> str:
    """Key of a direction of generation.

    Examples:
        >>> direction(("m1", "m0"), "m2")
        'm0+m1->m2'
    """
    return f"{'+'.join(sorted(given))}->{target}"


def batches(rows: Indices, size: int | None = None) -> Iterator[tuple[slice, Indices]]:
    """Row numbers in pieces of `BATCH_ROWS` or `size`, each with its place among them."""
    step = BATCH_ROWS if size is None else size
    for start in range(0, len(rows), step):
        place = slice(start, min(start + step, len(rows)))
        yield place, rows[place]
