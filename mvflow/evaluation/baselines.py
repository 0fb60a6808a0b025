"""Ridge regression and nearest neighbours, fitted on the rows that the model was trained on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Source, generator

__all__ = ["Baseline", "Baselines", "CONSTANT", "NEIGHBOURS", "RIDGE"]

RIDGE, NEIGHBOURS, CONSTANT = "ridge", "neighbours", "constant"

MAX_ROWS = 5000
"""Training rows that baselines are fitted on, at most."""
MAX_VALUES = 4 * 10**7
"""Values of those rows, at most."""
PENALTIES = np.logspace(-2, 5, 15)
K = 10
"""Nearest neighbours whose mean is the prediction."""

Floats = NDArray[np.float64]


class Baseline(NamedTuple):
    """Predictions of one target: numbers with their spread, or class probabilities."""

    mean: Floats
    """(rows, columns), or (rows, classes)."""
    deviation: Floats | None
    """(columns,): root of the mean squared error on rows left out; None for classes."""


class Baselines:
    """Predictors of tables from any modalities, fitted on training rows.

    Ridge regression chooses its penalty for each column by leaving out one row after the other;
    of classes it is logistic regression. Inputs are standardised.

    Args:
        train: rows that the model was trained on.
        classes: modality -> number of classes, of those that are classes.
        counts: modalities of counts, which enter as log(1 + x).
        seed: of the rows chosen, where they are too many.
    """

    def __init__(
        self, train: Source, classes: Mapping[str, int], counts: Collection[str], seed: int
    ) -> None:
        width = sum(m.size for m in train.modalities)
        count = min(len(train), MAX_ROWS, max(1, MAX_VALUES // width))
        order = generator(seed, "baseline rows").permutation(len(train))[:count]
        taken = train.take(np.sort(order))
        self.rows, self._classes, self._counts = count, dict(classes), frozenset(counts)
        self._flat = {name: self._inputs(name, x) for name, x in taken.items()}
        self._labels = {name: np.asarray(taken[name]) for name in classes}

    def _inputs(self, name: str, x: NDArray[Any]) -> Floats:
        if name in self._classes:
            return np.eye(self._classes[name])[np.asarray(x)]
        values = np.asarray(x, np.float64).reshape(len(x), -1)
        return np.log1p(values) if name in self._counts else values

    def predict(
        self, given: Mapping[str, NDArray[Any]], targets: Sequence[str]
    ) -> dict[str, dict[str, Baseline]]:
        """Predictions of every target, target -> baseline -> prediction.

        Args:
            given: rows of the observed modalities.
            targets: modalities of vectors or classes.
        """
        from sklearn.linear_model import RidgeCV
        from sklearn.neighbors import NearestNeighbors
        from sklearn.preprocessing import StandardScaler

        names = sorted(given)
        scaler = StandardScaler()
        x = scaler.fit_transform(np.concatenate([self._flat[name] for name in names], 1))
        new = scaler.transform(
            np.concatenate([self._inputs(name, given[name]) for name in names], 1)
        )
        numbers = [name for name in targets if name not in self._classes]
        out: dict[str, dict[str, Baseline]] = {name: {} for name in targets}
        if numbers:
            y = np.concatenate([self._flat[name] for name in numbers], 1)
            ridge = RidgeCV(PENALTIES, alpha_per_target=True).fit(x, y)
            spread = np.sqrt(np.maximum(-np.atleast_1d(ridge.best_score_), 0.0))
            predicted, fitted = (ridge.predict(a).reshape(len(a), -1) for a in (new, x))
            for name, at in _places({name: self._flat[name].shape[1] for name in numbers}):
                found = Baseline(predicted[:, at], spread[at])
                out[name][RIDGE] = self._in_units(name, found, fitted[:, at])
        k = min(K, len(x) - 1)
        search = NearestNeighbors(n_neighbors=max(k, 1)).fit(x)
        near = search.kneighbors(new, return_distance=False)
        others = search.kneighbors(return_distance=False) if k else None
        for name in targets:
            y = self._flat[name]
            if name in self._classes:
                out[name][RIDGE] = Baseline(self._logistic(name, x, new), None)
                out[name][NEIGHBOURS] = Baseline(_smoothed(y, near), None)
                shares = np.broadcast_to(
                    (y.sum(0) + 1) / (len(y) + y.shape[1]), new.shape[:1] + y.shape[1:]
                )
                out[name][CONSTANT] = Baseline(shares, None)
                continue
            if name in self._counts:
                y = np.expm1(y)
            error = y - (y[others].mean(1) if others is not None else y.mean(0))
            out[name][NEIGHBOURS] = Baseline(y[near].mean(1), np.sqrt((error**2).mean(0)))
            mean = np.broadcast_to(y.mean(0), (len(new), y.shape[1]))
            out[name][CONSTANT] = Baseline(mean, y.std(0))
        return out

    def _in_units(self, name: str, found: Baseline, fitted: Floats) -> Baseline:
        """Predicted logarithms of counts as counts, scaled to the mean of each column."""
        if name not in self._counts:
            return found
        y, made = np.expm1(self._flat[name]), np.maximum(np.expm1(fitted), 0.0)
        scale = y.mean(0) / np.maximum(made.mean(0), 1e-12)
        mean = np.maximum(np.expm1(found.mean), 0.0) * scale
        return Baseline(mean, np.sqrt(((y - made * scale) ** 2).mean(0)))

    def _logistic(self, name: str, x: Floats, new: Floats) -> Floats:
        from sklearn.linear_model import LogisticRegression

        labels, classes = self._labels[name], self._classes[name]
        present = np.unique(labels)
        out = np.zeros((len(new), classes))
        if len(present) == 1:
            out[:, present] = 1.0
            return out
        fitted = LogisticRegression(max_iter=200).fit(x, labels)
        out[:, present] = fitted.predict_proba(new)
        return out


def _places(widths: Mapping[str, int]) -> list[tuple[str, slice]]:
    """Columns of each of several modalities that lie side by side."""
    ends = np.cumsum([*widths.values()])
    return [(n, slice(end - w, end)) for (n, w), end in zip(widths.items(), ends, strict=True)]


def _smoothed(indicators: Floats, near: NDArray[Any]) -> Floats:
    """Shares of classes among neighbours, with one more row spread over all classes."""
    votes = indicators[near].sum(1) + 1 / indicators.shape[1]
    return np.asarray(votes / votes.sum(1, keepdims=True))
