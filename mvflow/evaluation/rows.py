"""Which rows and which subsets of modalities an evaluation takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.core import generator

__all__ = ["EvaluationRows", "Indices", "batches", "chosen_subsets", "direction"]

BATCH_ROWS = 2048
"""Rows generated and measured at once."""

Indices = NDArray[np.int64]


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

    @classmethod
    def of(cls, count: int, settings: Any, seed: int) -> EvaluationRows:
        """Choose from `count` rows; `reference` avoids the chosen ones where rows are enough."""
        order = generator(seed, "evaluation rows").permutation(count)
        chosen, rest = order[: settings.rows], order[settings.rows :]
        is_apart = len(rest) >= len(chosen)
        wanted = max(settings.rows, settings.prior_draws)
        reference = (rest if is_apart else order)[:wanted]
        return cls(chosen, chosen[: settings.product_rows], reference, is_apart)


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
