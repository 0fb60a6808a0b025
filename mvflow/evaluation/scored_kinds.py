"""Scores of a table by what its columns hold: numbers, counts, yes or no, classes, grades."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.evaluation.baselines import Baseline
from mvflow.evaluation.coded_columns import class_scores
from mvflow.evaluation.predictions import KindScores, Scores
from mvflow.evaluation.predictive import Predictive, Table
from mvflow.evaluation.scored_numbers import ScoredNumbers

__all__ = ["scores_by_kind"]

Floats = NDArray[np.float64]


def scores_by_kind(
    table: Table,
    true: NDArray[Any],
    found: Predictive,
    baselines: Mapping[str, Baseline],
    clusters: NDArray[np.int64],
) -> dict[str, KindScores]:
    """Scores of the columns of each kind; none where all are numbers, or all counts.

    Args:
        table: the target.
        true: stored values (rows, columns), NaN where they are not known.
        found: what the model predicts.
        baselines: what baselines predict.
        clusters: (rows,): rows of one number depend on each other.
    """
    values = np.asarray(true, np.float64)
    kinds = np.array([_kind(table, i, values[:, i]) for i in range(len(table.columns))])
    if kinds.size == 0 or {*kinds.tolist()} in ({"numbers"}, {"counts"}):
        return {}
    out = {}
    for kind in dict.fromkeys(kinds.tolist()):
        of_kind = np.where(kinds == kind, values, np.nan)
        if not np.isfinite(of_kind).any():
            continue
        scored = _Kind(table, of_kind, clusters, kind)
        out[kind] = KindScores(
            columns=int((kinds == kind).sum()),
            model=scored.scores(found),
            baselines={name: scored.scores(of) for name, of in baselines.items()},
        )
    return out


def _kind(table: Table, i: int, values: Floats) -> str:
    """What a column holds; shares between yes and no are numbers."""
    kind, known = table.columns[i].kind, values[np.isfinite(values)]
    return kind if kind != "yes or no" or np.isin(known, (0, 1)).all() else "numbers"


class _Kind:
    def __init__(self, table: Table, true: Floats, clusters: NDArray[np.int64], kind: str) -> None:
        self.true, self.clusters = true, clusters
        of_kind = replace(table, kind="counts") if kind == "counts" else table
        self.numbers = None if kind == "classes" else ScoredNumbers(of_kind, true, clusters)
        self.is_coded = kind not in ("numbers", "counts")

    def scores(self, found: Predictive | Baseline) -> Scores:
        of_numbers = Scores() if self.numbers is None else self.numbers.scores(found.mean)
        if not self.is_coded:
            return of_numbers
        of_classes = class_scores(self.true, found.classes, self.clusters)
        names = ("accuracy", "log_loss", "calibration_error")
        return of_numbers.model_copy(update={name: getattr(of_classes, name) for name in names})
