"""Ridge regression and nearest neighbours, fitted on the rows that the model was trained on."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.core import PRESENT, Source, generator, intensities

__all__ = ["Baseline", "Baselines", "CONSTANT", "NEIGHBOURS", "RIDGE"]

RIDGE, NEIGHBOURS, CONSTANT = "ridge", "neighbours", "constant"

MAX_ROWS = 5000
"""Training rows that baselines are fitted on, at most."""
MAX_VALUES = 4 * 10**7
"""Values of those rows, at most."""
MAX_INPUTS = 1000
"""Columns of inputs from which on they are replaced by their first principal components."""
COMPONENTS = 500
"""How many of these: ridge regression shrinks what varies least, and neighbours hardly see it."""
PENALTIES = np.logspace(-2, 5, 15)
MIN_ROWS = 3
"""Training rows from which on a baseline is fitted."""
MAX_COLUMN_ROWS = 1000
"""Training rows for each column, where columns have gaps and are fitted one by one."""
LEAST = 0.01
"""Probability of a class in a column, at least: what is linear in the inputs may be negative."""
K = 10
"""Nearest neighbours whose mean is the prediction."""

Floats = NDArray[np.float64]


class Baseline(NamedTuple):
    """Predictions of one target: numbers with their spread, or class probabilities."""

    mean: Floats
    """(rows, columns), or (rows, classes)."""
    deviation: Floats | None
    """(columns,): root of the mean squared error on rows left out; None for classes."""
    classes: Mapping[int, Floats] = MappingProxyType({})
    """Column of numbers -> probabilities of its classes (rows, classes), where it has such."""
    components: int = 0
    """Principal components that stand for its inputs; 0: it has seen these themselves."""

    def of_rows(self, kept: NDArray[np.bool_]) -> Baseline:
        """Of some of the rows."""
        if kept.all():
            return self
        classes = {i: of[kept] for i, of in self.classes.items()}
        return self._replace(mean=self.mean[kept], classes=classes)


class Baselines:
    """Predictors of tables from any modalities, fitted on training rows.

    Ridge regression chooses its penalty for each column by leaving out one row after the other;
    of classes it is logistic regression. Inputs are standardised, and of more than `MAX_INPUTS`
    the first `COMPONENTS` principal components are taken; where training rows lack values,
    each target is learnt from the rows that have it and all modalities given, and missing values
    of an input are its mean. A column of classes is an indicator of each; what is predicted of
    these, at least `LEAST` and normalised, are probabilities.

    Args:
        train: rows that the model was trained on.
        classes: modality -> number of classes, of those that are classes.
        counts: modalities of counts, which enter as log(1 + x).
        seed: of the rows chosen, where they are too many.
        coded: modality -> column -> number of classes, of tables with columns of classes.
    """

    def __init__(
        self,
        train: Source,
        classes: Mapping[str, int],
        counts: Collection[str],
        seed: int,
        coded: Mapping[str, Mapping[int, int]] = MappingProxyType({}),
    ) -> None:
        width = sum(m.size for m in train.modalities)
        count = min(len(train), MAX_ROWS, max(1, MAX_VALUES // width))
        order = generator(seed, "baseline rows").permutation(len(train))[:count]
        taken = train.take(np.sort(order))
        self.rows, self._classes, self._counts = count, dict(classes), frozenset(counts)
        self._coded, self._seed = coded, seed
        names = [m.name for m in train.modalities]
        self._flat = {name: self._inputs(name, taken[name]) for name in names}
        self._labels = {name: np.asarray(taken[name]) for name in classes}
        self._present = {n: m for n in names if (m := taken.get(PRESENT + n)) is not None}
        for name, mask in self._present.items():
            if mask.ndim > 1:
                self._flat[name][~self._wide(name, mask)] = np.nan

    def _inputs(self, name: str, x: NDArray[Any]) -> Floats:
        if name in self._classes:
            return np.eye(self._classes[name])[np.asarray(x)]
        values = np.asarray(intensities(x), np.float64).reshape(len(x), -1)
        if name in self._counts:
            return np.log1p(values)
        shown = [values[:, [i]] == np.arange(n) for i, n in self._indicated(name).items()]
        return np.concatenate([values, *shown], 1) if shown else values

    def _indicated(self, name: str) -> dict[int, int]:
        """Columns with indicators, and how many: of two classes the value itself is one."""
        return {i: n for i, n in self._coded.get(name, {}).items() if n > 2}

    def _wide(self, name: str, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which inputs are there, by which values are."""
        mask = mask.reshape(len(mask), -1)
        if mask.shape[1] == 1:
            return mask
        shown = [np.repeat(mask[:, [i]], n, 1) for i, n in self._indicated(name).items()]
        return np.concatenate([mask, *shown], 1)

    def _with_classes(self, name: str, found: Baseline) -> Baseline:
        """Values of a table apart from what is predicted of the indicators of its classes."""
        coded = self._coded.get(name)
        if not coded:
            return found
        assert found.deviation is not None
        width = found.mean.shape[1] - sum(self._indicated(name).values())
        mean, start, classes = found.mean[:, :width], width, {}
        for i, n in coded.items():
            shares = np.stack([1 - mean[:, i], mean[:, i]], 1)
            if n > 2:
                shares, start = found.mean[:, start : start + n], start + n
            shares = np.clip(shares, LEAST, 1)
            classes[i] = shares / shares.sum(1, keepdims=True)
        return found._replace(mean=mean, deviation=found.deviation[:width], classes=classes)

    def predict(
        self,
        rows: Mapping[str, NDArray[Any]],
        given: Sequence[str],
        targets: Sequence[str],
    ) -> dict[str, dict[str, Baseline]]:
        """Predictions of every target, target -> baseline -> prediction.

        Args:
            rows: of the observed modalities, with their masks if they have some.
            given: names of these.
            targets: modalities of vectors or classes. Those that too few training rows have
                together with the given ones have no baseline.
        """
        names = sorted(given)
        out: dict[str, dict[str, Baseline]] = {name: {} for name in targets}
        for together, used in self._groups(names, targets):
            if len(used) < MIN_ROWS:
                continue
            x = np.concatenate([self._flat[name][used] for name in names], 1)
            new = np.concatenate([self._new(name, rows) for name in names], 1)
            if self._present:
                means = np.nan_to_num(np.nanmean(np.where(np.isnan(x).all(0), 0.0, x), 0))
                x, new = (np.where(np.isnan(values), means, values) for values in (x, new))
            for name, found in self._fitted(together, used, x, new).items():
                out[name] = {key: self._with_classes(name, of) for key, of in found.items()}
        return out

    def _new(self, name: str, rows: Mapping[str, NDArray[Any]]) -> Floats:
        """Inputs of rows to be predicted, NaN where a value is missing."""
        values, mask = self._inputs(name, rows[name]), rows.get(PRESENT + name)
        if mask is None:
            return values
        wide = np.broadcast_to(self._wide(name, mask), values.shape)
        return np.where(wide, values, np.nan)

    def _groups(
        self, given: Sequence[str], targets: Sequence[str]
    ) -> list[tuple[list[str], NDArray[np.int64]]]:
        """Targets that are learnt from the same training rows, and these rows."""
        every = np.ones(self.rows, bool)
        rows_of = {
            name: mask.reshape(len(mask), -1).any(1) for name, mask in self._present.items()
        }
        for name in given:
            every &= rows_of.get(name, True)
        groups: dict[bytes, tuple[list[str], NDArray[np.int64]]] = {}
        for name in targets:
            used = every & rows_of.get(name, True)
            full = self._present.get(name)
            if full is not None and full.ndim > 1:  # columns with gaps are learnt by themselves
                groups[name.encode()] = ([name], np.flatnonzero(used))
                continue
            groups.setdefault(used.tobytes(), ([], np.flatnonzero(used)))[0].append(name)
        return [*groups.values()]

    def _fitted(
        self, targets: Sequence[str], used: NDArray[np.int64], x: Floats, new: Floats
    ) -> dict[str, dict[str, Baseline]]:
        """Predictions of targets from inputs, learnt from some training rows."""
        from sklearn.neighbors import NearestNeighbors
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler()
        x = scaler.fit_transform(x)
        new = scaler.transform(new)
        components = min(COMPONENTS, len(x)) if x.shape[1] > MAX_INPUTS else 0
        if components:
            x, new = self._components(x, new, components)
        numbers = [name for name in targets if name not in self._classes]
        out: dict[str, dict[str, Baseline]] = {name: {} for name in targets}
        if numbers:
            y = np.concatenate([self._flat[name][used] for name in numbers], 1)
            predicted, fitted, spread = _ridge(x, y, new)
            for name, at in _places({name: self._flat[name].shape[1] for name in numbers}):
                found = Baseline(predicted[:, at], spread[at])
                out[name][RIDGE] = self._in_units(name, used, found, fitted[:, at])
        k = min(K, len(x) - 1)
        search = NearestNeighbors(n_neighbors=max(k, 1)).fit(x)
        near = search.kneighbors(new, return_distance=False)
        others = search.kneighbors(return_distance=False) if k else None
        for name in targets:
            y = self._flat[name][used]
            if name in self._classes:
                out[name][RIDGE] = Baseline(self._logistic(name, used, x, new), None)
                out[name][NEIGHBOURS] = Baseline(_smoothed(y, near), None)
                shares = np.broadcast_to(
                    (y.sum(0) + 1) / (len(y) + y.shape[1]), new.shape[:1] + y.shape[1:]
                )
                out[name][CONSTANT] = Baseline(shares, None)
                continue
            if name in self._counts:
                y = np.expm1(y)
            error = y - (_mean(y[others], 1, y) if others is not None else _mean(y, 0, y))
            deviation = np.sqrt(_mean(error**2, 0, error))
            out[name][NEIGHBOURS] = Baseline(_mean(y[near], 1, y), deviation)
            mean = np.broadcast_to(_mean(y, 0, y), (len(new), y.shape[1]))
            out[name][CONSTANT] = Baseline(
                mean, np.nanstd(y, 0) if np.isnan(y).any() else y.std(0)
            )
        for of in out.values():
            of |= {n: of[n]._replace(components=components) for n in (RIDGE, NEIGHBOURS)}
        return out

    def _components(self, x: Floats, new: Floats, count: int) -> tuple[Floats, Floats]:
        """Inputs and new ones in the first principal components of the inputs."""
        from sklearn.decomposition import PCA

        pca = PCA(count, svd_solver="randomized", random_state=self._seed).fit(x)
        return pca.transform(x), pca.transform(new)

    def _in_units(
        self, name: str, used: NDArray[np.int64], found: Baseline, fitted: Floats
    ) -> Baseline:
        """Predicted logarithms of counts as counts, scaled to the mean of each column."""
        if name not in self._counts:
            return found
        y, made = np.expm1(self._flat[name][used]), np.maximum(np.expm1(fitted), 0.0)
        scale = _mean(y, 0, y) / np.maximum(made.mean(0), 1e-12)
        mean = np.maximum(np.expm1(found.mean), 0.0) * scale
        error = y - made * scale
        return Baseline(mean, np.sqrt(_mean(error**2, 0, error)))

    def _logistic(self, name: str, used: NDArray[np.int64], x: Floats, new: Floats) -> Floats:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        labels, classes = self._labels[name][used], self._classes[name]
        present = np.unique(labels)
        out = np.zeros((len(new), classes))
        if len(present) == 1:
            out[:, present] = 1.0
            return out
        with warnings.catch_warnings():  # nearly the best coefficients predict nearly as well
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = LogisticRegression(max_iter=200).fit(x, labels)
        out[:, present] = fitted.predict_proba(new)
        return out


