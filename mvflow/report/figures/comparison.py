"""Systems against the number of observed modalities, and joint generation (paper, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mvflow.evaluation.compare import ComparedSystem, Comparison
from mvflow.metrics import Estimate
from mvflow.report.figures.canvas import colour, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["comparison_figure"]

MARKERS = "osD^vPX<*>"
"""One more than there are colours, so that both together tell many systems apart."""
PANEL, HEIGHT = 300, 236


def comparison_figure(comparison: Comparison) -> Figure:
    """Coherence and Fréchet distance of conditional and joint generation, with standard errors.

    There is a dot for each seed. Left two panels: against the number of observed modalities, or
    of two modalities by direction. Right: draws from the prior, the best at the top left.
    """
    systems = comparison.measured
    network = _network(systems)
    kinds = ["coherence", *([f"frechet/{network}"] if network else [])]
    panels = len(kinds) + 1
    per_line = 3 if max(len(s.label) for s in systems) < 34 else 2
    below = 20 * -(-len(systems) // per_line) + 8
    figure = new_figure(PANEL * panels, HEIGHT + below)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel, kind in zip(axes, kinds, strict=False):
        _conditional(panel, systems, kind)
    _joint(axes[-1], systems, network)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=per_line, handlelength=1.6)
    return figure


def _network(systems: Sequence[ComparedSystem]) -> str | None:
    """Whose features show best what rows look like: Inception's, else the autoencoders'."""
    networks = {k.split("/")[1] for s in systems for k in s.values if k.startswith("frechet/")}
    known = [name for name in ("inception-v3", "autoencoder", "classifier") if name in networks]
    return [*known, *sorted(networks), None][0]


def _distance(network: str, *, is_mean: bool) -> str:
    """Name of a distance; its mean over modalities in autoencoders' features is the MFD."""
    if network == "autoencoder" and is_mean:
        return "MFD"
    return "FID" if network == "inception-v3" else f"Fréchet ({network})"


def _conditional(axes: Axes, systems: Sequence[ComparedSystem], kind: str) -> None:
    keys = sorted({k for s in systems for k in s.values if k.startswith(f"{kind}/observed/")})
    is_curve = len(keys) > 1
    if not is_curve:
        every = {k for s in systems for k in s.values if k.startswith(kind) and "->" in k}
        keys = sorted(k for k in every if "/one->" not in k)
    if not keys:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
    for i, system in enumerate(systems):
        shift = (i - (len(systems) - 1) / 2) * (0.04 if is_curve else 0.6 / len(systems))
        x = np.arange(len(keys)) + shift
        means = [system.mean(key) for key in keys]
        heights = np.array([np.nan if m is None else m for m in means])
        style: dict[str, Any] = {
            "color": colour(i),
            "marker": MARKERS[i % len(MARKERS)],
            "ms": 4.0,
        }
        line = "-" if is_curve else "none"
        axes.plot(x, heights, linestyle=line, linewidth=1.1, label=system.label, **style)
        errors = [system.error(key) for key in keys]
        axes.errorbar(x, heights, errors, fmt="none", ecolor=colour(i), elinewidth=0.9)
        for at, key in zip(x, keys, strict=True):
            known = system.known(key)
            axes.plot([at] * len(known), known, ".", color=colour(i), alpha=0.45, ms=3.5)
    ticks = [key.split("/")[-1].replace("->", "\n→ ").replace("+", " + ") for key in keys]
    axes.set_xticks(range(len(keys)), ticks)
    axes.set_xlim(-0.5, len(keys) - 0.5)
    axes.set_xlabel("observed modalities" if is_curve else "direction")
    if kind == "coherence":
        _frame(axes, "Conditional coherence")
        axes.set(ylabel="coherence", ylim=(0, 1.03))
    else:
        _frame(axes, "Conditional distance, lower is better")
        axes.set_ylabel(_distance(kind.split("/")[1], is_mean=is_curve))
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])


def _joint(axes: Axes, systems: Sequence[ComparedSystem], network: str | None) -> None:
    """Coherence against distance, or alone where no distance was measured; seed by seed."""
    key = f"frechet/{network}/joint"
    for i, system in enumerate(systems):
        coherences = system.values.get("coherence/joint", [])
        none = [Estimate(float(i), 0.0)] * len(coherences)
        distances = system.values.get(key, []) if network else none
        pairs = [(x, y) for x, y in zip(distances, coherences, strict=False) if x and y]
        x, y = ([pair[at].mean for pair in pairs] for at in (0, 1))
        dx, dy = ([pair[at].standard_error for pair in pairs] for at in (0, 1))
        axes.errorbar(
            x, y, dy, dx if network else None, linestyle="none", ms=5, alpha=0.85, elinewidth=0.9,
            color=colour(i), marker=MARKERS[i % len(MARKERS)], clip_on=False,
        )  # fmt: skip
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("joint coherence")
    if network:
        axes.set_xlabel(f"{_distance(network, is_mean=True)}, lower is better")
        axes.set_xlim(0, 1.1 * axes.get_xlim()[1])
    else:
        axes.set_xticks([])
    _frame(axes, "Draws from the prior")


def _frame(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.grid(axis="y")
    axes.tick_params(axis="x", length=0)
