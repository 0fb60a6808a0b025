"""Calibration: rank histograms, coverage of intervals, distribution functions of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mvflow.report.figures.canvas import INK, MUTED, WRONG, new_figure
from mvflow.report.figures.charts import colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvflow.evaluation.calibration_result import SubsetCalibration

__all__ = ["coverage_curves", "rank_histograms"]

COLUMNS = 4
BAND = "#e4e7eb"
SHADES = {"good": "#0072b2", "look closer": "#e69f00", "do not trust": WRONG}
"""Of a subset's verdict."""


def rank_histograms(subsets: Mapping[str, SubsetCalibration]) -> Figure:
    """Ranks of the worst coordinate of each subset; the grey band holds 99 % of sound bars.

    Args:
        subsets: name -> its calibration.
    """
    lines = -(-len(subsets) // COLUMNS)
    across = min(COLUMNS, len(subsets))
    width, height = 250 * across, 190 * lines
    figure = new_figure(width, height)
    for i, (name, found) in enumerate(subsets.items()):
        row, column = divmod(i, COLUMNS)
        place = (
            (250 * column + 34) / width,
            (height - 190 * (row + 1) + 34) / height,
            202 / width,
            126 / height,
        )
        _histogram(figure.add_axes(place), name, found)
    return figure


def _histogram(axes: Axes, name: str, found: SubsetCalibration) -> None:
    from scipy import stats

    counts = np.asarray(found.histogram.counts[found.worst])
    expected = np.asarray(found.histogram.expected)
    edges = np.arange(len(counts) + 1) / len(counts)
    low, high = stats.binom.interval(0.99, counts.sum(), expected / counts.sum())
    axes.stairs(high, edges, baseline=low, fill=True, color=BAND)
    axes.stairs(expected, edges, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)), baseline=None)
    axes.bar(
        edges[:-1], counts, 0.86 / len(counts), align="edge", alpha=0.75,
        color=SHADES[found.verdict],
    )  # fmt: skip
    title = f"given {name.replace('+', ' + ')}, z{found.worst}"
    axes.set_title(title, loc="left", fontweight="bold", color=INK, fontsize=8)
    axes.set(xlim=(0, 1), ylim=(0, 1.08 * max(counts.max(), high.max())))
    axes.set_xticks([0, 0.5, 1], ["0", "rank of the true value", "1"])
    axes.tick_params(axis="x", length=0)
    axes.get_xticklabels()[0].set_horizontalalignment("left")
    axes.get_xticklabels()[-1].set_horizontalalignment("right")


def coverage_curves(subsets: Mapping[str, SubsetCalibration]) -> Figure:
    """Share of true values in intervals of each level, and where their ranks pile up.

    Args:
        subsets: as for `rank_histograms`.
    """
    below = 22 * -(-len(subsets) // 5)
    width, height = 720, 290 + below
    figure = new_figure(width, height)
    bottom, tall = (below + 46) / height, 206 / height
    left = figure.add_axes((50 / width, bottom, 290 / width, tall))
    right = figure.add_axes((410 / width, bottom, 296 / width, tall))
    styles: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)))
    band = next(iter(subsets.values())).ecdf.band
    left.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
    right.axhspan(-band, band, color=BAND)
    for i, (name, found) in enumerate(subsets.items()):
        dashes = styles[(i // 7) % 3]
        line: dict[str, Any] = {"color": colour(i), "linestyle": dashes, "linewidth": 1.3}
        levels, mean = found.curve.levels, found.curve.mean
        left.plot([0, *levels, 1], [0, *mean, 1], label=name.replace("+", " + "), **line)
        difference = found.ecdf.difference
        right.plot(np.linspace(0, 1, len(difference) + 1), [0, *difference], **line)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="level of the interval", ylabel="true values in it")
    left.set_title("Coverage, mean over z", loc="left", fontweight="bold", color=INK)
    high = max(1.15 * abs(np.asarray(right.get_ylim())).max(), 2 * band)
    right.set(xlim=(0, 1), ylim=(-high, high), xlabel="rank of the true value")
    right.set_title("Ranks at or below, less expected", loc="left", fontweight="bold", color=INK)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower left", ncols=5, handlelength=1.8, fontsize=7.5)
    return figure
