"""Rows in the features of networks: generated ones compared with real ones of each modality."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from mvflow.metrics import limit_sizes

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
        full = self.reference_full
        return {name for name in self.names if full.get(name, MIN_SCORED) >= MIN_SCORED}

    @cached_property
    def reference_full(self) -> dict[str, int]:
        """Modality -> real rows to compare with that have all its values, where not all have."""
        if self.rows.present is None:
            return {}
        full = {n: int(self.rows.is_full(n, self.rows.reference).sum()) for n in self.names}
        return {n: count for n, count in full.items() if count < len(self.rows.reference)}

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
        places = np.flatnonzero(self.rows.is_full(name, self.rows.reference))
        items = self._items(name, self.rows.reference[places])
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
        return {n: GeneratedFeatures(r) for n, r in self._real(target).items()}

    def real(self) -> dict[str, dict[str, Likeness]]:
        """Likeness of real rows with the reference, by modality and network: what noise makes.

        It is that of as many rows as are generated, where so many are apart from the reference and
        show other items. Elsewhere it is the distance of two halves of the reference, no item in
        both, times what the bias of so many rows is of theirs: in proportion to 1 / items, or to
        the sum of squared shares of the rows that the items have, where these differ. Where items
        are too few for halves, as in data that take few values, rows apart may show the same ones.
        Modalities of which too few rows have all values are left out.
        """
        return {
            name: found
            for name in self.names
            if (
                found := self._apart(name, shared=False)
                or self._halves(name)
                or self._apart(name, shared=True)
            )
        }

    def _items(self, name: str, rows: Indices) -> Indices:
        """The item of a modality that each row shows."""
        index = self.test.columns()[name].index
        return rows if index is None else np.asarray(index[rows])

    def _apart(self, name: str, *, shared: bool) -> dict[str, Likeness]:
        """Of chosen rows; empty where the reference has them, or their items if not `shared`."""
        rows = self.rows.chosen[self.rows.is_full(name, self.rows.chosen)][: self.compared]
        if len(rows) < max(self.compared, MIN_SCORED) or not self.rows.is_apart:
            return {}
        items = self._items(name, self.rows.reference)
        if not shared and np.isin(self._items(name, rows), items).any():
            return {}
        return likeness_of(self._compare(name, rows, self.clusters_of(rows), self._real(name)))

    def _halves(self, name: str) -> dict[str, Likeness]:
        """Of one half of the reference with the other; empty where it has few items."""
        rows = self.rows.reference[self._distinct(name)]
        first, second = rows[::2], rows[1::2]
        if len(second) < MIN_SCORED or name not in self._compared_names:
            return {}
        real = {n: RealFeatures(keeps_blocks=False) for n in self._real(name)}
        for _, network, values in self._features_of(name, first):
            real[network].update(values, np.zeros(len(values), bool))
        others = {network: of.compute() for network, of in real.items()}
        full = self.rows.reference[self.rows.is_full(name, self.rows.reference)]
        weights = np.unique(self._items(name, full), return_counts=True)[1] / len(full)
        bias = (1 / self.compared + (weights**2).sum()) / (1 / len(first) + 1 / len(second))
        return {
            network: found.scaled(bias)
            for network, found in likeness_of(self._compare(name, second, second, others)).items()
            if limit_sizes(len(second), len(others[network].moments.mean))
        }

    def _real(self, name: str) -> dict[str, RealRows]:
        """The reference in features, by network."""
        return self._references.get(name, {})

    def _compare(
        self, name: str, rows: Indices, clusters: Indices, real: Mapping[str, RealRows]
    ) -> dict[str, GeneratedFeatures]:
        """Real rows in the place of generated ones."""
        compared = {network: GeneratedFeatures(of) for network, of in real.items()}
        for place, network, values in self._features_of(name, rows):
            compared[network].update(values, clusters[place])
        return compared

    def _features_of(self, name: str, rows: Indices) -> Iterator[tuple[slice, str, NDArray[Any]]]:
        """Batches of rows: where they are, network and features."""
        column = self.test.columns()[name]
        for place, at in batches(rows):
            for network, values in self._features(name, column.take(at)).items():
                yield place, network, values

    @property
    def feature_counts(self) -> dict[str, int]:
        """Number of features of each network."""
        return {
            network: len(real.moments.mean)
            for of in self._references.values()
            for network, real in of.items()
        }
