"""Charts: coherence as bars, losses as curves, canonical correlations as dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mvflow.report.figures.canvas import INK, MUTED, colour, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mvflow.evaluation.learning import StageCurve
    from mvflow.metrics import Estimate

__all__ = ["coherence_bars", "correlation_dots", "loss_curves", "loss_limits"]


def coherence_bars(
    scores: Mapping[str, Sequence[Estimate | None]],
    names: Sequence[str],
    references: Mapping[str, float | None],
    chance: float | None = None,
) -> Figure:
    """Groups of bars, one bar a model; a dashed line where the classifier stands on real data.

    Args:
        scores: label of the group -> score of each model.
        names: of the models.
        references: label of the group -> accuracy of its classifier.
        chance: what guessing would reach.
    """
    figure = new_figure(min(1100, max(560, 110 + len(scores) * max(76, 34 * len(names)))), 310)
    axes, thick = figure.add_subplot(), 0.8 / len(names)
    for i, name in enumerate(names):
        at = np.arange(len(scores)) + (i - (len(names) - 1) / 2) * thick
        row = [values[i] for values in scores.values()]
        heights = [np.nan if e is None else e.mean for e in row]
        errors = [np.nan if e is None else e.standard_error for e in row]
        axes.bar(at, heights, 0.9 * thick, color=colour(i), label=name)
        axes.errorbar(at, heights, errors, fmt="none", ecolor=INK, elinewidth=0.8)
    label = "classifier on real data"
    for x, name in enumerate(scores):
        if (level := references.get(name)) is not None:
            axes.hlines(level, x - 0.45, x + 0.45, INK, (0, (4, 2)), linewidth=1.2, label=label)
            label = ""
    if chance is not None:
        axes.axhline(chance, color=INK, linewidth=0.7, linestyle=":", label="guessing a class")
    axes.set(ylim=(0, 1.06), ylabel="share of right class", xlim=(-0.55, len(scores) - 0.45))
    axes.set_xticks(range(len(scores)), [label.replace(" → ", "\n→ ") for label in scores])
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    entries = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    order = sorted(entries, key=lambda label: label not in names)
    figure.legend([entries[k] for k in order], order, loc="outside upper left", ncols=4)
    return figure


def loss_limits(values: Sequence[float], skip: float = 0.05) -> tuple[float, float] | None:
    """Range of the y axis that shows all but the first share of a curve; None without values.

    Examples:
        >>> low, high = loss_limits([1000.0, 5.0, 4.0, 3.0])
        >>> low < 3.0 and 5.0 < high < 6.0
        True
    """
    losses = np.asarray(values, np.float64)
    first = min(int(np.ceil(skip * len(losses))), len(losses) - 1) if len(losses) > 2 else 0
    kept = losses[first:][np.isfinite(losses[first:])]
    if not kept.size:
        return None
    low, high = float(kept.min()), float(kept.max())
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def loss_curves(stage: str, curves: Sequence[tuple[str, str, StageCurve]]) -> Figure:
    """Training loss (thin) and held-out loss (thick) by epoch, its best epoch marked.

    Args:
        stage: its name.
        curves: label, colour and losses of each model, or of several that share it.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(360, 240 + (18 * -(-len(curves) // 2) if len(curves) > 1 else 0))
    axes = figure.add_subplot()
    for label, shade, curve in curves:
        x = np.arange(curve.epochs) + 1
        dots = "." if len(x) < 40 else None
        axes.plot(x, curve.train, color=shade, linewidth=0.9, alpha=0.7, marker=dots, ms=2)
        if not len(curve.held_out):
            axes.plot([], [], color=shade, label=label)
            continue
        axes.plot(x, curve.held_out, color=shade, linewidth=1.7, marker=dots, ms=4, label=label)
        if curve.rise > 0:
            axes.axvline(curve.best_epoch, color=shade, linewidth=0.8, linestyle=":")
    _scale(axes, [curve for _, _, curve in curves])
    axes.set(title=stage, xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y")
    if len(curves) > 1:
        figure.legend(loc="outside lower left", ncols=2, handlelength=1.2)
    return figure


def _scale(axes: Axes, curves: Sequence[StageCurve]) -> None:
    """Logarithmic where a positive loss falls more than tenfold, else the range of the tail."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    losses = [values for c in curves for values in (c.train, c.held_out)]
    limits = [bounds for values in losses if (bounds := loss_limits(values)) is not None]
    if not limits:
        return
    low, high = min(a for a, _ in limits), max(b for _, b in limits)
    smallest = min((v for values in losses for v in values), default=0.0)
    if smallest > 0 and high > 10 * smallest:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        low = 0.9 * smallest
    axes.set_ylim(low, high)


def correlation_dots(pairs: Mapping[str, Sequence[float]], colours: Sequence[str]) -> Figure:
    """Canonical correlations of the shared information, largest first, a line for each pair."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(420, 250)
    axes = figure.add_subplot()
    axes.axhline(0, color=MUTED, linewidth=0.5)
    for (label, values), shade in zip(pairs.items(), colours, strict=True):
        x = np.arange(len(values)) + 1
        axes.plot(x, values, color=shade, marker="o", ms=3.5, linewidth=1, label=label)
    axes.set(ylim=(-0.02, 1.05), xlabel="dimension", ylabel="correlation")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.legend(loc="outside upper left", ncols=3, fontsize=7)
    return figure
