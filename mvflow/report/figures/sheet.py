"""Sheets of small pictures: a row of a modality as an image, a curve or bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.core import PRESENT, UsageError, intensities, nan_absent
from mvflow.report.figures.canvas import GROUND, INK, MUTED, WRONG, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvflow.core import Modality

__all__ = ["GAP", "TILE", "PlotSpec", "Sheet", "known_values", "label_width", "plot_spec"]

TILE, GAP = 72, 6
"""Pixels of a small picture, and between two of them, at twice the size of the page."""
FONT_SIZE = 7.5
"""Points of a label."""


class PlotSpec(NamedTuple):
    """How rows of a modality are drawn."""

    kind: Literal["image", "curve", "bars"]
    shape: tuple[int, ...]
    low: float
    """Value drawn black, or at the bottom."""
    high: float
    """Value drawn white, or at the top."""
    width: int
    """Pixels across."""


def plot_spec(
    modality: Modality, real: NDArray[Any], image_shape: tuple[int, ...] | None = None
) -> PlotSpec:
    """How to draw a modality, on a scale that real rows fill.

    Args:
        modality: its specification.
        real: some rows of it, NaN where a value is absent.
        image_shape: (height, width) of flat rows that are images.

    Raises:
        UsageError: if the rows have another number of values than the image.

    Examples:
        >>> from mvflow.core import Modality
        >>> rows = np.zeros((4, 240))
        >>> plot_spec(Modality("m", (240,)), rows).kind
        'curve'
        >>> plot_spec(Modality("m", (240,)), rows, (16, 15)).kind
        'image'
    """
    shape = image_shape or modality.shape
    if math.prod(shape) != modality.size:
        msg = (
            f"modality {modality.name!r} has {modality.size} values: they do not fill an image of "
            f"{' x '.join(map(str, shape))}"
        )
        raise UsageError(msg)
    if modality.kind == "categorical":
        return PlotSpec("bars", shape, 0.0, 1.0, TILE)
    values = np.asarray(real, np.float64) / (255 if real.dtype == np.uint8 else 1)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3)):
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        width = round(TILE * min(max(shape[-1] / shape[-2], 0.4), 2.5))
        return PlotSpec("image", shape, low, max(high, low + 1e-9), width)
    margin = 0.08 * (high - low) or 1.0
    return PlotSpec("curve", shape, low - margin, high + margin, round(1.4 * TILE))


def known_values(x: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """Rows of a modality as pictures show them: NaN in place of values that are absent.

    Examples:
        >>> known_values({"a": np.zeros((1, 2)), "present/a": np.array([[True, False]])}, "a")
        array([[ 0., nan]])
    """
    mask = x.get(PRESENT + name)
    return x[name] if mask is None else nan_absent(intensities(x[name]), mask)


def label_width(words: str) -> int:
    """Pixels of a sheet that a label takes."""
    from matplotlib.textpath import TextPath

    points = TextPath((0, 0), words, size=FONT_SIZE).get_extents().width if words.strip() else 0
    return math.ceil(points * 200 / 72)


class Sheet:
    """A transparent sheet for small pictures, labels and frames, placed by pixel.

    Args:
        width: pixels across, two to a pixel of the page.
        height: pixels down.
    """

    def __init__(self, width: int, height: int) -> None:
        self.pixels = np.zeros((height, width, 4), np.uint8)
        self.lines: list[NDArray[np.float64]] = []
        self.bars: list[NDArray[np.float64]] = []
        self.grounds: list[tuple[int, int, int, int]] = []
        self.frames: list[tuple[int, int, int, int]] = []
        self.labels: list[tuple[float, float, str, dict[str, Any]]] = []

    def place(
        self, spec: PlotSpec, value: NDArray[Any], x: int, y: int, *, wrong: bool = False
    ) -> None:
        """Put one row of a modality with its upper left corner at (x, y)."""
        if spec.kind == "image":
            picture = _picture(spec, value)
            height, width = picture.shape[:2]
            top, left = y + (TILE - height) // 2, x + (spec.width - width) // 2
            box = self.pixels[top : top + height, left : left + width]
            box[...] = picture
            if (picture[..., 3] < 255).any():
                self.grounds.append((left, top, width, height))
        else:
            self.grounds.append((x, y, spec.width, TILE))
            levels = _levels(spec, value)
            across = x + 4 + (spec.width - 8) * (np.arange(len(levels)) + 0.5) / len(levels)
            points = np.stack([across, y + TILE - 4 - (TILE - 8) * levels], -1)
            if spec.kind == "curve":
                self.lines.append(points)
            else:
                self.bars += [np.array([[a, y + TILE - 4], [a, d]]) for a, d in points]
        if wrong:
            self.frames.append((x - 1, y - 1, spec.width + 2, TILE + 2))

    def label(self, x: float, y: float, words: str, **options: Any) -> None:
        """Write words; options are those of matplotlib's `text`."""
        self.labels.append((x, y, words, {"fontsize": FONT_SIZE, "color": MUTED, **options}))

    def draw(self, axes: Axes) -> None:
        """Show the sheet in axes, which take its proportions."""
        from matplotlib.collections import LineCollection
        from matplotlib.patches import Rectangle

        height, width = self.pixels.shape[:2]
        axes.set_axis_off()
        for x, y, w, h in self.grounds:
            axes.add_patch(Rectangle((x, y), w, h, fc=GROUND, lw=0, zorder=-1))
        if self.pixels.any():
            axes.imshow(self.pixels, extent=(0, width, height, 0), interpolation="nearest")
        axes.add_collection(LineCollection(self.lines, colors=INK, linewidths=0.8))
        axes.add_collection(LineCollection(self.bars, colors=INK, linewidths=1.6))
        for x, y, w, h in self.frames:
            axes.add_patch(Rectangle((x, y), w, h, fill=False, ec=WRONG, lw=1.3, clip_on=False))
        for left, top, words, options in self.labels:
            axes.text(left, top, words, **options)
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")

    def figure(self) -> Figure:
        """The sheet alone, pixel by pixel."""
        height, width = self.pixels.shape[:2]
        figure = new_figure(width / 2, height / 2, fitted=False)
        self.draw(figure.add_axes((0, 0, 1, 1)))
        return figure


