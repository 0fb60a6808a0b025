"""The latent space: the paper's Figure 2 in two dimensions, principal components in more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import COVARIATES, UsageError, class_name, derive_seed, factor_name, generator
from mvflow.report.context import Context
from mvflow.report.entry import Entry, titles
from mvflow.report.figure_store import FigureStore, Image
from mvflow.report.figures.latent import (
    LatentScatter,
    Panel,
    posterior_figure,
    posteriors_figure,
    scatter_figure,
)
from mvflow.report.figures.sheet import known_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mvflow.evaluation import ModalityClassifiers

__all__ = ["latent_space", "posteriors_in_plane", "separability"]

MAX_ROWS, STEPS, DRAWS, MAX_LEVELS = 3000, 160, 8, 14


def latent_space(context: Context) -> dict[str, Any]:
    """Where rows lie in the latent space, and where each model's posterior puts one row."""
    groups: list[tuple[NDArray[Any], LatentScatter, list[int]]] = []
    for i, entry in enumerate(context.entries):
        rows = generator(context.seed, "report cloud").permutation(len(entry.test))[:MAX_ROWS]
        z = _latents(entry, rows, context.seed)
        same = [g for g in groups if g[0].shape == z.shape and np.allclose(g[0], z)]
        if same:
            same[0][2].append(i)
        else:
            groups.append((z, _scatter(entry, z, rows), [i]))
    return {
        "groups": [_group(context, *group) for group in groups],
        "is_judged": context.classifiers is not None,
    }


def posteriors_in_plane(
    entries: Sequence[Entry], *, classifiers: ModalityClassifiers | None = None, seed: int = 0
) -> Figure:
    """Latent space of the first model, and each model's posterior of one row (paper, Figure 2).

    Args:
        entries: models of two latent dimensions and the same test rows.
        classifiers: that mark draws of another class.
        seed: of rows and draws.

    Raises:
        UsageError: if latent spaces have other than two dimensions.
    """
    for entry in entries:
        if entry.estimator.latent_dim != 2:
            msg = (
                f"{entry.name} has {entry.estimator.latent_dim} latent dimensions: posteriors "
                "are drawn in two"
            )
            raise UsageError(msg)
    context = Context(tuple(entries), FigureStore(), seed, classifiers)
    rows = generator(seed, "report cloud").permutation(len(entries[0].test))[:MAX_ROWS]
    scatters = [_scatter(entry, _latents(entry, rows, seed), rows) for entry in entries]
    row = _chosen_row(entries[0], entries[0].names[0])
    panels = [
        _panel(context, entry, scatter, row, entry.name)
        for entry, scatter in zip(entries, scatters, strict=True)
    ]
    return posteriors_figure(scatters[0], [panel for panel in panels if panel is not None])


def _group(
    context: Context, z: NDArray[Any], scatter: LatentScatter, members: Sequence[int]
) -> dict[str, Any]:
    """Models with one latent space between them."""
    entry = context.entries[members[0]]
    names = ", ".join(context.names[i] for i in members)
    words = "test rows, at the means of q(z|X) or at draws where it has none"
    words += "" if scatter.labels is None else ", coloured by class"
    words += f", darker with a larger {scatter.factor_name}" if scatter.factor is not None else ""
    images = [_cloud(context, scatter, f"latent-{names}", names, f"{words}.")]
    covariates = _covariates(entry, context.seed)
    for covariate, (codes, levels) in covariates.items():
        coloured = scatter._replace(labels=codes, names=levels, factor=None)
        words = f"the same rows, coloured by {covariate}."
        images.append(_cloud(context, coloured, f"latent-{covariate}-{names}", names, words))
    group: dict[str, Any] = {
        "images": images,
        "covariates": [
            {"name": name, "accuracy": f"{a:.2f}", "chance": f"{c:.2f}"}
            for name, (codes, _) in covariates.items()
            for a, c in [separability(z, codes)]
        ],
    }
    if entry.estimator.latent_dim != 2 or len(entry.names) < 2:
        return group
    given, target = entry.names[:2]
    row, headings = _chosen_row(entry, given), titles(context.entries)
    panels = [
        panel
        for i in members
        if context.entries[i].names[:2] == entry.names[:2]
        and (panel := _panel(context, context.entries[i], scatter, row, headings[i]))
    ]
    images += [_show(context, panel, given, target) for panel in panels]
    return group | {"given": given, "target": target}


def _cloud(context: Context, scatter: LatentScatter, file: str, names: str, caption: str) -> Image:
    figure = scatter_figure(scatter, "Latent space")
    alt = f"Latent space of {names}: {len(scatter.z)} {caption}"
    return context.figures.show(figure, file, alt, names, caption)