def _ridge(x: Floats, y: Floats, new: Floats) -> tuple[Floats, Floats, Floats]:
    """Predictions of new rows and of the same, and the error of rows left out by column.

    Columns with missing values are learnt one by one, each from the rows that have it.
    """
    from sklearn.linear_model import RidgeCV

    if not np.isnan(y).any():
        ridge = RidgeCV(PENALTIES, alpha_per_target=True).fit(x, y)
        spread = np.sqrt(np.maximum(-np.atleast_1d(ridge.best_score_), 0.0))
        predicted, fitted = (ridge.predict(a).reshape(len(a), -1) for a in (new, x))
        return predicted, fitted, spread
    columns = []
    for column in y.T:
        known = np.flatnonzero(np.isfinite(column))[:MAX_COLUMN_ROWS]
        if len(known) < MIN_ROWS:
            mean = column[known].mean() if len(known) else 0.0
            columns.append((np.full(len(new), mean), np.full(len(x), mean), np.full(1, np.inf)))
            continue
        predicted, _, spread = _ridge(x[known], column[known, None], np.concatenate([new, x]))
        columns.append((predicted[: len(new), 0], predicted[len(new) :, 0], spread))
    made, fitted, spreads = zip(*columns, strict=True)
    return np.stack(made, 1), np.stack(fitted, 1), np.concatenate(spreads)


def _mean(values: Floats, axis: int, like: Floats) -> Floats:
    """Mean of what is known; of what is known of all of `like` where nothing is."""
    if not np.isnan(values).any():
        return np.asarray(values.mean(axis))
    count = np.isfinite(values).sum(axis)
    total = np.nansum(values, axis)
    every = np.nansum(like, 0) / np.maximum(np.isfinite(like).sum(0), 1)
    return np.where(count > 0, total / np.maximum(count, 1), every)


def _places(widths: Mapping[str, int]) -> list[tuple[str, slice]]:
    """Columns of each of several modalities that lie side by side."""
    ends = np.cumsum([*widths.values()])
    return [(n, slice(end - w, end)) for (n, w), end in zip(widths.items(), ends, strict=True)]


def _smoothed(indicators: Floats, near: NDArray[Any]) -> Floats:
    """Shares of classes among neighbours, with one more row spread over all classes."""
    votes = indicators[near].sum(1) + 1 / indicators.shape[1]
    return np.asarray(votes / votes.sum(1, keepdims=True))
