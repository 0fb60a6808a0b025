"""Pictures: reconstructions, draws in every direction, draws from the prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Source, covariate_columns, derive_seed, generator
from mvflow.report.context import Context
from mvflow.report.entry import Entry, directions
from mvflow.report.figure_store import Image
from mvflow.report.figures.grids import Strip, conditional_grid, row_grid
from mvflow.report.figures.sheet import known_values
from mvflow.report.tables import MAX_NAMES

__all__ = ["choose_rows", "samples"]

ROWS, DRAWS, PRIOR = 8, 8, 10


def samples(context: Context) -> dict[str, Any]:
    """Grids of real, reconstructed and generated rows."""
    every = list(dict.fromkeys(d for e in context.entries for d in directions(e.names)))
    shown = [
        (f"{_given(given)} → {target}", images)
        for given, target in every
        if (images := [
            _direction(context, entry, given, target)
            for entry in context.entries
            if {*given, target} <= set(entry.names) and target in _drawable(context, entry)
        ])
    ]  # fmt: skip
    priors = {entry.name: entry.facts.get("prior", "the prior") for entry in context.entries}
    what = f"{ROWS} test rows and their reconstructions by"
    return {
        "directions": shown,
        "priors": _strips(context, _prior, "samples-prior", "Draws from the prior of", 1),
        "prior_names": sorted(set(priors.values())) if len({*priors.values()}) == 1 else priors,
        "reconstructions": _strips(context, _reconstructed, "reconstruction", what, 2),
        "is_judged": context.classifiers is not None,
        "is_short": any(len(e.names) > 3 for e in context.entries),
    }


def _given(given: tuple[str, ...]) -> str:
    return " + ".join(given) if len(given) < 4 else f"all {len(given)} others"


def _drawable(context: Context, entry: Entry) -> list[str]:
    """Modalities that a reader can judge by eye: not the columns of a table."""
    tables = {p.target for p in entry.metrics.predictions.values()} if entry.metrics else set()
    return [
        name
        for name in entry.names
        if name not in tables or context.spec(entry, name).kind == "image"
    ][:MAX_NAMES]


def choose_rows(source: Source, count: int, seed: int) -> NDArray[np.int64]:
    """Rows to show: at random, the classes in turn, sorted by class."""
    order = generator(seed, "report rows").permutation(len(source))
    if source.labels is None:
        return order[:count]
    labels = source.labels[order]
    turn = np.empty(len(order), np.int64)
    for label in np.unique(labels):
        at = np.flatnonzero(labels == label)
        turn[at] = np.arange(len(at))
    chosen = order[np.lexsort((labels, turn))[:count]]
    return np.asarray(chosen[np.argsort(source.labels[chosen], kind="stable")])


def _direction(context: Context, entry: Entry, given: tuple[str, ...], target: str) -> Image:
    rows = choose_rows(entry.test, ROWS, context.seed)
    x = entry.take(rows)
    seed = derive_seed(context.seed, "report", *given)
    z = entry.estimator.draw(entry.observed(x, given), DRAWS, seed=seed)
    draws = entry.estimator.decode(z.z, [target], covariates=z.covariates)[target]
    labels = None if entry.test.labels is None else entry.test.labels[rows]
    wrong = context.wrong(target, draws, labels)
    parts = [Strip(n, context.spec(entry, n), known_values(x, n)) for n in given[:4]]
    figure = conditional_grid(parts, target, context.spec(entry, target), draws, wrong)
    alt = f"{len(rows)} test rows of {' and '.join(given)}, each with {DRAWS} draws of {target}"
    alt += f" by {entry.name}"
    if wrong is not None:
        alt += f"; {int(wrong.sum())} of {wrong.size} draws are of another class"
    name = f"samples-{'-and-'.join(given)}-to-{target}-{entry.name}"
    return context.figures.show(figure, name, f"{alt}.", entry.name)


def _prior(entry: Entry, context: Context) -> list[Strip]:
    seed = derive_seed(context.seed, "report", "prior")
    covariates = covariate_columns(entry.take([0]))  # where there are some, those of a row
    made = entry.estimator.generate(None, PRIOR, seed=seed, covariates=covariates)
    names = _drawable(context, entry)
    return [Strip(n, context.spec(entry, n), made[n][:, 0]) for n in names]


def _reconstructed(entry: Entry, context: Context) -> list[Strip]:
    x = entry.take(choose_rows(entry.test, ROWS, context.seed))
    estimator, seed = entry.estimator, derive_seed(context.seed, "report", "rebuilt")
    drawn = estimator.draw(x, seed=seed)
    made = estimator.decode(drawn.z[0], covariates=drawn.covariates)
    return [
        Strip(f"{n}{suffix}", context.spec(entry, n), values)
        for n in _drawable(context, entry)
        for suffix, values in (("", known_values(x, n)), (", reconstructed", made[n]))
    ]


def _strips(
    context: Context,
    make: Callable[[Entry, Context], list[Strip]],
    name: str,
    what: str,
    group: int,
) -> list[Image]:
    """A grid for each model; models with the same joint stage share theirs."""
    grids: dict[bytes, tuple[list[str], list[Strip]]] = {}
    for entry in context.entries:
        if strips := make(entry, context):
            key = b"".join(np.ascontiguousarray(s.values).tobytes() for s in strips)
            grids.setdefault(key, ([], strips))[0].append(entry.name)
    return [
        context.figures.show(
            row_grid(strips, group),
            f"{name}-{names[0]}",
            f"{what} {', '.join(names)}.",
            ", ".join(names),
        )
        for names, strips in grids.values()
    ]
