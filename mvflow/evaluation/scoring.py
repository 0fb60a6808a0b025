"""The model and baselines on the same rows, and who predicts best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.evaluation.baselines import CONSTANT, NEIGHBOURS, RIDGE, Baseline
from mvflow.evaluation.predictions import Prediction, Scores
from mvflow.evaluation.predictive import Predictive, Table
from mvflow.evaluation.scored_classes import ScoredClasses
from mvflow.evaluation.scored_kinds import scores_by_kind
from mvflow.evaluation.scored_numbers import ScoredNumbers
from mvflow.metrics import (
    Estimate,
    mean_and_error,
)

__all__ = ["score", "sentence"]

ERRORS_APART = 2.0
"""Standard errors of a difference from which on one predictor is called better."""

Floats = NDArray[np.float64]


def score(
    table: Table,
    given: Sequence[str],
    true: NDArray[Any],
    found: Predictive,
    baselines: Mapping[str, Baseline],
    *,
    draws: int,
    baseline_rows: int,
    clusters: NDArray[np.int64],
) -> tuple[Prediction, Floats]:
    """Scores of the model and of baselines on the same rows, and margins of its intervals.

    Calibrated intervals are measured on the half of the rows that did not calibrate them, each
    half in turn.

    Args:
        table: the target.
        given: observed modalities.
        true: stored values of the rows, or classes.
        found: what the model predicts.
        baselines: what baselines predict.
        draws: of the predictive distribution per row.
        baseline_rows: number of training rows of the baselines.
        clusters: (rows,): rows of one number depend on each other.

    Returns:
        The scores; and (levels, columns) by which intervals of new rows are widened, in stored
        units, infinite where rows are too few: of classes how much probability a set may have
        ahead of its last class.
    """
    classes = table.kind == "classes"
    scored = (
        ScoredClasses(table, true, clusters) if classes else ScoredNumbers(table, true, clusters)
    )
    model, columns, margins = scored.model(found, baselines)
    measure = scored.measure
    terms = {name: scored.terms(of) for name, of in baselines.items()}
    own = scored.terms(found)
    differences = {name: mean_and_error(own - of, clusters) for name, of in terms.items()}
    winner = _winner(differences, {name: float(of.mean()) for name, of in terms.items()})
    prediction = Prediction(
        given=list(given),
        target=table.name,
        kind=table.kind,
        rows=len(true),
        draws=draws,
        width=table.width,
        model=model,
        baselines={name: scored.baseline(of) for name, of in baselines.items()},
        baseline_rows=baseline_rows,
        measure=measure,
        differences=differences,
        winner=winner,
        sentence="",
        columns=columns,
        by_kind=scores_by_kind(table, true, found, baselines, clusters),
        components=max((of.components for of in baselines.values()), default=0),
    )
    return prediction.model_copy(update={"sentence": sentence(prediction)}), margins


def _winner(differences: Mapping[str, Estimate], values: Mapping[str, float]) -> str:
    """The best predictor, or "tied" where the model and the best baseline are alike."""
    if not differences:
        return "model"
    best = max(values, key=lambda name: values[name])
    gap = differences[best]
    noise = ERRORS_APART * gap.standard_error
    if not abs(gap.mean) > (noise if np.isfinite(noise) else 0.0):
        return "tied"
    return "model" if gap.mean > 0 else best


WORDS = {
    "model": "this model",
    RIDGE: "ridge regression",
    NEIGHBOURS: "the mean of nearest neighbours",
    CONSTANT: "the mean of all training rows",
}
CLASS_WORDS = {
    **WORDS,
    RIDGE: "logistic regression",
    NEIGHBOURS: "the vote of nearest neighbours",
    CONSTANT: "the most frequent class",
}
MEASURES = {"r2": "R²", "deviance": "deviance", "accuracy": "accuracy"}


def sentence(found: Prediction) -> str:
    """Who predicts best, in words."""
    words = CLASS_WORDS if found.kind == "classes" else WORDS
    what = f"{found.target} from {'+'.join(found.given)}"
    own = _value(found.model, found.measure)
    name = MEASURES[found.measure]
    if not found.differences:
        return f"This model predicts {what} with {name} {own:.3f}; there is no baseline beside it."
    sign = -1 if found.measure == "deviance" else 1
    best = max(found.baselines, key=lambda b: sign * _value(found.baselines[b], found.measure))
    other, gap = _value(found.baselines[best], found.measure), found.differences[best]
    error = f"difference {abs(gap.mean):.3f} ± {gap.standard_error:.3f}"
    if found.components and best != CONSTANT:
        error += f"; of {found.components} principal components of what is given"
    if found.winner == "tied":
        return (
            f"This model and {words[best]} predict {what} equally well within noise: "
            f"{name} {own:.3f} and {other:.3f} ({error})."
        )
    first, second = ("model", best) if found.winner == "model" else (best, "model")
    numbers = (own, other) if found.winner == "model" else (other, own)
    return (
        f"{words[first].capitalize()} predicts {what} better than {words[second]}: "
        f"{name} {numbers[0]:.3f} against {numbers[1]:.3f} ({error})."
    )


def _value(scores: Scores, measure: str) -> float:
    found = getattr(scores, measure)
    assert found is not None
    return float(found.mean)
