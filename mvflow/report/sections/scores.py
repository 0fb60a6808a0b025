"""Numbers: coherence, Fréchet distances, diversity, log-likelihoods, posterior densities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mvflow.core import class_name
from mvflow.evaluation.summaries import distance_rows
from mvflow.metrics import Distance, Estimate
from mvflow.report.context import Context
from mvflow.report.figures.charts import coherence_bars
from mvflow.report.tables import (
    MAX_NAMES,
    Cell,
    Table,
    columns,
    comparison,
    matrix,
    score_row,
)
from mvflow.report.words import arrow, signed

if TYPE_CHECKING:
    from mvflow.evaluation.result import Coherence, Frechet

__all__ = ["coherence", "likelihood", "likeness"]

JOINTS = {"joint": "joint", "joint_fitted": "joint, fitted prior"}
"""What was generated without an observation -> its name in tables."""
MAX_CLASSES = 12
"""That have a row of their own."""


def coherence(context: Context) -> dict[str, Any]:
    """Share of generated rows of the right class: matrix, chart, classifiers beside them."""
    scores = [m.coherence if m else None for m in context.metrics]
    known = [c for c in scores if c is not None]
    if not known:
        return {"tables": [], "matrices": []}
    joint = [_joint(c) if c else None for c in scores]
    few = len(context.entries[0].names) < 3
    rows = {JOINTS[key]: score_row(joint, key) for key in columns(joint)}
    conditional = [c.conditional if c else None for c in scores]
    if few:
        rows |= {arrow(key): score_row(conditional, key) for key in columns(conditional)}
    sizes = [c.conditional_by_observed if c else None for c in scores]
    if len(columns(sizes)) > 1:
        rows |= {f"{key} observed": score_row(sizes, key) for key in columns(sizes)}
        means = [{"": c.conditional_mean} if c and c.conditional_mean else None for c in scores]
        rows["all subsets"] = score_row(means, "")
    caption = "Coherence: share of generated samples of the right class."
    main = comparison(rows | _one_to_many(scores), context.names, caption, 3, best=True)
    chance = known[0].conditional_chance
    return {
        "tables": [main],
        "matrices": [] if few else _matrices(context, chance),
        "chart": _chart(context, rows, chance),
        "details": [*_by_class(context, scores), _references(context, scores)],
        "chance": None if chance is None else f"{chance:.2f}",
        "joint_chance": _joint_chances(context),
        "unsound": sorted({name for c in known for name in c.unsound}),
    }


def _one_to_many(scores: Sequence[Coherence | None]) -> dict[str, list[Estimate | None]]:
    """Agreement among all targets given one modality, with its control by separate draws."""
    found = [c.one_to_many if c else None for c in scores]
    if not any(found):
        return {}
    return {
        "1 → N: targets agree, one draw": [m.together_mean if m else None for m in found],
        "1 → N: targets agree, separate draws": [m.apart_mean if m else None for m in found],
    }


def _joint(measured: Any) -> dict[str, Any]:
    """What was measured of draws without an observation, by prior."""
    both = {"joint": measured.joint, "joint_fitted": measured.joint_fitted}
    return {prior: value for prior, value in both.items() if value is not None}


def _joint_chances(context: Context) -> str:
    chances = {
        entry.name: metrics.coherence.joint_chance
        for entry, metrics in context.measured
        if metrics.coherence and metrics.coherence.joint_chance is not None
    }
    return ", ".join(f"{name} {value:.2f}" for name, value in chances.items())


def _matrices(context: Context, chance: float | None) -> list[Table]:
    tables = []
    for entry, metrics in context.measured:
        if metrics.coherence is None:
            continue
        cells = {
            key: Cell(f"{e.mean:.2f}", kind="number", shade=_shade(e.mean, chance or 0.0))
            for key, e in metrics.coherence.conditional.items()
        }
        caption = f"{entry.name}: conditional coherence, coloured by how far it is above chance."
        tables.append(matrix(cells, entry.names, caption))
    return tables


def _shade(value: float, chance: float) -> float:
    """Where a share stands between chance and 1."""
    return round(min(max((value - chance) / max(1 - chance, 1e-9), 0.0), 1.0), 3)


def _by_class(context: Context, scores: Sequence[Coherence | None]) -> list[Table]:
    maps = [c.conditional_by_class if c else None for c in scores]
    test, keys = context.entries[0].test, sorted(columns(maps))
    if not keys:
        return []
    caption = "Conditional coherence by class, mean over subsets."
    if len(keys) > MAX_CLASSES:
        means = {k: np.nanmean([e.mean for e in score_row(maps, k) if e]) for k in keys}
        keys = sorted(sorted(keys, key=lambda k: means[k])[:MAX_CLASSES])
        caption += f" The {MAX_CLASSES} worst classes of {len(means)}."
    rows = {class_name(test, key): score_row(maps, key) for key in keys}
    return [comparison(rows, context.names, caption, 3, best=True)]


def _references(context: Context, scores: Sequence[Coherence | None]) -> Table:
    """Reconstruction by model, and what the classifiers reach on real test rows."""
    rebuilt = [c.reconstruction if c else None for c in scores]
    accuracy = _accuracy(context)
    rows: dict[str, list[Estimate | None]] = {
        name: [
            *score_row(rebuilt, name),
            Estimate(accuracy[name], math.nan) if name in accuracy else None,
        ]
        for name in columns([accuracy, *rebuilt])
    }
    names = [*(f"{n}, reconstructed" for n in context.names), "real rows (classifier accuracy)"]
    caption = (
        "What bounds coherence: share of reconstructions, q(z|X) decoded, that keep their class, "
        "and accuracy of the classifiers on real test rows."
    )
    return comparison(rows, names, caption, 3)


def _accuracy(context: Context) -> dict[str, float]:
    """Accuracy of the classifiers on real test rows, of the first model that has any."""
    return next(filter(None, (m.classifiers for _, m in context.measured)), {})


def _chart(context: Context, rows: Mapping[str, Sequence[Estimate | None]], chance: Any) -> Any:
    accuracy = _accuracy(context)
    mean = float(np.mean(list(accuracy.values()))) if accuracy else None
    references = {label: accuracy.get(label.split("→ ")[-1], mean) for label in rows}
    for joint in JOINTS.values():
        references.pop(joint, None)
    figure = coherence_bars(rows, context.names, references, chance)
    listed = "; ".join(
        f"{label}: "
        + ", ".join(f"{n} {e.mean:.2f}" for n, e in zip(context.names, row, strict=True) if e)
        for label, row in rows.items()
    )
    return context.figures.show(figure, "coherence", f"Bar chart of coherence. {listed}.")


def likeness(context: Context) -> dict[str, Any]:
    """How near generated rows are to real ones, and how far from each other."""
    metrics = context.metrics
    networks = columns([m.frechet if m else None for m in metrics])
    maps = [m.diversity.get("data") if m else None for m in metrics]
    real = [m.real if m else None for m in maps]
    spreads = [m.conditional if m else None for m in maps]
    errors = [m.reconstruction if m else None for m in metrics]
    caption = "Squared error per value of reconstructions, q(z|X) decoded; lower is better."
    return {
        "distances": [
            table
            for name in networks
            for table in (_distances(context, name), *_manifolds(context, name))
        ],
        "spreads": [
            *_by_direction(context, spreads, "Diversity of values.", 3),
            *_by_direction(context, real, "The same of real rows of one class.", 3),
        ],
        "errors": _by_direction(context, errors, caption, 4),
        "is_measured": bool(context.measured),
    }


def _distances(context: Context, network: str) -> Table:
    """One row a way of generating: joint, by direction or number of observed modalities."""
    measured = [m.frechet.get(network) if m else None for m in context.metrics]
    maps = [_distance_rows(f, network) if f else None for f in measured]
    scores = {arrow(key): score_row(maps, key) for key in columns(maps)}
    limits = [_limits(f) if f else None for f in measured]
    scores |= {
        f"of infinitely many rows, {key}": score_row(limits, key) for key in columns(limits)
    }
    name = "FID" if network == "inception-v3" else f"Fréchet distance, {network} features"
    told = (distance_rows(m, entry.estimator.config.evaluation) for entry, m in context.measured)
    caption = "; ".join([name, *filter(None, dict.fromkeys(told))]) + "."
    return comparison(scores, context.names, caption, 2)


def _limits(distances: Frechet) -> dict[str, Estimate]:
    """Mean distances of infinitely many rows: by a line where that was asked for."""
    if distances.limit is not None:
        means = dict(distances.limit.mean)
        titles = {**JOINTS, "conditional": "conditional", "real": "real rows"}
        return {title: means[k] for k, title in titles.items() if means.get(k) is not None}
    return {k: Estimate(d.infinite, math.nan) for k, d in _distance_means(distances).items()}


def _manifolds(context: Context, network: str) -> list[Table]:
    """Precision and recall, means by way of generating, with what as many real rows have."""
    measured = [m.frechet.get(network) if m else None for m in context.metrics]
    rows: dict[str, list[Estimate | None]] = {}
    for measure in ("precision", "recall"):
        found = [getattr(f, measure) if f else None for f in measured]
        titles = {**JOINTS, "conditional": "conditional", "real": "as many real rows"}
        for key, title in titles.items():
            values = [getattr(of.mean, key) if of else None for of in found]
            if any(values):
                rows[f"{measure}, {title}"] = values
    if not rows:
        return []
    counts = " or ".join(f"{n:,}" for n in sorted({f.manifold_rows for f in measured if f}))
    caption = f"Precision and recall, {network} features; {counts} rows. Higher is better."
    return [comparison(rows, context.names, caption, 3)]


def _distance_rows(distances: Frechet, network: str) -> dict[str, Estimate]:
    rows: dict[str, Estimate] = {
        f"{JOINTS[prior]}, {name}": value
        for prior, of in _joint(distances).items()
        for name, value in of.items()
    }
    if len(distances.conditional) <= MAX_NAMES:
        rows |= distances.conditional
    else:
        sizes = distances.conditional_by_observed.items()
        rows |= {f"{size} observed": value for size, value in sizes}
    rows |= {f"as many real rows of {name}": value for name, value in distances.real.items()}
    if network == "autoencoder":
        rows |= {f"MFD, {key}": value for key, value in _distance_means(distances).items()}
    return rows


def _distance_means(distances: Frechet) -> dict[str, Distance]:
    """Means over modalities or subsets, by way of generating."""
    means = {JOINTS[prior]: value for prior, value in _joint(distances.mean).items()}
    if distances.mean.conditional is not None:
        means["conditional"] = distances.mean.conditional
    return means


def likelihood(context: Context) -> dict[str, Any]:
    """Log-likelihoods of unseen rows and density of the posteriors, with standard errors."""
    rows = [m.log_likelihood if m else None for m in context.metrics]
    densities = [m.posterior_log_density if m else None for m in context.metrics]
    caption = "Log-likelihood, in nats: log p(X), and log p(target | given)."
    held = "Held-out log density of the posteriors given one modality, in nats."
    estimators = [entry.estimator for entry in context.entries]
    gaps = [m.gaps for m in context.metrics if m and m.gaps]
    is_fair = len({e.latent_dim for e in estimators}) == 1 and not any(
        g.is_collapsed for g in gaps
    )
    if len({e.latent_dim for e in estimators}) > 1:
        held += " Latent spaces of other dimensions do not compare."
    return {
        "likelihoods": _by_direction(context, rows, caption, 2, best=True),
        "densities": _by_direction(context, densities, held, 2, best=is_fair),
        "gaps": _gaps(context),
        "projects": any(entry.estimator.can_project for entry in context.entries),
        "is_measured": bool(context.measured),
    }


def _gaps(context: Context) -> Table | None:
    """How far posteriors are from what they approximate."""
    maps: list[dict[str, Estimate] | None] = []
    for metrics in context.metrics:
        gaps = metrics.gaps if metrics else None
        found = {} if gaps is None else {"log p(X) − ELBO": gaps.gap}
        if gaps is not None and gaps.from_prior is not None:
            found["KL(q(z|X) ‖ p(z))"] = gaps.from_prior
        for name, value in gaps.divergences.items() if gaps else ():
            found[f"KL(q(z|X) ‖ q(z|{name}))"] = value
        for name, bounds in gaps.excess.items() if gaps else ():
            found[f"of it beyond the average, {name}: at least"] = bounds.at_least
            found[f"of it beyond the average, {name}: at most"] = bounds.at_most
        if gaps is not None and gaps.variation_of_information is not None:
            found["bound on the variation of information"] = gaps.variation_of_information
        maps.append(found)
    keys = columns(maps)
    rows = {key: score_row(maps, key) for key in keys[: 2 * MAX_NAMES]}
    return comparison(rows, context.names, "Inference gaps, in nats.", 2) if rows else None


def _by_direction(
    context: Context,
    maps: Sequence[Mapping[str, Estimate] | None],
    caption: str,
    digits: int,
    *,
    best: bool = False,
) -> list[Table]:
    """Scores of all models in one table; of more than two modalities, directions as matrices."""
    keys = sorted(columns(maps), key=lambda key: "->" in key)
    is_small = len(context.entries[0].names) < 3
    rows = {arrow(k): score_row(maps, k) for k in keys if is_small or "->" not in k}
    tables = [comparison(rows, context.names, caption, digits, best=best)] if rows else []
    for entry, scores in zip(context.entries, () if is_small else maps, strict=False):
        cells = {
            key: Cell(signed(e.mean, digits), f"± {e.standard_error:.{digits}f}", "number")
            for key, e in (scores or {}).items()
            if "->" in key
        }
        if cells:
            tables.append(matrix(cells, entry.names, f"{entry.name}: {caption}"))
    return tables


def number(value: float | None, digits: int = 2) -> str:
    """A number of a table; a dash where it is not known."""
    return "–" if value is None or not math.isfinite(value) else signed(value, digits)
