"""Pictures: reconstructions, draws in every direction, draws from the prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Source, derive_seed, generator
from mvflow.report.entry import Entry, directions
from mvflow.report.figures.grids import Given, Row, conditional_grid, row_grid
from mvflow.report.markup import HTML, section, tag
from mvflow.report.sections.context import Context, figures

__all__ = ["choose_rows", "samples"]

ROWS, DRAWS, PRIOR = 8, 8, 10


def samples(context: Context) -> HTML:
    """Grids of real, reconstructed and generated rows."""
    parts: list[HTML] = []
    for given, target in _all_directions(context):
        shown = [
            _direction(context, i, given, target)
            for i, e in enumerate(context.entries)
            if {*given, target} <= set(e.names)
        ]
        parts += [tag("h3", f"{' + '.join(given)} → {target}"), figures(*shown)]
    parts += [
        tag("h3", "From nothing: draws from the prior"),
        tag("p", PRIOR_WORDS + _priors(context)),
    ]
    parts.append(_strips(context, _prior, "samples-prior", "Draws from the prior of", 1))
    parts += [tag("h3", "Reconstruction"), tag("p", RECONSTRUCTION_WORDS)]
    what = f"{ROWS} test rows and their reconstructions by"
    parts.append(_strips(context, _reconstructed, "reconstruction", what, 2))
    intro = "At the left the test row conditioned on, at the right eight draws. "
    if context.classifiers is not None:
        intro += "A red frame marks draws whose class, by the classifier, is another one."
    return section("samples", "Samples", tag("p", intro), *parts)


PRIOR_WORDS = "Each column is one draw: its modalities should belong together. "
RECONSTRUCTION_WORDS = "Test rows, and below each its reconstruction from a draw of q(z|X)."


def _priors(context: Context) -> str:
    """What was drawn from, by each model or by all."""
    known = {entry.name: entry.facts.get("prior", "the prior") for entry in context.entries}
    if len(set(known.values())) == 1:
        return f"z is drawn from {next(iter(known.values()))}."
    return " ".join(f"{name}: z is drawn from {prior}." for name, prior in known.items())


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


def _all_directions(context: Context) -> list[tuple[tuple[str, ...], str]]:
    found = [d for entry in context.entries for d in directions(entry.names)]
    return list(dict.fromkeys(found))


def _direction(context: Context, i: int, given: tuple[str, ...], target: str) -> HTML:
    entry = context.entries[i]
    rows = choose_rows(entry.test, ROWS, context.seed)
    x = entry.test.take(rows)
    observed = {name: x[name] for name in given}
    seed = derive_seed(context.seed, "report", *given)
    z = entry.estimator.draw(observed, DRAWS, seed=seed).z
    draws = entry.estimator.decode(z, [target])[target]
    labels = None if entry.test.labels is None else entry.test.labels[rows]
    wrong = context.wrong(target, draws, labels)
    parts = [Given(name, context.spec(entry, name), x[name]) for name in given]
    figure = conditional_grid(parts, target, context.spec(entry, target), draws, wrong)
    alt = f"{len(rows)} test rows of {' and '.join(given)}, each with {DRAWS} draws of {target}"
    alt += f" by {entry.name}"
    if wrong is not None:
        alt += f"; {int(wrong.sum())} of {wrong.size} draws are of another class"
    name = f"samples-{'-and-'.join(given)}-to-{target}-{entry.name}"
    return context.figures.show(figure, name, alt + ".", tag("b", entry.name))


def _prior(entry: Entry, context: Context) -> list[Row]:
    seed = derive_seed(context.seed, "report", "prior")
    made = entry.estimator.generate(None, PRIOR, seed=seed)
    return [Row(n, context.spec(entry, n), made[n][:, 0]) for n in entry.names]


def _reconstructed(entry: Entry, context: Context) -> list[Row]:
    x: dict[str, Any] = entry.test.take(choose_rows(entry.test, ROWS, context.seed))
    estimator, seed = entry.estimator, derive_seed(context.seed, "report", "rebuilt")
    every = {name: x[name] for name in entry.names}
    made = estimator.decode(estimator.draw(every, seed=seed).z[0])
    return [
        Row(f"{n}{suffix}", context.spec(entry, n), values[n])
        for n in entry.names
        for suffix, values in (("", x), (", reconstructed", made))
    ]


def _strips(
    context: Context, make: Callable[[Entry, Context], list[Row]], name: str, what: str, group: int
) -> HTML:
    """A grid for each model; models with the same joint stage share theirs."""
    grids: dict[bytes, tuple[list[str], list[Row]]] = {}
    for entry in context.entries:
        rows = make(entry, context)
        key = b"".join(np.ascontiguousarray(row.values).tobytes() for row in rows)
        grids.setdefault(key, ([], rows))[0].append(entry.name)
    shown = []
    for names, rows in grids.values():
        who = ", ".join(names)
        figure, caption = row_grid(rows, group), tag("b", who)
        shown.append(context.figures.show(figure, f"{name}-{names[0]}", f"{what} {who}.", caption))
    return figures(*shown)
