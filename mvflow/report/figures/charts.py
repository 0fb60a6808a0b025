"""Charts: coherence as bars, losses as curves, canonical correlations as dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mvflow.report.figures.canvas import ENTRY_COLOURS, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curve", "colour", "coherence_bars", "correlation_dots", "loss_curves", "loss_limits"]

Number = float | None


class Curve(NamedTuple):
    """Losses of one stage of one model, or of several that share it."""

    label: str
    colour: str
    epochs: Sequence[int]
    train: Sequence[float]
    validation: Sequence[Number]


def colour(index: int) -> str:
    """Colour of the model at this place."""
    return ENTRY_COLOURS[index % len(ENTRY_COLOURS)]


def coherence_bars(
    scores: Mapping[str, Sequence[Number]],
    names: Sequence[str],
    references: Mapping[str, Number],
    chance: Number = None,
    errors: Mapping[str, Sequence[Number]] | None = None,
) -> Figure:
    """Groups of bars, one bar a model; a dashed line where the classifier stands on real data.

    Args:
        scores: label of the group -> value of each model.
        names: of the models.
        references: label of the group -> accuracy of its classifier.
        chance: what guessing would reach.
        errors: label of the group -> standard error of each model.
    """
    width = min(1100, max(600, 110 + len(scores) * max(76, 34 * len(names))))
    figure = new_figure(width, 310)
    axes = figure.add_axes((58 / width, 0.15, 1 - 72 / width, 0.66))
    thick = 0.8 / len(names)
    for i, name in enumerate(names):
        at = np.arange(len(scores)) + (i - (len(names) - 1) / 2) * thick
        values = [row[i] for row in scores.values()]
        heights = [np.nan if v is None else v for v in values]
        axes.bar(at, heights, 0.9 * thick, color=colour(i), label=name)
        known = [row[i] for row in (errors or {}).values()]
        spread = [np.nan if v is None else v for v in known]
        if spread:
            axes.errorbar(at, heights, spread, fmt="none", ecolor=INK, elinewidth=0.8)
        if len(scores) * len(names) <= 24:
            _numbers(axes, at, values, colour(i))
    _references(axes, [references.get(label) for label in scores], chance)
    axes.set(ylim=(0, 1.06), ylabel="share of right class", xlim=(-0.55, len(scores) - 0.45))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.set_xticks(range(len(scores)), [label.replace(" → ", "\n→ ") for label in scores])
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda k: labels[k] not in names)
    per_line = max(1, width // (60 + 6 * max(map(len, labels))))
    axes.legend(
        [handles[k] for k in order], [labels[k] for k in order],
        loc="lower left", bbox_to_anchor=(-0.01, 1.04), ncols=per_line, borderpad=0,
        columnspacing=1.4, handlelength=1.4,
    )  # fmt: skip
    return figure


def _numbers(axes: Axes, at: Any, values: Sequence[Number], ground: str) -> None:
    from matplotlib.colors import to_rgb

    light = np.dot(to_rgb(ground), (0.3, 0.59, 0.11)) > 0.55
    for x, value in zip(at, values, strict=True):
        if value is not None:
            inside = value > 0.12  # else above the bar; never where the dashed line is
            axes.text(
                x, 0.025 if inside else value + 0.02, f"{value:.2f}", ha="center", va="bottom",
                color=INK if light or not inside else "white", fontsize=7,
            )  # fmt: skip


def _references(axes: Axes, levels: Sequence[Number], chance: Number) -> None:
    label = "classifier on real data"
    for x, level in enumerate(levels):
        if level is not None:
            axes.hlines(level, x - 0.45, x + 0.45, INK, (0, (4, 2)), linewidth=1.2, label=label)
            label = ""
    if chance is not None:
        axes.axhline(chance, color=INK, linewidth=0.7, linestyle=":", label="guessing a class")


def loss_limits(values: Sequence[Number], skip: float = 0.05) -> tuple[float, float] | None:
    """Range of the y axis that shows all but the first share of a curve; None without values.

    Examples:
        >>> low, high = loss_limits([1000.0, 5.0, 4.0, 3.0])
        >>> low < 3.0 and 5.0 < high < 6.0
        True
    """
    found = np.array([np.nan if v is None else v for v in values], np.float64)
    first = min(int(np.ceil(skip * len(found))), len(found) - 1) if len(found) > 2 else 0
    kept = found[first:][np.isfinite(found[first:])]
    if not kept.size:
        return None
    low, high = float(kept.min()), float(kept.max())
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def loss_curves(stage: str, curves: Sequence[Curve]) -> Figure:
    """Training loss (thin) and validation loss (thick with dots) by epoch."""
    from matplotlib.ticker import MaxNLocator

    below = 22 * ((len(curves) + 1) // 2) if len(curves) > 1 else 0
    height = 250 + below
    figure = new_figure(360, height)
    axes = figure.add_axes((0.17, (40 + below) / height, 0.8, 180 / height))
    for curve in curves:
        x = np.asarray(curve.epochs) + 1
        dots = "." if len(x) < 40 else None
        axes.plot(x, curve.train, color=curve.colour, linewidth=0.9, alpha=0.6, marker=dots, ms=2)
        held = [np.nan if v is None else v for v in curve.validation]
        axes.plot(x, held, color=curve.colour, linewidth=1.7, marker=dots, ms=4, label=curve.label)
    _scale(axes, curves)
    axes.set_title(stage, loc="left", fontweight="bold", color=INK)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.5)
    axes.set_axisbelow(True)
    if len(curves) > 1:
        figure.legend(loc="lower left", ncols=2, handlelength=1.2, fontsize=7.5)
    return figure


def _scale(axes: Axes, curves: Sequence[Curve]) -> None:
    """Logarithmic where a positive loss falls more than tenfold, else the range of the tail."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    limits = [
        found
        for c in curves
        for found in (loss_limits(c.train), loss_limits(c.validation))
        if found is not None
    ]
    if not limits:
        return
    low, high = min(a for a, _ in limits), max(b for _, b in limits)
    smallest = min(v for c in curves for v in (*c.train, *c.validation) if v is not None)
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
    axes = figure.add_axes((0.13, 0.17, 0.84, 0.68))
    for (label, values), shade in zip(pairs.items(), colours, strict=True):
        x = np.arange(len(values)) + 1
        axes.plot(x, values, color=shade, marker="o", ms=3.5, linewidth=1, label=label)
    axes.set(ylim=(0, 1.05), xlabel="dimension", ylabel="correlation")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(pairs) <= 6:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, fontsize=7)
    return figure
