"""Grids of samples: draws beside what they were conditioned on, and rows of one kind each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.report.figures.sheet import GAP, TILE, PlotSpec, Sheet, label_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Strip", "conditional_grid", "row_grid"]

HEADER, BLOCK, CHARACTER, LABEL_START = 34, 24, 13, 4
"""Pixels: height of headings, distance between blocks, mean width of a letter, and where labels
begin: some letters reach to the left."""


class Strip(NamedTuple):
    """Some rows of one modality, with a label."""

    label: str
    spec: PlotSpec
    values: NDArray[Any]
    """(rows, *shape)."""


def conditional_grid(
    given: Sequence[Strip],
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
    widths = [max(g.spec.width, CHARACTER * min(len(g.label), 14)) for g in given]
    left = sum(w + GAP for w in widths) + BLOCK
    sheet = Sheet(left + n * (spec.width + GAP), HEADER + rows * (TILE + GAP))
    x, tops = 2, [HEADER + r * (TILE + GAP) for r in range(rows)]
    for part, width in zip(given, widths, strict=True):
        sheet.label(x, HEADER - 12, part.label, fontweight="bold")
        for value, top in zip(part.values, tops, strict=True):
            sheet.place(part.spec, value, x, top)
        x += width + GAP
    sheet.label(left, HEADER - 12, f"{n} draws of {target}")
    for c in range(n):
        for r, top in enumerate(tops):
            is_wrong = wrong is not None and bool(wrong[c, r])
            sheet.place(spec, draws[c, r], left + c * (spec.width + GAP), top, wrong=is_wrong)
    return sheet.figure()


def row_grid(strips: Sequence[Strip], group: int = 1, first: int = 0) -> Figure:
    """Rows of small pictures; columns belong together.

    Args:
        strips: from top to bottom.
        group: so many stand close together.
        first: strips at the top that are a group of their own, such as what is conditioned on.
    """
    left = LABEL_START + 16 + max(label_width(strip.label) for strip in strips)
    pitch = max(strip.spec.width for strip in strips) + GAP
    groups = [0] * first + [r // group + (first > 0) for r in range(len(strips) - first)]
    height = len(strips) * (TILE + GAP) + groups[-1] * GAP * 2
    sheet = Sheet(left + pitch * max(len(strip.values) for strip in strips), height)
    for r, strip in enumerate(strips):
        y = 2 + r * (TILE + GAP) + groups[r] * GAP * 2
        sheet.label(LABEL_START, y + TILE / 2, strip.label, va="center")
        for c, value in enumerate(strip.values):
            sheet.place(
                strip.spec, value, left + c * pitch + (pitch - GAP - strip.spec.width) // 2, y
            )
    return sheet.figure()
