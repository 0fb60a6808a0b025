"""Parts of an evaluation put together: means over subsets, by size, by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mvflow.config import EvaluationSettings
from mvflow.evaluation.parts import JointPart, Likeness, SubsetPart
from mvflow.evaluation.predictions import KindScores, Prediction, PredictionMeans, measure_of_kind
from mvflow.evaluation.result import (
    Coherence,
    Evaluation,
    Frechet,
    FrechetMeans,
    MeasureByWay,
)
from mvflow.evaluation.rows import direction
from mvflow.functional import agreement, chance_agreement
from mvflow.metrics import (
    Distance,
    Estimate,
    Jackknife,
    limit_sizes,
    mean_and_error,
    mean_of_means,
)

__all__ = ["coherence", "distance_rows", "frechet", "prediction_means", "prediction_sentence"]

MAX_RHAT_ROWS = 0.05
"""Share of rows with an R-hat above 1.05 from which on chains of a subset did not agree."""

T = TypeVar("T")


def coherence(
    subsets: Sequence[SubsetPart],
    joint: Mapping[str, JointPart],
    reconstruction: Mapping[str, Estimate],
    labels: NDArray[np.int64],
    clusters: NDArray[np.int64],
    at: Sequence[NDArray[np.int64]] | None = None,
) -> Coherence:
    """Shares of the right class.

    Args:
        subsets: what was generated.
        joint: prior -> what was drawn from it.
        reconstruction: modality -> share of rows that keep their class.
        labels: of the rows measured.
        clusters: of the rows measured: those of one number depend on each other.
        at: which of them each subset has; None: the first ones.
    """
    means = [np.mean([*s.hits.values()], axis=0) for s in subsets]
    places = [np.arange(len(m)) for m in means] if at is None else at
    sizes = [len(s.given) for s in subsets]
    by_class: dict[int, Estimate] = {}
    for label in np.unique(labels) if means else ():
        own = labels == label
        parts = [m[own[rows]] for m, rows in zip(means, places, strict=True)]
        if min(map(len, parts)):
            ranks = [(np.cumsum(own) - 1)[rows[own[rows]]] for rows in places]
            by_class[int(label)] = mean_of_means(parts, clusters[own], ranks)
    drawn = {name: np.array(part.classes) for name, part in joint.items()}
    agreed = {name: mean_and_error(agreement(classes)) for name, classes in drawn.items()}
    chance = {name: float(chance_agreement(classes)) for name, classes in drawn.items()}
    return Coherence(
        joint=agreed["joint"],
        joint_fitted=agreed.get("joint_fitted"),
        joint_chance=chance["joint"],
        joint_fitted_chance=chance.get("joint_fitted"),
        conditional_chance=float(np.unique(labels, return_counts=True)[1].max() / len(labels)),
        conditional_balanced=_balanced(by_class),
        conditional={
            key: mean_of_means([hits], clusters, [rows])
            for s, rows in zip(subsets, places, strict=True)
            for key, hits in _directions(s.given, s.hits).items()
        },
        conditional_by_observed={
            size: mean_of_means(
                [m for m, of in zip(means, sizes, strict=True) if of == size],
                clusters,
                [rows for rows, of in zip(places, sizes, strict=True) if of == size],
            )
            for size in dict.fromkeys(sizes)
        },
        conditional_mean=mean_of_means(means, clusters, places) if means else None,
        conditional_by_class=by_class,
        reconstruction=dict(reconstruction),
        unsound=[
            "+".join(s.given)
            for s in subsets
            if (s.sampler.rows_above_1_05 or 0.0) > MAX_RHAT_ROWS
        ],
    )


def _balanced(by_class: Mapping[int, Estimate]) -> Estimate | None:
    """Mean over classes, whose rows do not depend on each other."""
    if not by_class:
        return None
    errors = np.array([of.standard_error for of in by_class.values()])
    mean = float(np.mean([of.mean for of in by_class.values()]))
    return Estimate(mean, float(np.sqrt((errors**2).sum()) / len(errors)))


def frechet(
    network: str,
    features: int,
    subsets: Sequence[SubsetPart],
    joint: Mapping[str, JointPart],
    real: Mapping[str, Mapping[str, Likeness]],
    *,
    rows: int,
    reference_rows: int,
    reference_full: Mapping[str, int] | None = None,
    manifold_rows: int = 0,
    is_apart: bool | None = None,
) -> Frechet:
    """Distances, precision and recall in the features of one network.

    Args:
        network: its name.
        features: their number.
        subsets: what was generated.
        joint: prior -> what was drawn from it.
        real: modality -> network -> likeness of real rows; empty where there are not enough.
        rows: in each distance but the joint ones.
        reference_rows: that they are compared with.
        reference_full: modality -> how many of these have all of its values, where not all have.
        manifold_rows: of precision and recall.
        is_apart: whether no generated row is conditioned on one of these.
    """

    def by_way(measure: str) -> dict[str, Any] | None:
        return _by_way(measure, network, subsets, joint, real)

    distances = by_way("distance")
    assert distances is not None
    others: dict[str, Any] = {}
    for measure in ("limit", "precision", "recall"):
        is_known = measure != "limit" or limit_sizes(rows, features)
        if is_known and (found := by_way(measure)) is not None:
            others[measure] = MeasureByWay.model_validate(_plain(found))
    return Frechet(
        features=features,
        reference_rows=reference_rows,
        reference_full=dict(reference_full or {}),
        rows=rows,
        manifold_rows=manifold_rows if "precision" in others else 0,
        reference_is_apart=is_apart,
        **distances | {"mean": FrechetMeans(**distances["mean"])},
        **others,
    )


def distance_rows(metrics: Evaluation, settings: EvaluationSettings) -> str:
    """Of which rows Fréchet distances are, repeats among them, in a sentence; empty without any.

    Args:
        metrics: what was measured.
        settings: that it was asked for with.
    """
    if not metrics.frechet:
        return ""
    found = next(iter(metrics.frechet.values()))
    names = " and ".join("FID" if n == "inception-v3" else n for n in metrics.frechet)
    said = [
        f"Fréchet distances ({names}): {found.rows:,} generated rows, joint ones "
        f"{settings.prior_draws:,}, against {found.reference_rows:,} real ones"
    ]
    if found.reference_full:
        full = [f"{count:,} {name}" for name, count in sorted(found.reference_full.items())]
        said[0] += f", of which only those with all values have features ({', '.join(full)})"
    if metrics.presence is None:
        told = found.reference_is_apart
        is_apart = bool(found.real) if told is None else told
        said[0] += f", {'none' if is_apart else 'some'} of which are conditioned on"
    if metrics.rows < settings.rows:
        said += [
            f"{settings.rows:,} rows were asked for and there are {metrics.rows:,}, "
            "each taken once"
        ]
    if fewer := [
        f"{n:,} {name}" for name, n in sorted(metrics.distinct.items()) if n < metrics.rows
    ]:
        said += [f"{metrics.rows:,} rows repeat items: different ones are {', '.join(fewer)}"]
    return "; ".join(said)


def _by_way(
    measure: str,
    network: str,
    subsets: Sequence[SubsetPart],
    joint: Mapping[str, JointPart],
    real: Mapping[str, Mapping[str, Likeness]],
) -> dict[str, Any] | None:
    """One measure by way of generating, and its means; None if nothing has it."""

    def blocks(of: Mapping[str, Mapping[str, Likeness]]) -> dict[str, Jackknife]:
        known = {name: getattr(e[network], measure) for name, e in of.items() if network in e}
        return {name: found.jackknife() for name, found in known.items() if found is not None}

    def estimates(found: Mapping[str, Jackknife] | None) -> dict[str, Distance] | None:
        return None if found is None else {name: of.estimate() for name, of in found.items()}

    def mean(found: Mapping[str, Jackknife] | None) -> Distance | None:
        return Jackknife.mean([*found.values()]).estimate() if found else None

    drawn = {name: blocks(part.likeness) for name, part in joint.items()}
    if not drawn["joint"]:
        return None
    by_subset = {s.given: found for s in subsets if (found := blocks(s.likeness))}
    means = {given: Jackknife.mean([*found.values()]) for given, found in by_subset.items()}
    by_size: dict[int, list[Jackknife]] = {}
    for given, of_subset in means.items():
        by_size.setdefault(len(given), []).append(of_subset)
    floor, fitted = blocks(real), drawn.get("joint_fitted")
    return {
        "joint": estimates(drawn["joint"]),
        "joint_fitted": estimates(fitted),
        "conditional": {
            direction(given, target): value.estimate()
            for given, of in by_subset.items()
            for target, value in of.items()
        },
        "conditional_by_observed": {
            size: Jackknife.mean(of).estimate() for size, of in by_size.items()
        },
        "mean": {
            "joint": mean(drawn["joint"]),
            "joint_fitted": mean(fitted),
            "conditional": Jackknife.mean([*means.values()]).estimate() if means else None,
            "real": mean(floor),
        },
        "real": estimates(floor),
    }


def _plain(found: Any) -> Any:
    """Estimates in place of distances, which have limits."""
    if isinstance(found, Mapping):
        return {key: _plain(value) for key, value in found.items()}
    return None if found is None else Estimate(found.mean, found.standard_error)


def _directions(given: tuple[str, ...], of: Mapping[str, T]) -> dict[str, T]:
    """What belongs to each target, by direction."""
    return {direction(given, target): value for target, value in of.items()}


def prediction_means(predictions: Sequence[Prediction]) -> dict[int, PredictionMeans]:
    """Means over directions, by number of observed modalities.

    Their errors are those of the mean error: rows are the same in all directions.
    """
    out = {}
    for size in sorted({len(p.given) for p in predictions}):
        of_size = [p for p in predictions if len(p.given) == size]
        levels = list(dict.fromkeys(level for p in of_size for level in p.model.intervals))
        calibrated = {
            level: [
                p.model.intervals[level].calibrated_coverage
                for p in of_size
                if level in p.model.intervals
                and p.model.intervals[level].calibrated_coverage is not None
            ]
            for level in levels
        }
        out[size] = PredictionMeans(
            directions=len(of_size),
            r2=_by_predictor(of_size, "r2"),
            accuracy=_by_predictor(of_size, "accuracy"),
            coverage={
                level: _mean([i.coverage for p in of_size if (i := p.model.intervals.get(level))])
                for level in levels
            },
            calibrated_coverage={
                level: _mean([e for e in values if e is not None])
                for level, values in calibrated.items()
                if values
            },
            wins=dict(Counter(p.winner for p in of_size)),
            by_kind={
                kind: _by_predictor(
                    [p.by_kind[kind] for p in of_size if kind in p.by_kind], measure_of_kind(kind)
                )
                for kind in dict.fromkeys(k for p in of_size for k in p.by_kind)
            },
        )
    return out


def _by_predictor(
    predictions: Sequence[Prediction | KindScores], measure: str
) -> dict[str, Estimate]:
    names = dict.fromkeys(["model", *(b for p in predictions for b in p.baselines)])
    out = {}
    for name in names:
        scores = [p.model if name == "model" else p.baselines.get(name) for p in predictions]
        values = [getattr(s, measure) for s in scores if s is not None]
        values = [v for v in values if v is not None and np.isfinite(v.mean)]
        if values:
            out[name] = _mean(values)
    return out


def _mean(values: Sequence[Estimate]) -> Estimate:
    """Mean of numbers of the same rows, whose errors do not cancel."""
    return Estimate(
        float(np.mean([v.mean for v in values])),
        float(np.mean([v.standard_error for v in values])),
    )


def prediction_sentence(predictions: Sequence[Prediction]) -> str:
    """Who predicts best over all directions, in a sentence; empty without baselines."""
    compared = [p for p in predictions if p.differences]
    if not compared:
        return ""
    wins = Counter(p.winner for p in compared)
    ways = "direction" if len(compared) == 1 else "directions"
    told = [
        f"{words} in {wins[name]}"
        for name, words in (
            ("model", "this model is best"),
            ("ridge", "ridge (of classes logistic) regression is best"),
            ("neighbours", "nearest neighbours are best"),
            ("constant", "a constant is best"),
            ("tied", "the model and the best baseline are tied"),
        )
        if wins[name]
    ]
    text = f"Of {len(compared)} {ways} to tables {', '.join(told)}"
    r2 = _by_predictor(compared, "r2")
    if len(r2) > 1:
        listed = ", ".join(f"{n} {v.mean:.3f}" for n, v in r2.items() if n != "constant")
        text += f"; mean R²: {listed}"
    return f"{text}."
