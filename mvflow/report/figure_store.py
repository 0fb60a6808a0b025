"""Figures on their way into the page and, if wanted, into a folder."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mvflow.report.figures.canvas import as_png, as_svg
from mvflow.report.markup import HTML, tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FigureStore"]


class FigureStore:
    """Turns figures into images of the page, and keeps PNG and SVG files of them.

    Args:
        folder: where the files go; None keeps none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.names: set[str] = set()

    def show(
        self, figure: Figure, name: str, alt: str, caption: object = None, *, vector: bool = False
    ) -> HTML:
        """The figure as an element of the page.

        Args:
            figure: what to show.
            name: name of its files.
            alt: what a reader who cannot see it should know.
            caption: printed below it.
            vector: embed SVG, for charts; else PNG at twice the size.
        """
        files = self.keep(figure, name)
        kind, suffix, draw = ("svg+xml", "svg", as_svg) if vector else ("png", "png", as_png)
        data = files[suffix] if files else draw(figure)
        width, height = (round(100 * inches) for inches in figure.get_size_inches())
        image = tag(
            "img",
            src=f"data:image/{kind};base64,{base64.b64encode(data).decode()}",
            alt=alt,
            width=width,
            height=height,
        )
        below = () if caption is None else (tag("figcaption", caption),)
        return tag("figure", image, *below)

    def keep(self, figure: Figure, name: str) -> dict[str, bytes]:
        """Write the figure's files, if there is a folder for them; suffix -> content."""
        if self.folder is None:
            return {}
        from mvflow.runs import write_atomically

        base = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "figure"
        free = next(
            n for n in (base, *(f"{base}-{i}" for i in range(2, 1000))) if n not in self.names
        )
        self.names.add(free)
        files = {"png": as_png(figure), "svg": as_svg(figure)}
        for suffix, data in files.items():
            path = self.folder / f"{free}.{suffix}"
            write_atomically(path, lambda p, data=data: p.write_bytes(data))  # type: ignore[misc]
        return files
