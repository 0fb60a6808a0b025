"""The latent space (paper, Figure 2): where rows lie, and where a posterior puts its mass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.report.figures.canvas import CLASS_COLOURS, MUTED, new_figure
from mvflow.report.figures.sheet import GAP, TILE, PlotSpec, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

__all__ = [
    "LatentScatter",
    "Panel",
    "density_levels",
    "posterior_figure",
    "posteriors_figure",
    "scatter_figure",
]

RAMPS = ("Reds", "Blues")
"""Light to dark of the two classes of a binary label, as in the paper."""
FILL = ("#dcefd9", "#a9d8a0", "#63b365", "#23823b", "#0a4d20")
MASSES = (0.99, 0.9, 0.7, 0.45, 0.2)
WIDTH, HEIGHT, MAX_LEGEND = 540, 380, 14


class LatentScatter(NamedTuple):
    """Means of q(z|X) of test rows, in two dimensions."""

    z: NDArray[np.floating[Any]]
    """(rows, 2)."""
    labels: NDArray[np.int64] | None
    names: dict[int, str]
    """Label -> what it is called."""
    factor: NDArray[Any] | None = None
    """(rows,): darkness of the colour, for two classes."""
    factor_name: str = ""
    radius: float = float("inf")
    """Of the ball outside which nothing is drawn."""
    axis_labels: tuple[str, str] = ("z₁", "z₂")
    square: bool = True
    """Both axes on one scale."""

    def limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Range of each axis: that of nearly all rows, on one scale if `square`."""
        low, high = np.quantile(self.z, [0.003, 0.997] if self.square else [0, 1], axis=0)
        half = np.maximum(0.56 * (high - low), 1e-6)
        half, middle = (half.max() if self.square else half), (low + high) / 2
        bounds = np.stack([middle - half, middle + half], -1).tolist()
        return tuple(bounds[0]), tuple(bounds[1])


class Panel(NamedTuple):
    """The posterior of one row, and what is generated from it."""

    title: str
    scatter: LatentScatter
    log_density: NDArray[np.floating[Any]]
    """(steps, steps) on an even grid over the scatter's limits; rows are z_2."""
    given: tuple[PlotSpec, NDArray[Any]]
    draws: tuple[PlotSpec, NDArray[Any]]
    """PlotSpec and (n, *shape)."""
    wrong: NDArray[np.bool_] | None = None


def scatter_figure(scatter: LatentScatter, title: str) -> Figure:
    """Where test rows lie, with a key to the colours."""
    figure = new_figure(WIDTH, HEIGHT)
    _draw_scatter(figure, scatter, title)
    return figure


def posterior_figure(panel: Panel) -> Figure:
    """Density of one posterior over the faint scatter, its row, and eight draws."""
    figure = new_figure(WIDTH, HEIGHT)
    _draw_posterior(figure, panel)
    return figure


