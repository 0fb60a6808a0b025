"""Figures on their way into the page and, if wanted, into a folder."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mvflow.report.figures.canvas import as_png, as_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FigureStore", "Image"]


class Image(NamedTuple):
    """A figure as the page shows it."""

    source: str
    width: int
    height: int
    alt: str
    """What a reader who cannot see it should know."""
    title: str
    caption: str


class FigureStore:
    """Turns figures into images of the page, and keeps PNG and SVG files of them.

    Args:
        folder: where the files go; None keeps none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.names: set[str] = set()

    def show(
        self, figure: Figure, name: str, alt: str, title: str = "", caption: str = ""
    ) -> Image:
        """The figure as an image of the page; `name` is that of its files."""
        self.keep(figure, name)
        data = base64.b64encode(as_svg(figure, themed=True)).decode()
        width, height = (round(100 * inches) for inches in figure.get_size_inches())
        return Image(f"data:image/svg+xml;base64,{data}", width, height, alt, title, caption)

    def keep(self, figure: Figure, name: str) -> None:
        """Write the figure's files, if there is a folder for them."""
        if self.folder is None:
            return
        from mvflow.runs import write_atomically

        base = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "figure"
        free = next(
            n for n in (base, *(f"{base}-{i}" for i in range(2, 1000))) if n not in self.names
        )
        self.names.add(free)
        for suffix, data in {"png": as_png(figure), "svg": as_svg(figure)}.items():
            path = self.folder / f"{free}.{suffix}"
            write_atomically(path, lambda p, data=data: p.write_bytes(data))  # type: ignore[misc]
