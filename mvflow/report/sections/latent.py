"""The latent space: the paper's Figure 2 in two dimensions, principal components in more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import UsageError, class_name, derive_seed, factor_name, generator
from mvflow.report.entry import Entry, titles
from mvflow.report.figures.canvas import new_figure
from mvflow.report.figures.latent import (
    HEIGHT,
    WIDTH,
    LatentScatter,
    Panel,
    latent_figure,
    posterior_panel,
    scatter_panel,
)
from mvflow.report.markup import HTML, section, tag
from mvflow.report.sections.context import Context, figures

__all__ = ["latent_space"]

MAX_ROWS, STEPS, DRAWS = 3000, 160, 8


def latent_space(context: Context) -> HTML:
    """Where rows lie in the latent space, and where each model's posterior puts one row."""
    groups: list[tuple[LatentScatter, list[int]]] = []
    for i, entry in enumerate(context.entries):
        scatter = _scatter(entry, context.seed)
        same = [
            g for c, g in groups if c.z.shape == scatter.z.shape and np.allclose(c.z, scatter.z)
        ]
        if same:
            same[0].append(i)
        else:
            groups.append((scatter, [i]))
    parts = [_group(context, scatter, members) for scatter, members in groups]
    return section("latent", "Latent space", *parts)


def _group(context: Context, scatter: LatentScatter, members: Sequence[int]) -> HTML:
    """Models with one latent space between them."""
    entry = context.entries[members[0]]
    names = ", ".join(context.names[i] for i in members)
    figure = new_figure(WIDTH, HEIGHT)
    scatter_panel(figure, scatter, "Latent space")
    alt = f"Latent space of {names}: {len(scatter.z)} test rows, coloured by class."
    first = context.figures.show(figure, f"latent-{names}", alt, _key(scatter, names))
    if entry.estimator.latent_dim != 2 or len(entry.names) < 2:
        return figures(first, kind="large")
    given, target = entry.names[:2]
    row = _chosen_row(entry, given)
    headings = titles(context.entries)
    made = [
        _panel(context, context.entries[i], scatter, row, headings[i])
        for i in members
        if context.entries[i].names[:2] == entry.names[:2]
    ]
    panels = [panel for panel in made if panel is not None]
    shown = [first, *(_show(context, p, given, target) for p in panels)]
    if context.figures.folder is not None:
        context.figures.keep(latent_figure(scatter, "latent space", panels), f"figure-2-{names}")
    return tag(
        "div", tag("p", _explanation(context, given, target)), figures(*shown, kind="large")
    )


def _show(context: Context, panel: Panel, given: str, target: str) -> HTML:
    figure = new_figure(WIDTH, HEIGHT)
    posterior_panel(figure, panel)
    alt = f"Posterior density of z given one {given}, {panel.title}, and draws of {target}."
    caption: tuple[object, ...] = (
        tag("b", panel.title),
        f": q(z | {given}) and draws of {target}.",
    )
    if panel.wrong is not None:
        count = int(panel.wrong.sum())
        alt += f" {count} of {DRAWS} draws are of another class."
        caption += (f" {count} of {DRAWS} draws are of another class." if count else "",)
    return context.figures.show(figure, f"posterior-{panel.title}", alt, tag("span", *caption))


def _explanation(context: Context, given: str, target: str) -> str:
    text = (
        f"Each dot is a test row. The contours show where a model "
        f"believes the row to lie when it sees only the {given} at the top left; they hold 20 to "
        f"99 % of the density. It should cover the dots of such rows and nothing else. At the "
        f"right, eight draws of {target}. Nothing is drawn outside a ball, whose edge is dashed "
        "where it is near."
    )
    if context.classifiers is not None:
        text += " Draws of another class have a red frame."
    return text