def posteriors_figure(scatter: LatentScatter, panels: Sequence[Panel]) -> Figure:
    """A latent space and posteriors in it, two in a row (paper, Figure 2)."""
    rows = -(-(1 + len(panels)) // 2)
    figure = new_figure(2 * WIDTH, rows * HEIGHT)
    space, *others = figure.subfigures(rows, 2, squeeze=False).ravel()
    _draw_scatter(space, scatter, "Latent space")
    for part, panel in zip(others, panels, strict=False):
        _draw_posterior(part, panel)
    return figure


def _draw_scatter(figure: FigureBase, scatter: LatentScatter, title: str) -> None:
    axes = figure.add_subplot()
    paths = _rows(axes, scatter, s=5)
    axes.set_title(title)
    if scatter.factor is not None:
        for path in paths[::-1]:
            bar = figure.colorbar(path, ax=axes, shrink=0.55, aspect=12)
            bar.ax.set_title(path.get_label(), fontsize=8)
            bar.outline.set_visible(False)
        figure.text(0.99, 0.02, f"dark = large {scatter.factor_name}", ha="right", color=MUTED)
    elif paths:
        figure.legend(handles=paths[:MAX_LEGEND], loc="outside right center", markerscale=2.5)


def _draw_posterior(figure: FigureBase, panel: Panel) -> None:
    axes, strip = figure.subplots(1, 2, width_ratios=(2, 1))
    _rows(axes, panel.scatter, s=4, alpha=0.25)
    axes.set_title(panel.title)
    levels = density_levels(panel.log_density)
    if len(levels) > 1:
        steps, limits = panel.log_density.shape[0], panel.scatter.limits()
        across, up = (np.linspace(low, high, steps) for low, high in limits)
        grid, shades = (across, up, panel.log_density), FILL[len(FILL) - len(levels) + 1 :]
        axes.contourf(*grid, levels, colors=shades, alpha=0.85)
        axes.contour(*grid, levels[:1], colors=FILL[-1], linewidths=0.7, linestyles="solid")
    spec, value = panel.given
    sheet = Sheet(spec.width, TILE)
    sheet.place(spec, value, 0, 0)
    sheet.draw(axes.inset_axes((0.02, 0.82, 0.16 * spec.width / TILE, 0.16)))
    _draws(panel).draw(strip)


def _draws(panel: Panel) -> Sheet:
    spec, values = panel.draws
    columns = 2 if spec.width <= TILE else 1
    sheet = Sheet(columns * (spec.width + GAP), -(-len(values) // columns) * (TILE + GAP))
    for i, value in enumerate(values):
        place = i % columns * (spec.width + GAP), i // columns * (TILE + GAP)
        sheet.place(spec, value, *place, wrong=panel.wrong is not None and bool(panel.wrong[i]))
    return sheet


def _rows(axes: Axes, scatter: LatentScatter, **style: Any) -> list[Any]:
    """Test rows, a colour for each class, lighter or darker by the factor; what was drawn."""
    from matplotlib.patches import Circle

    z, labels, factor = scatter.z, scatter.labels, scatter.factor
    style |= {"linewidths": 0, "rasterized": True}
    (left, right), (bottom, top) = scatter.limits()
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set(xlabel=scatter.axis_labels[0], ylabel=scatter.axis_labels[1])
    axes.set_box_aspect(1)
    if scatter.square and scatter.radius < np.hypot(max(-left, right), max(-bottom, top)):
        edge: dict[str, Any] = {"ec": MUTED, "lw": 0.6, "ls": (0, (4, 3))}
        axes.add_patch(Circle((0, 0), scatter.radius, fill=False, **edge))
    if labels is None:
        axes.scatter(z[:, 0], z[:, 1], color=MUTED, **style)
        return []
    paths = []
    for i, label in enumerate(np.unique(labels)):
        at = labels == label
        shade: dict[str, Any] = {"color": CLASS_COLOURS[i % len(CLASS_COLOURS)]}
        if factor is not None:
            low, high = float(factor.min()), float(factor.max())
            start = low - 0.3 * (high - low)  # the lightest tenths are hard to see
            shade = {"c": factor[at], "cmap": RAMPS[i], "vmin": start, "vmax": high}
        name = scatter.names[int(label)]
        short = name if len(name) < 20 else f"{name[:18]}…"
        paths.append(axes.scatter(z[at, 0], z[at, 1], label=short, **shade, **style))
    return paths


def density_levels(log_density: NDArray[np.floating[Any]]) -> list[float]:
    """Heights whose contours hold 99, 90, 70, 45 and 20 % of the mass on the grid, then the top.

    Examples:
        >>> x = np.linspace(-4, 4, 201)
        >>> levels = density_levels(-0.5 * (x[:, None] ** 2 + x**2))
        >>> bool(abs(levels[1] - np.log(0.1)) < 0.02)  # 90 % of a Gaussian in the plane
        True
    """
    flat = np.sort(np.where(np.isfinite(log_density), log_density, -np.inf).ravel())[::-1]
    if not np.isfinite(flat[0]):
        return []
    mass = np.cumsum(np.exp(flat - flat[0]))
    at = np.searchsorted(mass / mass[-1], MASSES)
    levels = [*flat[np.minimum(at, len(flat) - 1)].tolist(), float(flat[0]) + 1e-9]
    return sorted({level for level in levels if np.isfinite(level)})
