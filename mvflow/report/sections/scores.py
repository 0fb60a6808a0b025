"""Numbers: coherence, Fréchet distances, diversity, log-likelihoods, posterior densities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mvflow.report.entry import Entry
from mvflow.report.figures.charts import coherence_bars
from mvflow.report.markup import HTML, section, tag
from mvflow.report.sections.context import Context, Score, columns, comparison, figures
from mvflow.report.words import arrow

__all__ = ["coherence", "likelihood", "likeness"]

JOINT = "joint"
FITTED = "joint_fitted"
JOINTS = {JOINT: "joint", FITTED: "joint, fitted prior"}
"""What was generated without an observation -> its name in tables."""


def coherence(context: Context) -> HTML:
    """Share of generated rows of the right class: tables, chart, classifiers beside them."""
    found = [(e.metrics or {}).get("coherence") for e in context.entries]
    if not any(found):
        text = (
            "There are no classes to judge by: the rows have no labels, or no evaluation was run."
        )
        return section("coherence", "Coherence", tag("p", text))
    intro = (
        "Conditional coherence is the share of generated samples whose class, as a classifier "
        "sees it, is the class of the row conditioned on. Joint coherence is the share of samples "
        "drawn from the prior on whose class all modalities agree."
    )
    parts = [tag("p", intro), _table(context, found), _chart(context, found)]
    if len(_by_observed(found)) > 1:
        parts.append(_observed_table(context, found))
    parts += [_reference_table(context), tag("p", _precision(context), class_="note")]
    return section("coherence", "Coherence", *parts)


def _conditional(found: Iterable[Mapping[str, Any] | None]) -> list[str]:
    return columns([f["conditional"] if f else None for f in found])


def _by_observed(found: Iterable[Mapping[str, Any] | None]) -> list[str]:
    return columns([f["conditional_by_observed"] if f else None for f in found])


def _scores(found: Iterable[Mapping[str, Any] | None], key: str) -> list[Score | None]:
    return [Score(f[key]) if f and key in f else None for f in found]


def _table(context: Context, found: list[Any]) -> HTML:
    conditional = [f["conditional"] if f else None for f in found]
    scores = {JOINT: _scores(found, "joint")}
    if any(f and FITTED in f for f in found):
        scores[JOINTS[FITTED]] = _scores(found, FITTED)
    scores |= {arrow(key): _scores(conditional, key) for key in _conditional(found)}
    caption = "Coherence: share of generated samples of the right class. Best in bold."
    return comparison(scores, context.names, caption, 3)


def _observed_table(context: Context, found: list[Any]) -> HTML:
    maps = [f["conditional_by_observed"] if f else None for f in found]
    scores = {f"{key} observed": _scores(maps, key) for key in _by_observed(found)}
    caption = "Conditional coherence by number of observed modalities, mean over directions."
    return comparison(scores, context.names, caption, 3)


def _reference_table(context: Context) -> HTML:
    """Reconstruction by model, and what the classifiers reach on real test rows."""
    metrics = [e.metrics or {} for e in context.entries]
    rebuilt = [m.get("coherence", {}).get("reconstruction") for m in metrics]
    accuracy = _accuracy(context)
    rows: dict[str, list[Score | None]] = {
        name: [*_scores(rebuilt, name), Score(accuracy[name]) if name in accuracy else None]
        for name in columns([accuracy, *rebuilt])
    }
    names = [f"{n}, reconstructed" for n in context.names]
    caption = (
        "What bounds coherence: share of reconstructions, q(z|X) decoded, that keep their class, "
        "and accuracy of the classifiers on real test rows."
    )
    everyone = [*names, "real rows (classifier accuracy)"]
    return comparison(rows, everyone, caption, 3, best=False)


def _accuracy(context: Context) -> dict[str, float]:
    """Accuracy of the classifiers on real test rows, of the first model that was judged."""
    for entry in context.entries:
        if entry.metrics is not None and "classifiers" in entry.metrics:
            return dict(entry.metrics["classifiers"])
    return {}


def _chart(context: Context, found: list[Any]) -> HTML:
    keys = _conditional(found)
    accuracy = _accuracy(context)
    references: dict[str, float | None] = {}
    scores = {JOINT: [f["joint"] if f else None for f in found]}
    if len(keys) <= 12:
        for key in keys:
            scores[arrow(key)] = [(f or {}).get("conditional", {}).get(key) for f in found]
            references[arrow(key)] = accuracy.get(key.split("->")[1])
    else:
        for key in _by_observed(found):
            values = [(f or {}).get("conditional_by_observed", {}).get(key) for f in found]
            scores[f"{key} observed"] = values
            references[f"{key} observed"] = float(np.mean(list(accuracy.values() or [np.nan])))
    figure = coherence_bars(scores, context.names, references, _chance(context.entries[0]))
    best = "; ".join(f"{k}: {_listed(context.names, v)}" for k, v in scores.items())
    alt = f"Bar chart of coherence. {best}."
    return figures(context.album.show(figure, "coherence", alt, vector=True), kind="wide")


def _listed(names: list[str], values: list[float | None]) -> str:
    return ", ".join(f"{n} {v:.2f}" for n, v in zip(names, values, strict=True) if v is not None)


def _chance(entry: Entry) -> float | None:
    labels = entry.test.labels
    if labels is None or not len(labels):
        return None
    return float(np.max(np.bincount(labels)) / len(labels))


def _precision(context: Context) -> str:
    metrics = next(e.metrics for e in context.entries if e.metrics is not None)
    settings = context.entries[0].estimator.config.evaluation
    rows = int(metrics["rows"])
    text = (
        f"Measured on {rows:,} test rows (standard error at most {_error(rows):.3f} for one "
        f"direction) and {settings.prior_draws:,} draws from the prior"
    )
    if len(context.entries[0].names) > 2:
        some = min(rows, settings.product_rows)
        text += f"; on {some:,} rows where several modalities are observed (at most "
        text += f"{_error(some):.3f})"
    return text + ". The standard error does not cover the training seed."


def _error(rows: int) -> float:
    """Largest standard error of a share of so many rows."""
    return float((0.25 / rows) ** 0.5)


def likeness(context: Context) -> HTML:
    """How near generated rows are to real ones, and how far from each other."""
    metrics = [e.metrics or {} for e in context.entries]
    networks = columns([m.get("frechet") for m in metrics])
    diversity = [m.get("diversity") for m in metrics]
    if not any(diversity):
        return section("likeness", "Likeness and diversity", tag("p", "No evaluation was run."))
    intro = (
        "The Fréchet distance compares generated with real rows by mean and covariance of the "
        "features that a network takes from them (lower is better); only distances in the same "
        "features and of equal numbers of rows compare. Its mean over modalities in the features "
        "of autoencoders is called MFD. It is an FID only in those of Inception-v3."
    )
    spread = (
        "Diversity is the root mean squared difference between samples generated from the same "
        "row. Too little, and the model repeats itself; where what is given says no more than the "
        "class, it should be that of real rows of one class."
    )
    parts = [tag("p", intro), *(_distances(context, metrics, name) for name in networks)]
    return section(
        "likeness",
        "Likeness and diversity",
        *parts,
        tag("p", spread),
        _spreads(context, diversity),
        _means(
            context,
            [m.get("reconstruction") for m in metrics],
            "Squared error per value of reconstructions, q(z|X) decoded; lower is better.",
            digits=4,
            best=False,
        ),
    )


def _distances(context: Context, metrics: list[Any], network: str) -> HTML:
    """One row a way of generating: joint, and by direction or number of observed modalities."""
    found = [m.get("frechet", {}).get(network) for m in metrics]
    maps = [
        f
        and {f"{JOINTS[prior]}, {k}": v for prior in JOINTS for k, v in f.get(prior, {}).items()}
        | _conditionals(f)
        | _real(f)
        for f in found
    ]
    scores = {arrow(key): [_score(f, key) for f in maps] for key in columns(maps)}
    name = "FID" if network == "inception-v3" else f"Fréchet distance, {network} features"
    means = [f["mean"] if f else None for f in found]
    if network == "autoencoder":
        scores |= {
            f"MFD, {JOINTS.get(key, key)}": [_score(m, key) for m in means]
            for key in columns(means)
        }
    return comparison(scores, context.names, f"{name}.", 2, best=False)


def _score(found: Mapping[str, Any] | None, key: str) -> Score | None:
    return Score(found[key]) if found and found.get(key) is not None else None


def _conditionals(found: Mapping[str, Any]) -> dict[str, float]:
    if len(found["conditional"]) <= 12:
        return dict(found["conditional"])
    return {f"{size} observed": v for size, v in found["conditional_by_observed"].items()}


def _real(found: Mapping[str, Any]) -> dict[str, float]:
    real = found.get("real_by_observed", {}).items()
    return {f"as many real rows as with {size} observed": value for size, value in real}


def _spreads(context: Context, diversity: list[Any]) -> HTML:
    """Diversity of the values themselves, beside that of real rows of one class."""
    maps: list[Any] = [d["data"] if d else None for d in diversity]
    scores = {
        arrow(key): [
            Score(m["conditional"][key]["mean"], m["conditional"][key]["standard_error"])
            if m and key in m["conditional"]
            else None
            for m in maps
        ]
        for key in columns([m["conditional"] if m else None for m in maps])
    }
    scores |= {
        f"real {name}": [_score(m and {name: m["real"][name]["mean"]}, name) for m in maps]
        for name in columns([m["real"] if m else None for m in maps])
    }
    return comparison(scores, context.names, "Diversity of values.", 3, best=False)


def likelihood(context: Context) -> HTML:
    """Log-likelihoods of unseen rows and density of the posteriors, with standard errors."""
    metrics = [e.metrics or {} for e in context.entries]
    likelihoods = [m.get("log_likelihood") for m in metrics]
    densities = [m.get("posterior_log_density") for m in metrics]
    if not any(likelihoods):
        return section("likelihood", "Likelihood", tag("p", "No evaluation was run."))
    intro = (
        "How probable unseen rows are under the model, in nats per row (higher is better), "
        "estimated by importance sampling: the mean over rows ± its standard error. The estimate "
        "lies below the truth on average. Compare only models of the same data and likelihoods."
    )
    density = (
        "log q(z|x) of one modality, where z ~ q(z|X) of all: how well each posterior covers the "
        "places where rows truly lie. A posterior on shared information is wide on purpose."
    )
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
    maps: list[Any],
    caption: str,
    prefix: str = "",
    digits: int = 2,
    *,
    best: bool = True,
) -> HTML:
    scores = {
        prefix + arrow(key): [
            Score(m[key]["mean"], m[key]["standard_error"]) if m and key in m else None
            for m in maps
        ]
        for key in columns(maps)
    }
    caption += " Best in bold." if best else ""
    return comparison(scores, context.names, caption, digits, best=best)
