"""Grids of samples: draws beside what they were conditioned on, and rows of one kind each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.report.figures.sheet import GAP, TILE, PlotSpec, Sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Given", "Row", "conditional_grid", "row_grid"]

HEADER, BLOCK, CHARACTER = 34, 24, 13
"""Pixels: height of headings, distance between blocks, mean width of a letter."""


class Given(NamedTuple):
    """A modality that is conditioned on."""

    name: str
    spec: PlotSpec
    values: NDArray[Any]
    """(rows, *shape)."""


class Row(NamedTuple):
    """One row of small pictures, with a label at its left."""

    label: str
    spec: PlotSpec
    values: NDArray[Any]
    """(columns, *shape)."""
    wrong: NDArray[np.bool_] | None = None


def conditional_grid(
    given: Sequence[Given],
    target: str,
    spec: PlotSpec,
    draws: NDArray[Any],
    wrong: NDArray[np.bool_] | None,
) -> Figure:
    """Each row conditioned on at the left, its draws at the right.

    Args:
        given: what is conditioned on.
        target: name of the modality that was generated.
        spec: how that is drawn.
        draws: (n, rows, *shape).
        wrong: draws to frame in red, (n, rows).
    """
    n, rows = draws.shape[:2]
    pitch = TILE + GAP
    widths = [max(g.spec.width, CHARACTER * min(len(g.name), 14)) for g in given]
    left = sum(w + GAP for w in widths) + BLOCK
    sheet = Sheet(left + n * (spec.width + GAP), HEADER + rows * pitch)
    x = 2
    for part, width in zip(given, widths, strict=True):
        sheet.label(x, HEADER - 12, part.name, fontweight="bold")
        for r in range(rows):
            sheet.place(part.spec, part.values[r], x, HEADER + r * pitch)
        x += width + GAP
    sheet.label(left, HEADER - 12, f"{n} draws of {target}")
    for r in range(rows):
        for c in range(n):
            at = left + c * (spec.width + GAP), HEADER + r * pitch
            sheet.place(spec, draws[c, r], *at, wrong=wrong is not None and bool(wrong[c, r]))
    return sheet.figure()


def row_grid(rows: Sequence[Row], group: int = 1) -> Figure:
    """Rows of small pictures; columns belong together.

    Args:
        rows: from top to bottom.
        group: so many rows stand close together.
    """
    left = 12 + 11 * max(len(row.label) for row in rows)
    pitch = max(row.spec.width for row in rows) + GAP
    height = len(rows) * (TILE + GAP) + (len(rows) - 1) // group * GAP * 2
    sheet = Sheet(left + pitch * max(len(row.values) for row in rows), height)
    for r, row in enumerate(rows):
        y = 2 + r * (TILE + GAP) + r // group * GAP * 2
        sheet.label(0, y + TILE / 2, row.label, va="center")
        for c, value in enumerate(row.values):
            x = left + c * pitch + (pitch - GAP - row.spec.width) // 2
            sheet.place(row.spec, value, x, y, wrong=row.wrong is not None and bool(row.wrong[c]))
    return sheet.figure()
