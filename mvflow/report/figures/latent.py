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
    from matplotlib.figure import Figure, SubFigure

__all__ = [
    "LatentScatter",
    "Panel",
    "density_levels",
    "latent_figure",
    "posterior_panel",
    "scatter_panel",
]

RAMPS = {0: ("#fbd0c4", "#7f0d12"), 1: ("#c9dffa", "#08306b")}
"""Light to dark of the two classes of a binary label: red and blue, as in the paper."""
FILL = ("#dcefd9", "#a9d8a0", "#63b365", "#23823b", "#0a4d20")
MASSES = (0.99, 0.9, 0.7, 0.45, 0.2)
WIDTH, HEIGHT = 540, 390
"""Pixels of a panel: square axes at the left, draws or a key at the right."""


class LatentScatter(NamedTuple):
    """Means of q(z|X) of test rows, in two dimensions."""

    z: NDArray[np.floating[Any]]
    """(rows, 2)."""
    labels: NDArray[np.int64] | None
    names: dict[int, str]
    """Label -> what it is called."""
    factor: NDArray[Any] | None = None
    """(rows,): darkness of the colour."""
    factor_name: str = ""
    radius: float = float("inf")
    """Of the ball outside which nothing is drawn."""
    axis_labels: tuple[str, str] = ("z₁", "z₂")
    square: bool = True
    """Both axes on one scale."""

    def limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Range of each axis: that of nearly all rows, on one scale if `square`."""
        if not self.square:
            low, high = self.z.min(0), self.z.max(0)
            margin = 0.06 * np.maximum(high - low, 1e-6)
            bounds = np.stack([low - margin, high + margin], -1).tolist()
            return tuple(bounds[0]), tuple(bounds[1])
        low, high = np.quantile(self.z, [0.003, 0.997], axis=0)
        middle, half = (low + high) / 2, 0.56 * max(float((high - low).max()), 1e-6)
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


def colours(scatter: LatentScatter) -> NDArray[np.float64] | str:
    """Colour of each row: its class, made lighter or darker by the factor."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba_array

    if scatter.labels is None:
        return MUTED
    classes = np.unique(scatter.labels)
    if set(classes.tolist()) <= {0, 1}:
        unit = np.full(len(scatter.z), 0.55)
        if scatter.factor is not None:
            span = np.ptp(scatter.factor) or 1
            unit = (scatter.factor - scatter.factor.min()) / span
        out = np.empty((len(unit), 4))
        for label, ramp in RAMPS.items():
            at = scatter.labels == label
            out[at] = LinearSegmentedColormap.from_list("", ramp)(unit[at])
        return out
    palette = to_rgba_array([CLASS_COLOURS[i % len(CLASS_COLOURS)] for i in range(len(classes))])
    return np.asarray(palette[np.searchsorted(classes, scatter.labels)])


def scatter_panel(part: Figure | SubFigure, scatter: LatentScatter, title: str) -> None:
    """Where test rows lie, with a key to the colours."""
    axes = _square(part, scatter, title)
    axes.scatter(
        scatter.z[:, 0], scatter.z[:, 1], s=5, c=colours(scatter), linewidths=0, rasterized=True
    )
    _ball(axes, scatter)
    if scatter.labels is None:
        return
    classes = [int(c) for c in np.unique(scatter.labels)]
    if scatter.factor is not None and set(classes) <= {0, 1}:
        _ramps(part, scatter, classes)
        return
    from matplotlib.lines import Line2D

    palette = dict(zip(scatter.labels.tolist(), colours(scatter), strict=True))
    handles = [
        Line2D([], [], ls="", marker="o", ms=5, color=palette[c], label=scatter.names[c])
        for c in classes[:14]
    ]
    part.legend(handles=handles, loc="center left", bbox_to_anchor=(0.715, 0.5))


def _ramps(part: Figure | SubFigure, scatter: LatentScatter, classes: Sequence[int]) -> None:
    """One bar of colour for each class, light to dark with the factor."""
    from matplotlib.colors import LinearSegmentedColormap

    assert scatter.factor is not None
    low, high = scatter.factor.min(), scatter.factor.max()
    for i, label in enumerate(sorted(classes, reverse=True)):
        key = part.add_axes((0.75 + 0.1 * i, 0.3, 0.035, 0.42))
        ramp = LinearSegmentedColormap.from_list("", RAMPS[label])
        key.imshow(np.linspace(0, 1, 64)[:, None], cmap=ramp, origin="lower", aspect="auto",
                   extent=(0, 1, float(low), float(high)))  # fmt: skip
        key.set_xticks([])
        key.set_yticks([low, high] if i == len(classes) - 1 else [])
        key.yaxis.tick_right()
        key.spines[:].set_visible(False)
        key.set_title(scatter.names[label], fontsize=8, pad=5)
    part.text(
        0.75, 0.25, f"dark = large\n{scatter.factor_name}", va="top", color=MUTED, fontsize=8
    )


