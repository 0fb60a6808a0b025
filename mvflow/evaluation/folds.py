"""Cross-validation: predictions of every row by a model that was trained without it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.config import Config
from mvflow.core import (
    SelectedRows,
    Source,
    TakenRows,
    UsageError,
    fingerprint,
    generator,
    intensities,
)
from mvflow.estimators import Estimator, estimator_class, load
from mvflow.evaluation.baselines import Baseline
from mvflow.evaluation.generation import Generation
from mvflow.evaluation.predictions import Prediction
from mvflow.evaluation.predictive import LEVELS, PREDICTIVE_DRAWS, Predictive, Table, Units
from mvflow.evaluation.rows import EvaluationRows, PresentRows, direction
from mvflow.evaluation.scoring import score
from mvflow.evaluation.summaries import prediction_sentence
from mvflow.evaluation.values import Result
from mvflow.metrics import CalibratedIntervals
from mvflow.runs import RunDirectory

__all__ = ["MAX_FOLD_ROWS", "CrossValidation", "cross_validate", "folds_of"]

MAX_FOLD_ROWS = 20_000
"""Rows that are cross-validated at most: more are enough for a test split."""


class CrossValidation(Result):
    """Predictions of all rows, each by a model that was trained on the other folds.

    Args:
        folds: how many there are.
        rows: of all folds.
        seed: of the folds and of all draws.
        predictions: direction -> scores over all rows, beside baselines fitted likewise.
        sentence: who predicts best.
    """

    folds: int
    rows: int
    seed: int
    predictions: dict[str, Prediction]
    sentence: str = ""


class _Found(NamedTuple):
    """One direction in one fold."""

    true: NDArray[Any]
    predictive: Predictive
    baselines: Mapping[str, Baseline]
    rows: NDArray[np.int64]


def folds_of(sources: Sequence[Source], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row; rows that share an item of any modality are in one.

    Raises:
        UsageError: if there are too few rows, or too many.

    Examples:
        >>> from mvflow.core import ArraySource
        >>> rows = ArraySource({"a": np.ones((6, 1))})
        >>> np.bincount(folds_of([rows], 3, seed=0))
        array([2, 2, 2])
    """
    groups, first = [], 0
    for source in sources:
        plain = np.arange(len(source))
        indices = [np.asarray(c.index) for c in source.columns().values() if c.index is not None]
        indices = [np.where(index < 0, -1 - plain, index) for index in indices]
        least = min([plain, *indices], key=lambda of: len(np.unique(of)))
        groups.append(first + np.unique(least, return_inverse=True)[1])
        first += len(source)
    of, rows = np.concatenate(groups), sum(map(len, groups))
    distinct = np.unique(of)
    if not 2 <= folds <= len(distinct) or rows < 2 * folds:
        msg = (
            f"{rows} rows of {len(distinct)} items cannot be divided into {folds} folds of two or "
            f"more: expected 2 to {max(2, min(len(distinct), rows // 2))}"
        )
        raise UsageError(msg)
    if rows > MAX_FOLD_ROWS:
        msg = (
            f"{rows:,} rows are more than the {MAX_FOLD_ROWS:,} that are cross-validated: measure "
            "them on the test split, without --folds"
        )
        raise UsageError(msg)
    order = generator(seed, "folds").permutation(len(distinct))
    return np.asarray((order % folds)[np.searchsorted(distinct, of)], np.int64)


