"""Parts of an evaluation put together: means over subsets, by size, by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mvflow.evaluation.parts import Blocks, JointPart, SubsetPart
from mvflow.evaluation.predictions import Prediction, PredictionMeans
from mvflow.evaluation.result import Coherence, Frechet, FrechetMeans
from mvflow.evaluation.rows import direction
from mvflow.functional import agreement, chance_agreement
from mvflow.metrics import Distance, Estimate, Jackknife, mean_and_error, mean_of_means

__all__ = ["coherence", "frechet", "prediction_means", "prediction_sentence"]

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
    real: Mapping[str, Mapping[str, Blocks]],
    *,
    rows: int,
    reference_rows: int,
) -> Frechet:
    """Distances in the features of one network.

    Args:
        network: its name.
        features: their number.
        subsets: what was generated.
        joint: prior -> what was drawn from it.
        real: modality -> network -> distance of real rows; empty where there are not enough.
        rows: in each distance but the joint ones.
        reference_rows: that they are compared with.
    """

    def estimates(of: Mapping[str, Mapping[str, Blocks]]) -> dict[str, Distance]:
        return {
            name: each[network].jackknife().estimate()
            for name, each in of.items()
            if network in each
        }

    def mean(of: Mapping[str, Mapping[str, Blocks]]) -> Jackknife:
        known = [each[network].jackknife() for each in of.values() if network in each]
        return Jackknife.mean(known)

    means = {
        s.given: mean(s.distances)
        for s in subsets
        if any(network in each for each in s.distances.values())
    }
    sizes = dict.fromkeys(len(given) for given in means)
    by_size = {
        size: Jackknife.mean([m for given, m in means.items() if len(given) == size])
        for size in sizes
    }
    fitted = joint.get("joint_fitted")
    return Frechet(
        features=features,
        reference_rows=reference_rows,
        rows=rows,
        joint=estimates(joint["joint"].distances),
        joint_fitted=None if fitted is None else estimates(fitted.distances),
        conditional={
            key: value
            for s in subsets
            for key, value in _directions(s.given, estimates(s.distances)).items()
        },
        conditional_by_observed={size: of.estimate() for size, of in by_size.items()},
        mean=FrechetMeans(
            joint=mean(joint["joint"].distances).estimate(),
            joint_fitted=None if fitted is None else mean(fitted.distances).estimate(),
            conditional=Jackknife.mean([*means.values()]).estimate() if means else None,
            real=mean(real).estimate() if real else None,
        ),
        real=estimates(real),
    )


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
        levels = [*of_size[0].model.intervals]
        calibrated = {
            level: [
                p.model.intervals[level].calibrated_coverage
                for p in of_size
                if p.model.intervals[level].calibrated_coverage is not None
            ]
            for level in levels
        }
        out[size] = PredictionMeans(
            directions=len(of_size),
            r2=_by_predictor(of_size, "r2"),
            accuracy=_by_predictor(of_size, "accuracy"),
            coverage={
                level: _mean([p.model.intervals[level].coverage for p in of_size])
                for level in levels
            },
            calibrated_coverage={
                level: _mean([e for e in values if e is not None])
                for level, values in calibrated.items()
                if values
            },
            wins=dict(Counter(p.winner for p in of_size)),
        )
    return out


def _by_predictor(predictions: Sequence[Prediction], measure: str) -> dict[str, Estimate]:
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
            ("ridge", "ridge (of classes logistic) regression"),
            ("neighbours", "nearest neighbours"),
            ("constant", "a constant"),
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