def posterior_panel(part: Figure | SubFigure, panel: Panel) -> None:
    """Density of one posterior over the faint scatter, its row, and eight draws."""
    axes, z = _square(part, panel.scatter, panel.title), panel.scatter.z
    axes.scatter(z[:, 0], z[:, 1], s=4, c=colours(panel.scatter), alpha=0.22, linewidths=0,
                 rasterized=True)  # fmt: skip
    levels = density_levels(panel.log_density)
    (left, right), (bottom, top) = panel.scatter.limits()
    steps = panel.log_density.shape[0]
    across, up = np.linspace(left, right, steps), np.linspace(bottom, top, steps)
    if len(levels) > 1:
        shades = FILL[len(FILL) - len(levels) + 1 :]
        axes.contourf(across, up, panel.log_density, levels, colors=shades, alpha=0.85)
        edge: dict[str, Any] = {"colors": FILL[-1], "linewidths": 0.7, "linestyles": "solid"}
        axes.contour(across, up, panel.log_density, levels[:1], **edge)
    _ball(axes, panel.scatter)
    _inset(part, panel)
    _strip(part, panel)


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


def _square(part: Figure | SubFigure, scatter: LatentScatter, title: str) -> Axes:
    axes: Axes = part.add_axes((0.097, 0.105, 0.6, 0.6 * WIDTH / HEIGHT))
    (left, right), (bottom, top) = scatter.limits()
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_xlabel(scatter.axis_labels[0], labelpad=1)
    axes.set_ylabel(scatter.axis_labels[1], labelpad=1)
    axes.locator_params(nbins=6)
    axes.set_title(title)
    return axes


def _ball(axes: Axes, scatter: LatentScatter) -> None:
    from matplotlib.patches import Circle

    (left, right), (bottom, top) = scatter.limits()
    corner = float(np.hypot(max(-left, right), max(-bottom, top)))  # the farthest from 0
    if scatter.square and scatter.radius < corner:
        axes.add_patch(
            Circle((0, 0), scatter.radius, fill=False, ec=MUTED, lw=0.6, ls=(0, (4, 3)))
        )


def _inset(part: Figure | SubFigure, panel: Panel) -> None:
    spec, value = panel.given
    sheet = Sheet(spec.width, TILE)
    sheet.place(spec, value, 0, 0)
    height = 0.15
    width = height * HEIGHT / WIDTH * spec.width / TILE
    axes = part.add_axes((0.107, 0.105 + 0.6 * WIDTH / HEIGHT - height - 0.012, width, height))
    sheet.draw(axes)


def _strip(part: Figure | SubFigure, panel: Panel) -> None:
    spec, values = panel.draws
    columns = 2 if spec.width <= TILE else 1
    rows = -(-len(values) // columns)
    sheet = Sheet(columns * (spec.width + GAP) + GAP, rows * (TILE + GAP) + GAP)
    for i, value in enumerate(values):
        x = GAP + i % columns * (spec.width + GAP)
        y = GAP + i // columns * (TILE + GAP)
        sheet.place(spec, value, x, y, wrong=panel.wrong is not None and bool(panel.wrong[i]))
    axes = part.add_axes((0.705, 0.105, 0.29, 0.6 * WIDTH / HEIGHT))
    sheet.draw(axes)


def latent_figure(scatter: LatentScatter, title: str, panels: Sequence[Panel]) -> Figure:
    """All panels in one figure, two to a line, lettered as in the paper."""
    count = 1 + len(panels)
    columns = min(2, count)
    rows = -(-count // columns)
    figure = new_figure(columns * WIDTH, rows * HEIGHT, fitted=False)
    parts = np.ravel(figure.subfigures(rows, columns, squeeze=False))
    scatter_panel(parts[0], scatter, f"a) {title}")
    for i, panel in enumerate(panels):
        letter = chr(ord("b") + i)
        posterior_panel(parts[1 + i], panel._replace(title=f"{letter}) {panel.title}"))
    return figure
