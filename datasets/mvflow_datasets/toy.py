"""The toy set: a square and a circle, both full or both empty (paper, Appendix A.4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Modality, generator
from mvflow_datasets.builders import Builder, Content, Parameter
from mvflow_datasets.writing import SplitData

__all__ = ["BUILDER", "circle", "square"]

SIDE = 32
WIDTHS = range(10, 29)
OUTLINE = 2


def square(width: int, *, full: bool) -> NDArray[np.uint8]:
    """A centred square `width` pixels wide, white on black, (1, 32, 32).

    Examples:
        >>> int((square(10, full=True) == 255).sum())
        100
    """
    rows, columns = _from_centre(width)
    return _drawn(np.maximum(abs(rows), abs(columns)), width, full=full)


def circle(width: int, *, full: bool) -> NDArray[np.uint8]:
    """A centred circle `width` pixels wide, white on black, (1, 32, 32)."""
    rows, columns = _from_centre(width)
    return _drawn(np.hypot(rows, columns), width, full=full)


def _from_centre(width: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Signed distances of all pixels from the shape's centre, down and across.

    The centre of an odd width is the middle of a pixel, so that each width is met exactly.
    """
    line = np.arange(SIDE) - ((SIDE - width) // 2 + (width - 1) / 2)
    return line[:, None], line[None, :]


def _drawn(distance: NDArray[Any], width: int, *, full: bool) -> NDArray[np.uint8]:
    """Points nearer than half the width; of an empty shape, only those in its outline."""
    inside = distance < width / 2
    hole = distance < width / 2 - OUTLINE
    return np.where(inside & (full | ~hole), 255, 0).astype(np.uint8)[None]


SHAPES = {"square": square, "circle": circle}


def _split(rows: int, rng: np.random.Generator) -> SplitData:
    """Rows that share their class and draw their widths independently, half of each class."""
    labels = rng.permutation(np.arange(rows) % 2)
    widths = {name: rng.integers(len(WIDTHS), size=rows) + WIDTHS[0] for name in SHAPES}
    return SplitData(
        arrays={
            name: np.stack([draw(w, full=full) for full in (False, True) for w in WIDTHS])
            for name, draw in SHAPES.items()
        },
        labels=labels,
        pairs={name: labels * len(WIDTHS) + w - WIDTHS[0] for name, w in widths.items()},
        factors={f"{name}_width": w.astype(np.int16) for name, w in widths.items()},
    )


def _make(files: Mapping[str, Path], seed: int, *, rows: int, test_rows: int) -> Content:
    return Content(
        modalities=tuple(Modality(name, (1, SIDE, SIDE), "bernoulli") for name in SHAPES),
        splits={
            split: _split(n, generator(seed, "toy", split))
            for split, n in (("train", rows), ("test", test_rows))
        },
        class_names={0: "empty", 1: "full"},
        factor_names={f"{name}_width": f"{name} width (pixels)" for name in SHAPES},
    )


BUILDER = Builder(
    name="toy",
    summary="squares and circles of any width, both full or both empty (paper, A.4)",
    make=_make,
    parameters=(
        Parameter("rows", 200_000, "pairs for training"),
        Parameter("test_rows", 10_000, "pairs for testing"),
    ),
    about=(
        "Both shapes are centred and share nothing but whether they are full: half of the rows "
        "are. Their widths, 10 to 28 pixels, are drawn independently and kept as factors."
    ),
    licence="drawn by mvflow (Apache-2.0)",
)