def _levels(spec: PlotSpec, value: NDArray[Any]) -> NDArray[np.float64]:
    """Heights of a curve or of bars, 0 to 1, NaN where absent; a class as its indicator."""
    if spec.kind == "bars" and value.ndim == 0:
        is_known = np.isfinite(value)
        value = np.eye(spec.shape[0])[int(value)] if is_known else np.full(spec.shape, np.nan)
    unit = (np.ravel(value).astype(np.float64) - spec.low) / (spec.high - spec.low)
    return np.asarray(np.clip(unit, 0, 1))


def _picture(spec: PlotSpec, value: NDArray[Any]) -> NDArray[np.uint8]:
    """RGBA picture that fits into a tile; pixels stay sharp, absent ones are transparent."""
    from PIL import Image

    scaled = np.reshape(value / 255 if value.dtype == np.uint8 else value, spec.shape)
    grey = np.clip((np.asarray(scaled, np.float64) - spec.low) / (spec.high - spec.low), 0, 1)
    image = np.round(255 * np.nan_to_num(grey)).astype(np.uint8)
    image = np.moveaxis(image if image.ndim == 3 else image[None], 0, -1)
    known = ~np.isnan(grey).reshape(-1, *grey.shape[-2:]).any(0)
    rgb = np.broadcast_to(image, (*image.shape[:2], 3))
    rgba = np.concatenate([rgb, np.where(known, np.uint8(255), np.uint8(0))[..., None]], -1)
    scale = min(TILE / rgb.shape[0], spec.width / rgb.shape[1])
    size = (max(1, round(scale * rgb.shape[1])), max(1, round(scale * rgb.shape[0])))
    times = max(1, round(4 * scale))
    large = rgba.repeat(times, 0).repeat(times, 1)
    return np.asarray(Image.fromarray(large).resize(size, Image.Resampling.BOX))