def _show(context: Context, panel: Panel, given: str, target: str) -> Image:
    count = 0 if panel.wrong is None else int(panel.wrong.sum())
    wrong = f" {count} of {DRAWS} draws are of another class." if count else ""
    alt = f"Posterior density of z given one {given}, {panel.title}, and draws of {target}.{wrong}"
    caption = f"q(z | {given}) and draws of {target}.{wrong}"
    name, figure = f"posterior-{panel.title}", posterior_figure(panel)
    return context.figures.show(figure, name, alt, panel.title, caption)


def _latents(entry: Entry, rows: NDArray[Any], seed: int) -> NDArray[Any]:
    x, estimator = entry.take(rows), entry.estimator
    return estimator.encode(x)[0] if estimator.can_encode else estimator.draw(x, seed=seed).z[0]


def _scatter(entry: Entry, z: NDArray[Any], rows: NDArray[Any]) -> LatentScatter:
    labels = None if entry.test.labels is None else entry.test.labels[rows]
    factor = _factor(entry)
    classes = [] if labels is None else np.unique(labels).tolist()
    scatter = LatentScatter(
        z,
        labels,
        {c: class_name(entry.test, c) for c in classes},
        None if factor is None else np.asarray(entry.test.factors[factor])[rows],
        factor_name(entry.test, factor) if factor else "",
        entry.estimator.radius,
    )
    return scatter if z.shape[1] == 2 else _principal(scatter)


def _covariates(entry: Entry, seed: int) -> dict[str, tuple[NDArray[np.int64], dict[int, str]]]:
    """Categorical covariates of the rows shown: codes, and names of their levels."""
    known: Mapping[str, Any] = getattr(entry.test, "covariates", None) or {}
    rows = generator(seed, "report cloud").permutation(len(entry.test))[:MAX_ROWS]
    taken = entry.test.take(rows) if known else {}
    return {
        name: (
            taken[f"{COVARIATES}{name}"].argmax(-1),
            dict(enumerate(map(str, covariate.levels))),
        )
        for name, covariate in known.items()
        if covariate.levels and len(covariate.levels) <= MAX_LEVELS
    }


def separability(z: NDArray[Any], codes: NDArray[np.int64]) -> tuple[float, float]:
    """Accuracy of a linear classifier of codes from latents, in 5 folds; that of guessing.

    Examples:
        >>> z = np.random.default_rng(0).normal(size=(400, 3))
        >>> accuracy, chance = separability(z, (z[:, 0] > 0).astype(int))
        >>> bool(accuracy > 0.95), bool(chance < 0.6)
        (True, True)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = np.bincount(codes)
    chance = float(counts.max() / len(codes))
    folds = min(5, int(counts[counts > 0].min()))
    if folds < 2 or (counts > 0).sum() < 2:
        return float("nan"), chance
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(cross_val_score(model, z, codes, cv=folds).mean()), chance


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
    from sklearn.decomposition import PCA

    wide = np.pad(scatter.z, ((0, 0), (0, max(0, 2 - scatter.z.shape[1]))))
    pca = PCA(2, random_state=0).fit(wide)
    first, second = (
        f"principal component {k + 1} ({100 * share:.0f} %)"
        for k, share in enumerate(pca.explained_variance_ratio_)
    )
    return scatter._replace(z=pca.transform(wide), axis_labels=(first, second), square=False)


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
    x = entry.take([row])
    observed = entry.observed(x, [given])
    (left, right), (bottom, top) = scatter.limits()
    across, up = np.linspace(left, right, STEPS), np.linspace(bottom, top, STEPS)
    grid = np.stack(np.meshgrid(across, up), -1).reshape(-1, 1, 2)
    try:
        density = entry.estimator.posterior_log_prob(grid, observed).reshape(STEPS, STEPS)
    except UsageError:
        return None
    density = np.where(np.hypot(*np.meshgrid(across, up)) <= scatter.radius, density, -np.inf)
    seed = derive_seed(context.seed, "report", "panel")
    drawn = entry.estimator.draw(observed, DRAWS, seed=seed)
    draws = entry.estimator.decode(drawn.z, [target], covariates=drawn.covariates)[target]
    labels = None if entry.test.labels is None else entry.test.labels[[row]]
    wrong = context.wrong(target, draws, labels)
    return Panel(
        title,
        scatter,
        density,
        (context.spec(entry, given), known_values(x, given)[0]),
        (context.spec(entry, target), draws[:, 0]),
        None if wrong is None else wrong[:, 0],
    )
