"""Numbers: coherence, Fréchet distances, diversity, log-likelihoods, posterior densities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mvflow.core import class_name
from mvflow.metrics import Distance, Estimate
from mvflow.report.entry import Entry
from mvflow.report.figures.charts import coherence_bars
from mvflow.report.markup import HTML, join, section, tag
from mvflow.report.sections.context import Context, Score, columns, comparison, figures
from mvflow.report.words import arrow

if TYPE_CHECKING:
    from mvflow.evaluation.result import Coherence, Frechet

__all__ = ["coherence", "likelihood", "likeness"]

MAX_DIRECTIONS = 12
"""Beyond this, means by number of observed modalities are shown."""

JOINT = "joint"
FITTED = "joint_fitted"
JOINTS = {JOINT: "joint", FITTED: "joint, fitted prior"}
"""What was generated without an observation -> its name in tables."""


def coherence(context: Context) -> HTML:
    """Share of generated rows of the right class: tables, chart, classifiers beside them."""
    found = [e.metrics.coherence if e.metrics else None for e in context.entries]
    if not any(found):
        text = (
            "There are no classes to measure by: the rows have no labels, or no evaluation was "
            "run."
        )
        return section("coherence", "Coherence", tag("p", text))
    intro = (
        "Conditional coherence is the share of generated samples whose class, by a classifier, "
        "is the class of the row conditioned on. Joint coherence is the share of samples "
        "drawn from the prior on whose class all modalities agree."
    )
    parts = [tag("p", intro), _table(context, found), _chart(context, found)]
    if len(columns([f.conditional_by_observed if f else None for f in found])) > 1:
        parts.append(_mean_table(context, found))
    parts += [
        _class_table(context, found),
        _reference_table(context),
        tag("p", PRECISION, class_="note"),
    ]
    return section("coherence", "Coherence", *parts)


PRECISION = (
    "± is the standard error over test rows, of which those that share an item are taken "
    "together; it does not cover the training seed."
)


def _scores(maps: Iterable[Mapping[Any, Estimate] | None], key: Any) -> list[Score | None]:
    found = [m.get(key) if m else None for m in maps]
    return [None if e is None else Score(e.mean, e.standard_error) for e in found]


def _joint_scores(found: Iterable[Coherence | None]) -> dict[str, list[Score | None]]:
    """Joint coherence, and where any model has one, that of a fitted prior."""
    maps = [_joint(f) if f else None for f in found]
    return {JOINTS[key]: _scores(maps, key) for key in columns(maps)}


def _joint(found: Any) -> dict[str, Any]:
    """What was measured of draws without an observation, by prior."""
    both = {JOINT: found.joint, FITTED: found.joint_fitted}
    return {prior: value for prior, value in both.items() if value is not None}


def _table(context: Context, found: list[Coherence | None]) -> HTML:
    maps = [f.conditional if f else None for f in found]
    scores = _joint_scores(found)
    scores |= {arrow(key): _scores(maps, key) for key in columns(maps)}
    caption = "Coherence: share of generated samples of the right class. Best in bold."
    return comparison(scores, context.names, caption, 3)


def _mean_table(context: Context, found: list[Coherence | None]) -> HTML:
    maps = [f.conditional_by_observed if f else None for f in found]
    scores = {f"{key} observed": _scores(maps, key) for key in columns(maps)}
    means = [{"": f.conditional_mean} if f and f.conditional_mean else None for f in found]
    scores["all subsets"] = _scores(means, "")
    caption = (
        "Conditional coherence by number of observed modalities, and over all subsets: of each "
        "subset the mean over its targets, then the mean over subsets."
    )
    return comparison(scores, context.names, caption, 3)


def _class_table(context: Context, found: list[Coherence | None]) -> HTML:
    maps = [f.conditional_by_class if f else None for f in found]
    test = context.entries[0].test
    scores = {class_name(test, key): _scores(maps, key) for key in sorted(columns(maps))}
    caption = "Conditional coherence by class, mean over subsets."
    return comparison(scores, context.names, caption, 3) if scores else join([])


def _reference_table(context: Context) -> HTML:
    """Reconstruction by model, and what the classifiers reach on real test rows."""
    rebuilt = [
        e.metrics.coherence.reconstruction if e.metrics and e.metrics.coherence else None
        for e in context.entries
    ]
    accuracy = _accuracy(context)
    rows = {
        name: [*_scores(rebuilt, name), Score(accuracy[name]) if name in accuracy else None]
        for name in columns([accuracy, *rebuilt])
    }
    names = [f"{n}, reconstructed" for n in context.names]
    caption = (
        "What bounds coherence: share of reconstructions, q(z|X) decoded, that keep their class, "
        "and accuracy of the classifiers on real test rows."
    )
    columns_ = [*names, "real rows (classifier accuracy)"]
    return comparison(rows, columns_, caption, 3, best=False)


def _accuracy(context: Context) -> dict[str, float]:
    """Accuracy of the classifiers on real test rows, of the first model that has any."""
    found = [e.metrics.classifiers for e in context.entries if e.metrics]
    return next(filter(None, found), {})


def _chart(context: Context, found: list[Coherence | None]) -> HTML:
    maps: list[Any] = [f.conditional if f else None for f in found]
    keys, accuracy = columns(maps), _accuracy(context)
    references: dict[str, float | None]
    if len(keys) <= MAX_DIRECTIONS:
        groups = {arrow(key): key for key in keys}
        references = {arrow(key): accuracy.get(key.split("->")[1]) for key in keys}
    else:
        maps = [f.conditional_by_observed if f else None for f in found]
        groups = {f"{key} observed": key for key in columns(maps)}
        mean = float(np.mean(list(accuracy.values() or [np.nan])))
        references = dict.fromkeys(groups, mean)
    scores = _joint_scores(found) | {label: _scores(maps, key) for label, key in groups.items()}
    values = {k: [s.value if s else None for s in v] for k, v in scores.items()}
    errors = {k: [s.error if s else None for s in v] for k, v in scores.items()}
    chance = _chance(context.entries[0])
    figure = coherence_bars(values, context.names, references, chance, errors)
    best = "; ".join(f"{k}: {_listed(context.names, v)}" for k, v in values.items())
    alt = f"Bar chart of coherence. {best}."
    return figures(context.figures.show(figure, "coherence", alt, vector=True), kind="wide")


def _listed(names: list[str], values: list[float | None]) -> str:
    return ", ".join(f"{n} {v:.2f}" for n, v in zip(names, values, strict=True) if v is not None)


def _chance(entry: Entry) -> float | None:
    labels = entry.test.labels
    if labels is None or not len(labels):
        return None
    return float(np.max(np.bincount(labels)) / len(labels))


def likeness(context: Context) -> HTML:
    """How near generated rows are to real ones, and how far from each other."""
    metrics = [e.metrics for e in context.entries]
    networks = columns([m.frechet if m else None for m in metrics])
    if not any(metrics):
        return section("likeness", "Likeness and diversity", tag("p", "No evaluation was run."))
    intro = (
        "The Fréchet distance compares generated with real rows by mean and covariance of the "
        "features that a network takes from them (lower is better); only distances in the same "
        "features and of equal numbers of rows compare, since few rows make them larger: beside "
        "them stands what as many real rows reach, and below what they would be of infinitely "
        "many rows, if that error is in proportion to 1 / rows. Its mean in the features of "
        "autoencoders is called MFD. It is an FID only in those of Inception-v3."
    )
    spread = (
        "Diversity is the root mean squared difference between samples generated from the same "
        "row. Too little, and the model repeats itself; where what is given says no more than the "
        "class, it should be that of real rows of one class."
    )
    parts = [tag("p", intro), *(_distances(context, name) for name in networks)]
    return section(
        "likeness",
        "Likeness and diversity",
        *parts,
        tag("p", spread),
        _spreads(context),
        _means(
            context,
            [m.reconstruction if m else None for m in metrics],
            "Squared error per value of reconstructions, q(z|X) decoded; lower is better.",
            digits=4,
            best=False,
        ),
    )


def _distances(context: Context, network: str) -> HTML:
    """One row a way of generating: joint, and by direction or number of observed modalities."""
    found = [e.metrics.frechet.get(network) if e.metrics else None for e in context.entries]
    maps = [_distance_rows(f, network) if f else None for f in found]
    scores = {arrow(key): _scores(maps, key) for key in columns(maps)}
    limits: list[Any] = [
        {k: Estimate(d.infinite, math.nan) for k, d in _distance_means(f).items()} if f else None
        for f in found
    ]
    scores |= {f"of infinitely many rows, {key}": _scores(limits, key) for key in columns(limits)}
    name = "FID" if network == "inception-v3" else f"Fréchet distance, {network} features"
    sizes = {f.rows for f in found if f}
    rows = " or ".join(f"{n:,}" for n in sorted(sizes))
    caption = f"{name}; {rows} rows in all but joint ones."
    return comparison(scores, context.names, caption, 2, best=False)


def _distance_rows(found: Frechet, network: str) -> dict[str, Estimate]:
    rows: dict[str, Estimate] = {
        f"{JOINTS[prior]}, {name}": value
        for prior, of in _joint(found).items()
        for name, value in of.items()
    }
    if len(found.conditional) <= MAX_DIRECTIONS:
        rows |= found.conditional
    else:
        sizes = found.conditional_by_observed.items()
        rows |= {f"{size} observed": value for size, value in sizes}
    rows |= {f"as many real rows of {name}": value for name, value in found.real.items()}
    if network == "autoencoder":
        rows |= {f"MFD, {key}": value for key, value in _distance_means(found).items()}
    return rows


def _distance_means(found: Frechet) -> dict[str, Distance]:
    """Means over modalities or subsets, by way of generating."""
    means = {JOINTS[prior]: value for prior, value in _joint(found.mean).items()}
    if found.mean.conditional is not None:
        means["conditional"] = found.mean.conditional
    return means


def _spreads(context: Context) -> HTML:
    """Diversity of the values themselves, beside that of real rows of one class."""
    maps = [e.metrics.diversity.get("data") if e.metrics else None for e in context.entries]
    made, real = (
        [m.conditional if m else None for m in maps],
        [m.real if m else None for m in maps],
    )
    scores = {arrow(key): _scores(made, key) for key in columns(made)}
    scores |= {f"real {name}": _scores(real, name) for name in columns(real)}
    return comparison(scores, context.names, "Diversity of values.", 3, best=False)


def likelihood(context: Context) -> HTML:
    """Log-likelihoods of unseen rows and density of the posteriors, with standard errors."""
    likelihoods = [e.metrics.log_likelihood if e.metrics else None for e in context.entries]
    densities = [e.metrics.posterior_log_density if e.metrics else None for e in context.entries]
    if not any(likelihoods):
        return section("likelihood", "Likelihood", tag("p", "No evaluation was run."))
    intro = (
        "How probable unseen rows are under the model, in nats per row (higher is better), "
        "estimated by importance sampling: the mean over rows ± its standard error. The estimate "
        "lies below the truth on average. Compare only models of the same data and likelihoods."
    )
    density = (
        "log q(z|x) of one modality, where z ~ q(z|X) of all: how well each posterior covers the "
        "places where rows truly lie."
    )
    if any(e.estimator.can_project for e in context.entries):
        density += " A posterior on shared information is wide on purpose."
    return section(
        "likelihood",
        "Likelihood",
        tag("p", intro),
        _means(
            context, likelihoods, "Log-likelihood, in nats: log p(X), then log p(target | given)."
        ),
        tag("p", density),
        _means(context, densities, "Held-out log density of the posteriors, in nats.", "given "),
    )


def _means(
    context: Context,
    maps: list[dict[str, Estimate] | None],
    caption: str,
    prefix: str = "",
    digits: int = 2,
    *,
    best: bool = True,
) -> HTML:
    scores = {prefix + arrow(key): _scores(maps, key) for key in columns(maps)}
    caption += " Best in bold." if best else ""
    return comparison(scores, context.names, caption, digits, best=best)
