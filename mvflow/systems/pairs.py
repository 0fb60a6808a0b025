"""Whether rows that lack modalities have enough pairs for what is learned from pairs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import combinations

import torch

from mvflow.core import PRESENT, DataError, UsageError
from mvflow.projectors import Objective
from mvflow.stages import Rows

__all__ = ["check_pairs"]

BLOCK_ROWS = 8192


def check_pairs(names: Sequence[str], objective: Objective, batch_size: int, rows: Rows) -> None:
    """Refuse batches in which a pair of modalities has too few rows that have both.

    Pairs that no row has together are left out: another modality has to link them.

    Raises:
        DataError: naming a pair, how many rows of a batch have both, and how many are needed.
        UsageError: if the objective takes complete rows alone.
    """
    columns = next(iter(rows.batches(1)))
    masks = {
        name: torch.cat([b[PRESENT + name] for b in rows.only(PRESENT + name).batches(BLOCK_ROWS)])
        for name in names
        if PRESENT + name in columns
    }
    if not masks:
        return
    if "present" not in inspect.signature(objective.loss).parameters:
        msg = (
            f"projector {objective.kind!r} compares complete rows alone, for its loss takes no "
            "'present': choose another projector, or leave out the rows that lack modalities"
        )
        raise UsageError(msg)
    there = {name: mask.reshape(len(mask), -1).any(1) for name, mask in masks.items()}
    everywhere = torch.ones_like(next(iter(there.values())))
    there = {name: there.get(name, everywhere) for name in names}
    batch = min(batch_size, len(rows))
    for a, b in combinations(names, 2):
        share = float((there[a] & there[b]).double().mean())
        if 0 < share * batch < objective.min_rows:
            needed = int(objective.min_rows / share) + 1
            msg = (
                f"{share:.1%} of the rows have both {a!r} and {b!r}, about {share * batch:.0f} of "
                f"a batch of {batch}, but {type(objective).__name__} needs {objective.min_rows}: "
                f"set projectors.batch_size={needed}"
            )
            raise DataError(msg)
    if not any((there[a] & there[b]).any() for a, b in combinations(names, 2)):
        msg = "no row has two modalities: projectors have nothing to learn from"
        raise DataError(msg)
