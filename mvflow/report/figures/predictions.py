"""Predictions of tables: predicted against true values, coverage of intervals by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.report.figures.canvas import MUTED, POINTS, colour, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Points", "coverage_levels", "predicted_against_true"]

MAX_POINTS, FEW_POINTS = 1500, 300


class Points(NamedTuple):
    """True and predicted values of one target; NaN where one is absent."""

    title: str
    true: NDArray[Any]
    predicted: NDArray[Any]


def predicted_against_true(panels: Sequence[Points]) -> Figure:
    """A panel for each target, on one scale across and up; of many values, evenly chosen ones."""
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure = new_figure(300 * across, 270 * down)
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(down, across, i + 1)
        known = np.isfinite(panel.true) & np.isfinite(panel.predicted)
        step = max(1, known.sum() // MAX_POINTS)
        true, predicted = panel.true[known][::step], panel.predicted[known][::step]
        both = np.r_[true, predicted] if len(true) else np.zeros(1)
        low, high = float(both.min()), float(both.max())
        margin = 0.04 * (high - low) or 1.0
        limits = (low - margin, high + margin)
        axes.plot(limits, limits, color=MUTED, linewidth=0.8, linestyle=":")
        size, alpha = (6, 0.7) if len(true) <= FEW_POINTS else (3, 0.35)
        axes.scatter(
            true, predicted, s=size, alpha=alpha, linewidths=0, color=POINTS, rasterized=True
        )
        axes.set(xlim=limits, ylim=limits, xlabel="true", ylabel="predicted", aspect="equal")
        axes.set_title(panel.title, fontsize=8)
    return figure


def coverage_levels(
    lines: Mapping[str, Sequence[tuple[float, float, float | None]]],
) -> Figure:
    """Coverage against level: of intervals as drawn at the left, of calibrated ones at the right.

    Args:
        lines: direction -> level, coverage, calibrated coverage.
    """
    is_calibrated = any(c is not None for values in lines.values() for *_, c in values)
    titles = ["As drawn", "Calibrated"][: 1 + is_calibrated]
    figure = new_figure(340 * len(titles) + 20, 320)
    for k, title in enumerate(titles):
        axes = figure.add_subplot(1, len(titles), k + 1)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
        for i, (label, values) in enumerate(lines.items()):
            shares = np.array([v[1 + k] for v in values], np.float64)  # None as NaN
            line: dict[str, Any] = {"ms": 3, "lw": 1.2, "color": colour(i), "label": label}
            axes.plot([v[0] for v in values], shares, "o-", **line)
        axes.set(xlim=(0.4, 1), ylim=(0, 1), xlabel="level of the interval", title=title)
        axes.set_ylabel("true values in it" if k == 0 else "")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2)
    return figure
