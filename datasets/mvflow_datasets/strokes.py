"""Pen strokes: reading them in UNIPEN text, drawing them, and points along them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError
from mvflow.core.files import read_bytes
from mvflow_datasets.lzw import MAX_UNPACKED, unpack_z

__all__ = ["Drawing", "Strokes", "read_unipen", "render", "sheared", "trajectory"]

Strokes = list[NDArray[np.float64]]
"""What the pen drew between touching and leaving the tablet: (points, 2) each, x right, y down."""

SIDE = 28
MARGIN = 0.6

_HEAD = re.compile(r'^\s*\S+ \? "(\d)"\s+\.COMMENT\s+(\d)\s+(\d+)\s+\d+\s')
_STROKE = re.compile(r"\.PEN_DOWN([\s\d-]*)\.PEN_UP")
_END = re.compile(r"\.DT\s+\d+\s*$")


class Drawing(NamedTuple):
    """One digit as it was written."""

    strokes: Strokes
    label: int
    writer: int
    """Number of the writer within the file."""


def read_unipen(path: Path) -> list[Drawing]:
    """Read digits as `pendigits-orig` publishes them: UNIPEN text, packed (`.Z`) or not.

    Each digit is a `.SEGMENT DIGIT` with its class, a `.COMMENT` with class, writer and number,
    and its strokes between `.PEN_DOWN` and `.PEN_UP`, one point a line, y upwards.

    Raises:
        DataError: if the file is damaged, or a digit has no ink; the message counts the digits.
    """
    data = read_bytes(path, MAX_UNPACKED)
    if path.suffix == ".Z":
        data = unpack_z(data, str(path))
    _, *segments = data.decode("latin-1").split(".SEGMENT DIGIT")
    if not segments:
        msg = f"{path} has no '.SEGMENT DIGIT': expected digits in UNIPEN text"
        raise DataError(msg)
    drawings = []
    for number, segment in enumerate(segments, start=1):
        try:
            drawings.append(_drawing(segment))
        except ValueError as error:
            msg = f"{path}, digit {number} of {len(segments)}: {error}"
            raise DataError(msg) from error
    return drawings


def _drawing(segment: str) -> Drawing:
    head = _HEAD.match(segment)
    if not head or head[1] != head[2]:
        msg = "expected its class, and a comment with that class, the writer and a number"
        raise ValueError(msg)
    segments = _STROKE.findall(segment)
    if len(segments) != segment.count(".PEN_DOWN") or not _END.search(segment):
        msg = "a stroke is cut off or is not made of whole numbers; download the file again"
        raise ValueError(msg)
    strokes = [_points(text) for text in segments]
    if not sum(map(_length, strokes)) > 0:
        msg = "it has no ink: expected strokes of at least two different points"
        raise ValueError(msg)
    return Drawing(strokes, int(head[1]), int(head[3]))


def _points(text: str) -> NDArray[np.float64]:
    values = np.array(text.split(), dtype=np.float64)
    if not values.size or values.size % 2:
        msg = f"a stroke has {values.size} numbers: expected pairs of x and y"
        raise ValueError(msg)
    return values.reshape(-1, 2) * (1, -1)


def _length(stroke: NDArray[np.float64]) -> float:
    return float(np.hypot(*np.diff(stroke, axis=0).T).sum())


def trajectory(strokes: Strokes, points: int = 100) -> NDArray[np.float64]:
    """Points at equal distances along the ink, in the unit square: all x, then all y downwards.

    The way in the air between two strokes has no length. The longer side of the bounding box
    becomes 1 and the shorter keeps its proportion, centred.

    Returns:
        (2 * points,) in [0, 1].

    Examples:
        >>> trajectory([np.array([[0.0, 0.0], [4.0, 2.0]])], 3)
        array([0.  , 0.5 , 1.  , 0.25, 0.5 , 0.75])
    """
    inked = [s for s in strokes if len(s) > 1] or strokes
    ends = np.cumsum([_length(s) for s in inked])
    at = np.linspace(0, ends[-1], points)
    which = np.minimum(np.searchsorted(ends, at), len(inked) - 1)
    out = np.empty((points, 2))
    for i, stroke in enumerate(inked):
        steps = np.hypot(*np.diff(stroke, axis=0).T)
        along = ends[i] - steps.sum() + np.concatenate([[0.0], np.cumsum(steps)])
        out[which == i] = np.stack([np.interp(at[which == i], along, x) for x in stroke.T], axis=1)
    low, high = _bounds(strokes)
    side = (high - low).max()
    return np.clip((out - (low + high) / 2) / side + 0.5, 0, 1).T.reshape(-1)


def render(strokes: Strokes, width: float, side: int = SIDE) -> NDArray[np.uint8]:
    """Draw the strokes as lines with round ends, white on black, anti-aliased.

    The ink's bounding box is centred in a square 1.6 times as large as its longer side (a margin
    of 60 %, as MHD has it). A pixel is as bright as a straight line covers of it, were the line
    parallel to the pixel's sides: by the distance from its centre to the nearest stroke.

    Args:
        strokes: what the pen drew.
        width: width of the lines in units of the longer side of the strokes' bounding box.
        side: of the image, in pixels.

    Returns:
        (1, side, side).
    """
    low, high = _bounds(strokes)
    extent = (high - low).max()
    pixel = (1 + MARGIN) * (1 + width) * extent / side
    corner = (low + high) / 2 - pixel * side / 2
    points = [(s - corner) / pixel - 0.5 for s in strokes]  # pixel centres at whole numbers
    starts = np.concatenate([p[:-1] if len(p) > 1 else p for p in points])
    ends = np.concatenate([p[1:] if len(p) > 1 else p for p in points])
    distance = np.sqrt(_nearest(starts, ends, side))
    cover = np.clip(width * extent / pixel / 2 + 0.5 - distance, 0, 1)
    return np.rint(255 * cover).astype(np.uint8)[None]


def _nearest(
    starts: NDArray[np.float64], ends: NDArray[np.float64], side: int
) -> NDArray[np.float64]:
    """Squared distance from each pixel's centre to the nearest segment, (side, side)."""
    line = np.arange(side)[:, None]
    dx, dy = (line - starts[:, k] for k in (0, 1))  # (side, segments)
    ux, uy = (ends - starts).T
    squared = ux**2 + uy**2
    inverse = 1 / np.where(squared > 0, squared, 1)  # a point is a segment of no length
    along = (dy * uy)[:, None] + (dx * ux)[None]
    t = np.clip(along * inverse, 0, 1)
    gaps = (dy**2)[:, None] + (dx**2)[None] - t * (2 * along - t * squared)
    return np.maximum(gaps.min(axis=-1), 0)


def sheared(strokes: Strokes, angle: float, slant: float) -> Strokes:
    """The strokes slanted, x by `slant` per unit of y, then turned by `angle` in radians.

    Examples:
        >>> sheared([np.array([[0.0, 1.0]])], 0.0, 0.5)
        [array([[0.5, 1. ]])]
    """
    cos, sin = np.cos(angle), np.sin(angle)
    change = np.array([[1, slant], [0, 1]]).T @ np.array([[cos, -sin], [sin, cos]]).T
    return [s @ change for s in strokes]


def _bounds(strokes: Strokes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points = np.concatenate(strokes)
    return points.min(axis=0), points.max(axis=0)
