"""Systems against the number of observed modalities, and joint generation (paper, Figure 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mvflow.evaluation.compare import ComparedSystem, Comparison
from mvflow.evaluation.measures import TABLE_MEASURES
from mvflow.evaluation.scoring import MEASURES
from mvflow.metrics import Estimate
from mvflow.report.figures.canvas import colour, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["comparison_figure"]

MARKERS = "osD^vPX<*>"
"""One more than there are colours, so that both together tell many systems apart."""
PANEL, HEIGHT, LEAST_WIDTH = 300, 236, 450


def comparison_figure(comparison: Comparison) -> Figure:
    """What was measured of conditional and joint generation, with standard errors.

    There is a dot for each seed. Coherence and Fréchet distance of conditional generation are
    against the number of observed modalities, or of two modalities by direction; at the right
    are draws from the prior, the best at the top left. Where rows have no classes, predictions of
    tables take the place of coherence, and distances of joint draws and likelihoods follow.
    """
    systems = comparison.measured
    network = _network(systems)
    panels: list[Callable[[Axes], None]] = []
    has_classes = any(_keys(systems, "coherence/"))
    if _conditional_keys(systems, "coherence"):
        panels.append(partial(_conditional, systems=systems, kind="coherence"))
    if not has_classes:
        for measure in TABLE_MEASURES:
            if keys := _keys(systems, f"prediction/{measure}/"):
                panels.append(partial(_predictions, systems=systems, keys=keys))
    if network and _conditional_keys(systems, kind := f"frechet/{network}"):
        panels.append(partial(_conditional, systems=systems, kind=kind))
    if has_classes:
        panels.append(partial(_joint, systems=systems, network=network))
    else:
        if network and (keys := _keys(systems, f"frechet/{network}/joint")):
            panels.append(partial(_prior_distances, systems=systems, key=keys[0]))
        panels.append(partial(_likelihoods, systems=systems))
    per_line = 3 if max(len(s.label) for s in systems) < 34 else 2
    below = 20 * -(-len(systems) // per_line) + 8
    figure = new_figure(max(PANEL * len(panels), LEAST_WIDTH), HEIGHT + below)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for each, draw in zip(axes, panels, strict=True):
        draw(each)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=per_line, handlelength=1.6)
    return figure


def _keys(systems: Sequence[ComparedSystem], start: str) -> list[str]:
    """Measures of any system that begin so and were measured."""
    return sorted({k for s in systems for k in s.values if k.startswith(start) and s.known(k)})


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


def _conditional_keys(systems: Sequence[ComparedSystem], kind: str) -> list[str]:
    """By number of observed modalities, if there are several; else by direction."""
    sizes = _keys(systems, f"{kind}/observed/")
    if len(sizes) > 1:
        return sorted(sizes, key=_size)
    return [k for k in _keys(systems, kind) if "->" in k and "/one->" not in k]


def _size(key: str) -> int:
    """Number of observed modalities of a measure."""
    return int(key.split("/")[-1])


def _conditional(axes: Axes, systems: Sequence[ComparedSystem], kind: str) -> None:
    keys = _conditional_keys(systems, kind)
    is_curve = not any("->" in key for key in keys)
    _points(axes, systems, keys, is_curve=is_curve)
    axes.set_xlabel("observed modalities" if is_curve else "direction")
    if kind == "coherence":
        _frame(axes, "Conditional coherence")
        axes.set(ylabel="coherence", ylim=(0, 1.03))
    else:
        _frame(axes, "Conditional distance, lower is better")
        axes.set_ylabel(_distance(kind.split("/")[1], is_mean=is_curve))
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])


def _predictions(axes: Axes, systems: Sequence[ComparedSystem], keys: Sequence[str]) -> None:
    """R² or accuracy of tables by number of observed modalities."""
    name = MEASURES[keys[0].split("/")[1]]
    _points(axes, systems, sorted(keys, key=_size), is_curve=True)
    axes.set(xlabel="observed modalities", ylabel=name)
    _frame(axes, f"{name} of tables, higher is better")


def _prior_distances(axes: Axes, systems: Sequence[ComparedSystem], key: str) -> None:
    _points(axes, systems, [key], is_curve=False)
    axes.set_xticks([])
    axes.set_ylabel(f"{_distance(key.split('/')[1], is_mean=True)}, lower is better")
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    _frame(axes, "Draws from the prior")


def _likelihoods(axes: Axes, systems: Sequence[ComparedSystem]) -> None:
    _points(axes, systems, ["log_likelihood/joint"], is_curve=False)
    axes.set_xticks([])
    axes.set_ylabel("log p(X), nats")
    _frame(axes, "Log-likelihood, higher is better")


def _points(
    axes: Axes, systems: Sequence[ComparedSystem], keys: Sequence[str], *, is_curve: bool
) -> None:
    """Means of all systems with their errors, and a dot for each seed, one place for each key."""
    for i, system in enumerate(systems):
        narrow = is_curve and len(keys) > 1
        shift = (i - (len(systems) - 1) / 2) * (0.04 if narrow else 0.6 / len(systems))
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
