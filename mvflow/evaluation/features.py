"""Rows in the features of networks: generated ones compared with real ones of each modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import Modality, Source
from mvflow.evaluation.classifiers import ModalityClassifiers
from mvflow.evaluation.likeness import GeneratedFeatures, RealFeatures, RealRows
from mvflow.evaluation.parts import Likeness
from mvflow.evaluation.rows import MIN_SCORED, EvaluationRows, Indices, batches

__all__ = ["FeatureComparison", "FeatureNetwork", "Predictions", "likeness_of"]

MIN_MANIFOLD_ROWS, MAX_MANIFOLD_ROWS = 20, 1000
"""Rows of which precision and recall are measured; the work grows with their square."""


class FeatureNetwork(Protocol):
    """Maps rows of a modality to features: classifiers, autoencoders, anything of one's own.

    One that cannot take all modalities says so by a method `accepts(modality)`; one that has an
    attribute `about` is named by it in the result.
    """

    @property
    def name(self) -> str:
        """By which its distances are called; "inception-v3" makes them an FID."""
        ...

    def features(self, name: str, x: ArrayLike) -> NDArray[Any]:
        """Features (rows, features) of rows (rows, *shape) of the modality `name`."""
        ...


class Predictions(NamedTuple):
    """Classes and features of some rows."""

    classes: NDArray[np.int64] | None
    features: dict[str, NDArray[Any]]


def likeness_of(found: Mapping[str, GeneratedFeatures]) -> dict[str, Likeness]:
    """Likeness by network."""
    return {network: of.compute() for network, of in found.items()}


@dataclass(frozen=True)
class FeatureComparison:
    """Classes and features of rows, and the real rows with which features are compared.

    Args:
        modalities: of the model.
        test: real rows.
        rows: which of them.
        networks: whose features are compared, the classifiers among them.
        classifiers: of the same modalities; None if rows have no classes.
        compared: number of rows in every distance.
        clusters_of: rows -> the item that each shares with rows that depend on it.
        has_limit: whether distances of infinitely many rows are asked for.
    """

    modalities: Sequence[Modality]
    test: Source
    rows: EvaluationRows
    networks: Sequence[FeatureNetwork]
    classifiers: ModalityClassifiers | None
    compared: int
    clusters_of: Callable[[Indices], Indices]
    has_limit: bool

    @cached_property
    def names(self) -> list[str]:
        """Names of the modalities, sorted."""
        return sorted(m.name for m in self.modalities)

    @cached_property
    def networks_of(self) -> dict[str, list[FeatureNetwork]]:
        """Modality -> the networks that can take its rows."""
        found: dict[str, list[FeatureNetwork]] = {}
        for modality in self.modalities:
            found[modality.name] = [
                network
                for network in self.networks
                if getattr(network, "accepts", lambda _: True)(modality)
            ]
        return found

    def predict(self, name: str, x: NDArray[Any], count: int | None = None) -> Predictions:
        """Classes of rows, and features of the first `count` of them."""
        classes, features = None, {}
        for network in self.networks_of[name]:
            if network is self.classifiers:
                classes, values = self.classifiers.predict_with_features(name, x)
                features[network.name] = values[:count]
            elif count != 0:
                features[network.name] = np.asarray(network.features(name, x[:count]))
        return Predictions(classes, features if name in self._compared_names else {})

    @cached_property
    def _compared_names(self) -> set[str]:
        """Modalities of which some real rows have all values, to compare features with."""
        if self.rows.present is None:
            return set(self.names)
        full = {name: self.rows.is_full(name, self.rows.reference).sum() for name in self.names}
        return {name for name, count in full.items() if count >= MIN_SCORED}

    def _features(self, name: str, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Features of rows, if there are any."""
        return self.predict(name, x).features if len(x) else {}

    @cached_property
    def manifold_rows(self) -> int:
        """Number of rows for precision and recall, real and generated; 0 where they are few."""
        distinct = min((len(self._distinct(name)) for name in self._compared_names), default=0)
        count = min(self.compared, distinct, MAX_MANIFOLD_ROWS)
        return count if count >= MIN_MANIFOLD_ROWS else 0

    def _distinct(self, name: str) -> Indices:
        """Places of reference rows with a whole item of a modality that no earlier one shows."""
        index, rows = self.test.columns()[name].index, self.rows.reference
        places = np.flatnonzero(self.rows.is_full(name, rows))
        items = rows[places] if index is None else index[rows[places]]
        return np.asarray(places[np.sort(np.unique(items, return_index=True)[1])])

    @cached_property
    def _references(self) -> dict[str, dict[str, RealRows]]:
        """Real rows in features, by modality and network."""
        wanted = {name: np.zeros(len(self.rows.reference), bool) for name in self.names}
        for name, some in wanted.items():
            some[self._distinct(name)[: self.manifold_rows]] = True
        found = {
            name: {
                network.name: RealFeatures(self.has_limit) for network in self.networks_of[name]
            }
            for name in self.names
            if name in self._compared_names
        }
        for place, at in batches(self.rows.reference):
            x = self.test.take(at)
            for name in found:
                full = self.rows.is_full(name, at)
                for network, values in self._features(name, x[name][full]).items():
                    found[name][network].update(values, wanted[name][place][full])
        return {n: {k: f.compute() for k, f in of.items()} for n, of in found.items()}

    def compared_with(self, target: str) -> dict[str, GeneratedFeatures]:
        """What compares rows with the real ones of a modality, by network."""
        return {n: GeneratedFeatures(r) for n, r in self._references.get(target, {}).items()}

    def real(self) -> dict[str, dict[str, Likeness]]:
        """Likeness of as many real rows with the reference, by modality and network.

        Modalities of which too few of the chosen rows have all values are left out.
        """
        found = {}
        for name in self.names:
            rows = self.rows.chosen[self.rows.is_full(name, self.rows.chosen)][: self.compared]
            if len(rows) < max(self.compared, MIN_SCORED):
                continue
            compared_with, clusters = self.compared_with(name), self.clusters_of(rows)
            column = self.test.columns()[name]
            for place, at in batches(rows):
                for network, values in self._features(name, column.take(at)).items():
                    compared_with[network].update(values, clusters[place])
            found[name] = likeness_of(compared_with)
        return found

    @property
    def feature_counts(self) -> dict[str, int]:
        """Number of features of each network."""
        return {
            network: len(real.moments.mean)
            for of in self._references.values()
            for network, real in of.items()
        }
