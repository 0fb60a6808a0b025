"""Style of all figures, and their bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "CLASS_COLOURS",
    "ENTRY_COLOURS",
    "GROUND",
    "INK",
    "LINE",
    "MUTED",
    "POINTS",
    "WRONG",
    "as_png",
    "as_svg",
    "colour",
    "new_figure",
    "style",
]

INK, MUTED, LINE, GROUND, WRONG = "#1f2933", "#66727f", "#dfe3e8", "#f2f3f4", "#e0202b"
ENTRY_COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9",
    "#d55e00", "#8c8c8c", "#6a3d9a", "#8b5a2b",
)  # fmt: skip
"""Okabe and Ito's palette, safe for colour-blind readers, with two more: a table of the paper has
nine systems."""
CLASS_COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""Petroff's ten colours, chosen for accessibility."""
DARK = {
    INK: "#e4e8ec", MUTED: "#9ba8b5", LINE: "#333c46", GROUND: "#20272f",
    "#0072b2": "#2f93d1", "#bd1f01": "#ee5a3c", "#832db6": "#b372dd",
    "#6a3d9a": "#a47bd1", "#8b5a2b": "#c08d57",
}  # fmt: skip
"""Colours that a page in dark mode exchanges: of lines and words, and those that are too dark."""
POINTS = "#2b8cd6"
"""Of points that are pixels, which cannot be exchanged: to be seen on white and in the dark."""

SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "mvflow",
    "image.composite_image": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings while figures are drawn and written; put back afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast(Any, SETTINGS))
        yield


def new_figure(width: float, height: float, *, fitted: bool = True) -> Figure:
    """An empty figure, its size in pixels of the page; `fitted` lays out its axes by itself."""
    from matplotlib.figure import Figure

    layout: Any = "constrained" if fitted else None
    return Figure(figsize=(width / 100, height / 100), dpi=100, layout=layout)


def colour(index: int) -> str:
    """Colour of the model at this place."""
    return ENTRY_COLOURS[index % len(ENTRY_COLOURS)]


def as_png(figure: Figure) -> bytes:
    """The figure as PNG on white, two pixels to one of the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white")
    return buffer.getvalue()


def as_svg(figure: Figure, *, themed: bool = False) -> bytes:
    """The figure as SVG; the same figure gives the same bytes.

    Args:
        figure: what to write.
        themed: follow the reader's choice of light or dark, on a transparent ground.
    """
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    ground = "none" if themed else "white"
    figure.savefig(buffer, format="svg", dpi=200, metadata=nothing, facecolor=ground)
    if not themed:
        return buffer.getvalue()
    svg = buffer.getvalue().decode()
    for i, light in enumerate(DARK):
        svg = svg.replace(f": {light}", f": var(--c{i})")
    by_day, by_night = (
        "".join(f"--c{i}:{colours};" for i, colours in enumerate(theme))
        for theme in (DARK, DARK.values())
    )
    rules = f":root{{{by_day}}}@media (prefers-color-scheme: dark){{:root{{{by_night}}}}}"
    return svg.replace('<style type="text/css">', f'<style type="text/css">{rules}', 1).encode()