def cross_validate(
    config: Config,
    sources: Sequence[Source],
    *,
    folds: int = 5,
    seed: int = 0,
    units: Mapping[str, Units] | None = None,
    path: Path | None = None,
    progress: Callable[[int], object] | None = None,
    device: str = "cpu",
) -> tuple[CrossValidation, CalibratedIntervals]:
    """Train a model for each fold on the others, and score its predictions of that fold.

    Scores are of all rows together, so that forty rows are forty test rows. Margins of intervals
    are those that all rows need together (as in cross-conformal prediction; Vovk 2015).

    Args:
        config: of the models.
        sources: rows, such as the splits of a store.
        folds: how many.
        seed: of the folds and of all draws.
        units: modality -> how its stored values become those of the file.
        path: folder that keeps the models; interrupted, training goes on where it was.
        progress: called before each fold with its number.
        device: to train on.

    Returns:
        The scores; and the margins of the intervals, for models trained on as many rows.

    Raises:
        UsageError: if there are too few rows for so many folds, or too many.
    """
    of = folds_of(sources, folds, seed)
    rows = TakenRows(sources)
    found: dict[str, list[_Found]] = {}
    tables: dict[str, Table] = {}
    trained = 0
    for k in range(folds):
        if progress is not None:
            progress(k)
        views = (SelectedRows(rows, np.flatnonzero(fold)) for fold in (of == k, of != k))
        test, train = (TakenRows([view]) for view in views)
        model = _trained(config, train, None if path is None else path / f"fold-{k}", device)
        every = np.arange(len(test))
        chosen = EvaluationRows(every, every, every, False, every, PresentRows.of(test))
        generation = Generation(model, test, chosen, None, (), seed, train, units or {})
        tables, trained = generation.tables, trained + len(train)
        for given in (g for size in generation.subsets.values() for g in size):
            for target, one in _predicted(generation, given, np.flatnonzero(of == k)).items():
                found.setdefault(direction(given, target), []).append(one)
    predictions, margins = {}, {}
    for key, parts in found.items():
        names, target = key.split("->")
        predictions[key], margins[key] = score(
            tables[target],
            names.split("+"),
            np.concatenate([p.true for p in parts]),
            Predictive.joined([p.predictive for p in parts]),
            _joined([p.baselines for p in parts]),
            draws=PREDICTIVE_DRAWS,
            baseline_rows=trained // folds,
            clusters=np.concatenate([p.rows for p in parts]),
        )
    result = CrossValidation(
        folds=folds,
        rows=len(rows),
        seed=seed,
        predictions=predictions,
        sentence=prediction_sentence([*predictions.values()]) or "",
    )
    return result, CalibratedIntervals(LEVELS, PREDICTIVE_DRAWS, margins)


def _trained(config: Config, train: Source, path: Path | None, device: str) -> Estimator:
    """The model of a fold; what its run directory has of it is not trained again."""
    model = estimator_class(config.system).from_config(config)
    if path is None:
        return model.fit(train, device=device)
    if path.is_dir():
        run, kept = RunDirectory.open(path), load(path)
        rows = {record.fingerprint for record in kept.records_.values()}
        if kept.config == config and rows <= {fingerprint(train)}:
            model = kept
        else:  # of other rows, or other settings
            shutil.rmtree(path)
    if not path.is_dir():
        run = RunDirectory.create(path, config)
    todo = [name for name in model.stage_names if name not in model.trained_]
    return model.fit(train, stages=todo, run=run, device=device) if todo else model


def _predicted(
    of: Generation, given: tuple[str, ...], numbers: NDArray[np.int64]
) -> dict[str, _Found]:
    """All tables that are not given, for the rows that have them in full."""
    targets = [name for name in of.names if name not in given and name in of.tables]
    at = of.rows.having(given, len(of.test))
    if not targets or not len(at):
        return {}
    predicted = of.predicted(given, targets, at)
    baselines = of.baselines
    others: dict[str, dict[str, Baseline]] = {name: {} for name in targets}
    if baselines is not None:
        others = baselines.predict(of.taken(at, given), given, targets)
    x, out = of.test.take(at), {}
    for name in targets:
        known = of.rows.is_full(name, at)
        out[name] = _Found(
            intensities(np.asarray(x[name]))[known],
            Predictive.joined(predicted[name]).of_rows(known),
            {baseline: b.of_rows(known) for baseline, b in others[name].items()},
            numbers[at][known],
        )
    return out


def _joined(parts: Sequence[Mapping[str, Baseline]]) -> dict[str, Baseline]:
    """Baselines that all folds have, over all their rows."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    joined = {}
    for name in names:
        deviations = [d for part in parts if (d := part[name].deviation) is not None]
        squares = np.mean([d**2 for d in deviations], axis=0) if deviations else None
        joined[name] = Baseline(
            np.concatenate([part[name].mean for part in parts]),
            None if squares is None else np.sqrt(squares),
            {
                i: np.concatenate([part[name].classes[i] for part in parts])
                for i in parts[0][name].classes
            },
            max(part[name].components for part in parts),
        )
    return joined
