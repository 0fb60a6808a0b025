"""Whether there are enough pairs for what is learned from pairs, and whether it was learned."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from mvflow.core import PRESENT, DataError, Observed, UsageError
from mvflow.nn import ModalityDict, seeded
from mvflow.projectors import Objective
from mvflow.stages import Rows

__all__ = ["check_pairs", "present_rows", "warn_unless_learned"]

_log = logging.getLogger(__name__)

BLOCK_ROWS = 8192

SHUFFLES = 20
"""Times that rows are paired at random."""


def present_rows(names: Sequence[str], rows: Rows) -> dict[str, Tensor]:
    """Modality -> bool (rows,), which rows have it; those alone that some row may lack."""
    columns = next(iter(rows.batches(1)))
    masks = {
        name: torch.cat([b[PRESENT + name] for b in rows.only(PRESENT + name).batches(BLOCK_ROWS)])
        for name in names
        if PRESENT + name in columns
    }
    return {name: mask.reshape(len(mask), -1).any(1) for name, mask in masks.items()}


def check_pairs(names: Sequence[str], objective: Objective, batch_size: int, rows: Rows) -> None:
    """Refuse batches in which a pair of modalities has too few rows that have both.

    Pairs that no row has together are left out: another modality has to link them.

    Raises:
        DataError: naming a pair, how many rows of a batch have both, and how many are needed.
        UsageError: if the objective takes complete rows alone.
    """
    masks = present_rows(names, rows)
    if not masks:
        return
    if "present" not in inspect.signature(objective.loss).parameters:
        msg = (
            f"projector {objective.kind!r} compares complete rows alone, for its loss takes no "
            "'present': choose another projector, or leave out the rows that lack modalities"
        )
        raise UsageError(msg)
    everywhere = torch.ones_like(next(iter(masks.values())))
    there = {name: masks.get(name, everywhere) for name in names}
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


@torch.no_grad()
def warn_unless_learned(
    networks: ModalityDict, objective: Objective, batch_size: int, rows: Rows
) -> None:
    """Say so where a row's own pair is no better for the objective than another row's.

    A contrastive loss can stay for hundreds of steps where it begins, at the loss of chance.
    """
    with seeded(0, "pairs"):
        chosen = rows.subset(torch.randperm(len(rows))[:batch_size])
        observed = Observed.from_columns(next(iter(chosen.batches(batch_size))))
        has = torch.ones(len(chosen), dtype=torch.bool)
        for name in observed.x:
            if (mask := observed.is_present(name)) is not None:
                has &= mask.to(has.device)
        if has.sum() < objective.min_rows:
            return
        projections = {n: networks[n](observed.encodable(n))[has] for n in sorted(observed.x)}
        first, *others = projections
        loss = float(objective.loss(projections))
        shuffled = []
        for _ in range(SHUFFLES):
            mixed = {n: projections[n][torch.randperm(int(has.sum()))] for n in others}
            shuffled.append(float(objective.loss({first: projections[first], **mixed})))
    spread, mean = torch.std_mean(torch.tensor(shuffled, dtype=torch.float64))
    if loss > mean - 3 * spread:
        _log.warning(
            "projectors have learned nothing: for rows that belong together their loss is %.4g, "
            "for rows paired at random %.4g: raise projectors.epochs, or try less dropout and "
            "augmentation, or another batch_size",
            loss,
            mean,
        )
