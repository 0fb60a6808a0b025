"""Calibration: rank histograms, coverage of intervals, distribution functions of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mvflow.report.figures.canvas import LINE, MUTED, WRONG, colour, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvflow.evaluation.calibration_result import SubsetCalibration

__all__ = ["coverage_curves", "rank_histograms"]

COLUMNS = 4
SHADES = {"good": "#0072b2", "look closer": "#e69f00", "do not trust": WRONG}
"""Of a subset's verdict."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)))


def rank_histograms(subsets: Mapping[str, SubsetCalibration]) -> Figure:
    """Ranks of the worst coordinate of each subset; the grey band holds 99 % of sound bars.

    Args:
        subsets: name -> its calibration.
    """
    down, across = -(-len(subsets) // COLUMNS), min(COLUMNS, len(subsets))
    figure = new_figure(250 * across, 180 * down)
    for i, (name, subset) in enumerate(subsets.items()):
        _histogram(figure.add_subplot(down, across, i + 1), name, subset)
    return figure


def _histogram(axes: Axes, name: str, subset: SubsetCalibration) -> None:
    from scipy import stats

    counts = np.asarray(subset.histogram.counts[subset.worst])
    expected = np.asarray(subset.histogram.expected)
    edges = np.arange(len(counts) + 1) / len(counts)
    low, high = stats.binom.interval(0.99, counts.sum(), expected / counts.sum())
    axes.stairs(high, edges, baseline=low, fill=True, color=LINE)
    axes.stairs(expected, edges, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)), baseline=None)
    shade = SHADES[subset.verdict]
    axes.bar(edges[:-1], counts, 0.86 / len(counts), align="edge", alpha=0.75, color=shade)
    given = " + ".join(subset.given) if len(name) < 30 else f"{len(subset.given)} modalities"
    axes.set_title(f"given {given}, z{subset.worst}", fontsize=8)
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
    columns = 2 if max(map(len, subsets)) > 18 else 4
    figure = new_figure(720, 280 + 18 * -(-len(subsets) // columns))
    left, right = figure.subplots(1, 2)
    band = next(iter(subsets.values())).ecdf.band
    left.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
    right.axhspan(-band, band, color=LINE)
    for i, (name, subset) in enumerate(subsets.items()):
        line: dict[str, Any] = {"color": colour(i), "linestyle": DASHES[i // 7 % 2], "lw": 1.3}
        levels, mean = subset.curve.levels, subset.curve.mean
        left.plot([0, *levels, 1], [0, *mean, 1], label=name.replace("+", " + "), **line)
        difference = subset.ecdf.difference
        right.plot(np.linspace(0, 1, len(difference) + 1), [0, *difference], **line)
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="level of the interval", ylabel="true values in it")
    left.set_title("Coverage, mean over z")
    high = max(1.15 * abs(np.asarray(right.get_ylim())).max(), 2 * band)
    right.set(xlim=(0, 1), ylim=(-high, high), xlabel="rank of the true value")
    right.set_title("Ranks at or below, less expected")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, handlelength=1.8)
    return figure