def _key(scatter: LatentScatter, names: str) -> HTML:
    words = "test rows, at the means of q(z|X) or at draws where it has none"
    if scatter.labels is not None:
        words += ", coloured by class"
    if scatter.factor is not None:
        words += f", darker with a larger {scatter.factor_name}"
    return tag("span", tag("b", names), f": {words}.")


def _scatter(entry: Entry, seed: int) -> LatentScatter:
    rows = generator(seed, "report cloud").permutation(len(entry.test))[:MAX_ROWS]
    taken = entry.test.take(rows)
    x = {name: taken[name] for name in entry.names}
    estimator = entry.estimator
    z = estimator.encode(x)[0] if estimator.can_encode else estimator.draw(x, seed=seed).z[0]
    labels = None if entry.test.labels is None else entry.test.labels[rows]
    factor = _factor(entry)
    names = (
        {int(c): class_name(entry.test, int(c)) for c in np.unique(labels)}
        if labels is not None
        else {}
    )
    scatter = LatentScatter(
        z,
        labels,
        names,
        None if factor is None else np.asarray(entry.test.factors[factor])[rows],
        factor_name(entry.test, factor) if factor else "",
        entry.estimator.radius,
    )
    return scatter if z.shape[1] == 2 else _principal(scatter)


def _factor(entry: Entry) -> str | None:
    """The factor that lightens colours: one of the modality conditioned on, for two classes."""
    labels = entry.test.labels
    if labels is None or not set(np.unique(labels).tolist()) <= {0, 1}:
        return None
    plain = [n for n, v in entry.test.factors.items() if np.ndim(v) == 1]
    own = [n for n in plain if n.startswith(entry.names[0])]
    return next(iter(own + plain), None)


def _principal(scatter: LatentScatter) -> LatentScatter:
    """The two directions in which rows spread the most."""
    z = scatter.z - scatter.z.mean(0)
    _, spread, axes = np.linalg.svd(z, full_matrices=False)
    share = spread**2 / max(float((spread**2).sum()), 1e-12)
    plane: NDArray[Any] = np.zeros((len(z), 2))
    used = min(2, len(axes))
    plane[:, :used] = z @ axes[:used].T
    labels = [f"principal component {k + 1} ({100 * s:.0f} %)" for k, s in enumerate(share[:2])]
    return scatter._replace(z=plane, axis_labels=(labels[0], (labels + [""])[1]), square=False)


def _chosen_row(entry: Entry, given: str) -> int:
    """The row of class 1 with the largest factor, as in the paper; else the first."""
    factor = _factor(entry)
    if factor is None or entry.test.labels is None:
        return 0
    size = np.where(entry.test.labels == 1, entry.test.factors[factor], -np.inf)
    return int(np.argmax(size))


def _panel(
    context: Context, entry: Entry, scatter: LatentScatter, row: int, title: str
) -> Panel | None:
    """Posterior of one row; None where it has no density."""
    given, target = entry.names[:2]
    x = entry.test.take([row])[given]
    (left, right), (bottom, top) = scatter.limits()
    across, up = np.linspace(left, right, STEPS), np.linspace(bottom, top, STEPS)
    grid = np.stack(np.meshgrid(across, up), -1).reshape(-1, 1, 2)
    try:
        density = entry.estimator.posterior_log_prob(grid, {given: x}).reshape(STEPS, STEPS)
    except UsageError:
        return None
    density = np.where(np.hypot(*np.meshgrid(across, up)) <= scatter.radius, density, -np.inf)
    seed = derive_seed(context.seed, "report", "panel")
    z = entry.estimator.draw({given: x}, DRAWS, seed=seed).z
    draws = entry.estimator.decode(z, [target])[target]
    labels = None if entry.test.labels is None else entry.test.labels[[row]]
    wrong = context.wrong(target, draws, labels)
    return Panel(
        title,
        scatter,
        density,
        (context.spec(entry, given), x[0]),
        (context.spec(entry, target), draws[:, 0]),
        None if wrong is None else wrong[:, 0],
    )
