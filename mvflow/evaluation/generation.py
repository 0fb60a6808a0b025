"""Generated rows, measured: coherence, Fréchet distances, reconstruction, diversity.

Rows pass through in batches, so memory does not grow with their number. Each set of draws is made
once and serves all that is measured of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import Source, derive_seed, generator
from mvflow.estimators import Estimator
from mvflow.evaluation.classifiers import ModalityClassifiers
from mvflow.evaluation.result import Coherence, Diversity, Frechet, FrechetMeans
from mvflow.functional import agreement, chance_agreement, pairwise_distance
from mvflow.metrics import (
    Distance,
    Estimate,
    FrechetDistance,
    Jackknife,
    MeanAndCovariance,
    Moments,
    mean_and_error,
    mean_of_means,
)

__all__ = ["EvaluationRows", "FeatureNetwork", "Generation", "batches", "direction"]

BATCH_ROWS = 2048
"""Rows generated and measured at once."""
DIVERSITY_ROWS, DIVERSITY_DRAWS = 64, 8
DATA = "data"
"""Name of the space of the data themselves, for diversity."""

Indices = NDArray[np.int64]
T = TypeVar("T")


class FeatureNetwork(Protocol):
    """Maps rows of a modality to features: classifiers, autoencoders, anything of one's own."""

    @property
    def name(self) -> str:
        """By which its distances are called; "inception-v3" makes them an FID."""
        ...

    def features(self, name: str, x: ArrayLike) -> NDArray[Any]:
        """Features (rows, features) of rows (rows, *shape) of the modality `name`."""
        ...


class EvaluationRows(NamedTuple):
    """Which rows of a source are used for what."""

    chosen: Indices
    """To condition on, where one modality is observed."""
    few: Indices
    """Where several are observed: the first of those chosen."""
    reference: Indices
    """Real rows that generated ones are compared with."""
    is_apart: bool
    """Whether `reference` has none of the chosen rows."""

    @classmethod
    def of(cls, count: int, settings: Any, seed: int) -> EvaluationRows:
        """Choose from `count` rows; `reference` avoids the chosen ones where rows are enough."""
        order = generator(seed, "evaluation rows").permutation(count)
        chosen, rest = order[: settings.rows], order[settings.rows :]
        is_apart = len(rest) >= len(chosen)
        wanted = max(settings.rows, settings.prior_draws)
        reference = (rest if is_apart else order)[:wanted]
        return cls(chosen, chosen[: settings.product_rows], reference, is_apart)


def direction(given: tuple[str, ...], target: str) -> str:
    """Key of a direction of generation.

    Examples:
        >>> direction(("m1", "m0"), "m2")
        'm0+m1->m2'
    """
    return f"{'+'.join(sorted(given))}->{target}"


def batches(rows: Indices) -> Iterator[tuple[slice, Indices]]:
    """Row numbers in pieces, each with its place among them."""
    for start in range(0, len(rows), BATCH_ROWS):
        place = slice(start, min(start + BATCH_ROWS, len(rows)))
        yield place, rows[place]


@dataclass(frozen=True)
class Generation:
    """Draws from a model, and all that is measured of them.

    Args:
        estimator: the model.
        test: rows that it was not trained on.
        rows: which of them.
        classifiers: of the same modalities; None if rows have no classes.
        networks: whose features are compared, the classifiers among them.
        seed: of all draws.
    """

    estimator: Estimator
    test: Source
    rows: EvaluationRows
    classifiers: ModalityClassifiers | None
    networks: Sequence[FeatureNetwork]
    seed: int
    contacts: dict[str, float] = field(default_factory=dict)
    """Share of draws outside the ball, by the one modality given."""
    norms: list[float] = field(default_factory=list)

    @cached_property
    def names(self) -> list[str]:
        """Names of the modalities, sorted."""
        return sorted(m.name for m in self.estimator.modalities)

    @cached_property
    def clusters(self) -> Indices:
        """(chosen rows,): item of the modality that repeats the most, whose rows depend."""
        columns = self.test.columns().values()
        found = [c.index[self.rows.chosen] for c in columns if c.index is not None]
        plain = np.arange(len(self.rows.chosen))
        return np.asarray(min([plain, *found], key=lambda of: len(np.unique(of))), np.int64)

    def estimate(self, values: ArrayLike) -> Estimate:
        """Mean and error of values of the chosen rows, or of the first of them."""
        return mean_and_error(values, self.clusters)

    def measure(self) -> dict[str, Any]:
        """The fields of an `Evaluation` that are measured of generated rows."""
        conditional = [
            self._conditional(given)
            for size in range(1, len(self.names))
            for given in combinations(self.names, size)
        ]
        priors = dict(zip(("joint", "joint_fitted"), self.estimator.priors(), strict=False))
        joint = {name: self._joint(prior) for name, prior in priors.items()}
        kept, errors = self._reconstructed()
        result: dict[str, Any] = {
            "rows_by_observed": {
                size: len(self._rows_given(size)) for size in range(1, len(self.names))
            },
            "reconstruction": errors,
            "diversity": self._diversity(),
        }
        if self.classifiers is not None:
            result["coherence"] = self._coherence(conditional, joint, kept)
        result["frechet"] = {
            network.name: self._frechet(network.name, conditional, joint)
            for network in self.networks
        }
        return result

    # Draws

    def _rows_given(self, size: int) -> Indices:
        """The rows conditioned on where `size` modalities are observed."""
        return self.rows.chosen if size == 1 else self.rows.few

    @cached_property
    def _compared(self) -> int:
        """Number of rows in every distance: biased as they are, they compare at one number."""
        return len(self._rows_given(len(self.names) - 1))

    def batch_seed(self, path: tuple[str | int, ...], place: slice) -> int:
        """Of a batch; the first has no number, so that few rows are drawn as if all at once."""
        return derive_seed(self.seed, *path, *([place.start] if place.start else []))

    def _conditional(self, given: tuple[str, ...]) -> _Subset:
        """Generate all other modalities from those given."""
        targets = [name for name in self.names if name not in given]
        hits: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in targets}
        distances = {name: self._distances_from(name) for name in targets}
        contacts = []
        for place, at in batches(self._rows_given(len(given))):
            x = self.test.take(at)
            draws = self.estimator.draw(
                {name: x[name] for name in given}, 1, seed=self.batch_seed(given, place)
            )
            if len(given) == 1:
                contacts.append(np.asarray(draws.diagnostics.contacts, np.float64))
                self.norms.append(float(np.linalg.norm(draws.z, axis=-1).max()))
            compared = min(max(self._compared - place.start, 0), len(at))
            for name, made in self.estimator.decode(draws.z, targets).items():
                found = self._predict(name, made[0])
                if found.classes is not None:
                    hits[name].append(self._is_right(found.classes, at))
                clusters = self.clusters[place][:compared]
                for network, values in found.features.items():
                    distances[name][network].update(values[:compared], clusters)
        if len(given) == 1:
            shares = np.concatenate(contacts)
            self.contacts[given[0]] = float(shares.mean()) if shares.size else 0.0
        return _Subset(
            given,
            {name: np.concatenate(found) for name, found in hits.items() if found},
            {name: _jackknives(found) for name, found in distances.items()},
        )

    def _joint(self, prior: str) -> _Joint:
        """Draws from the prior."""
        settings = self.estimator.config.evaluation
        seed = derive_seed(self.seed, "prior")
        z = self.estimator.draw(None, settings.prior_draws, seed=seed, prior=prior).z
        distances = {name: self._distances_from(name) for name in self.names}
        classes: list[NDArray[np.int64]] = []
        for place, _ in batches(np.arange(len(z))):
            made = self.estimator.decode(z[place, 0])
            found = {name: self._predict(name, made[name]) for name in self.names}
            for name in self.names:
                for network, values in found[name].features.items():
                    distances[name][network].update(values)
            of_each = [one.classes for one in found.values() if one.classes is not None]
            if of_each:
                classes.append(np.stack(of_each))
        return _Joint(
            np.concatenate(classes, 1) if classes else np.zeros((len(self.names), 0), np.int64),
            {name: _jackknives(found) for name, found in distances.items()},
        )

    def _reconstructed(self) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
        """Rows encoded and decoded: whether they keep their class, and their squared error."""
        kept: dict[str, list[Any]] = {name: [] for name in self.names}
        errors: dict[str, list[Any]] = {name: [] for name in self.names}
        for place, at in batches(self.rows.chosen):
            x = self.test.take(at)
            latent = self.estimator.draw(x, 1, seed=self.batch_seed(("rebuild",), place)).z
            for name, made in self.estimator.decode(latent).items():
                errors[name].append(_squared_error(made[0], self._values(name, x[name])))
                if self.classifiers is not None:
                    kept[name].append(self._is_right(self.classifiers.predict(name, made[0]), at))
        return (
            {name: self.estimate(np.concatenate(v)) for name, v in kept.items() if v},
            {name: self.estimate(np.concatenate(v)) for name, v in errors.items()},
        )

    def _diversity(self) -> dict[str, Diversity]:
        """Distance between draws given one modality of the same row, and between real rows."""
        rows = self.rows.chosen[:DIVERSITY_ROWS]
        x = self.test.take(rows)
        conditional: dict[str, dict[str, Estimate]] = {}
        for given in self.names:
            targets = [name for name in self.names if name != given]
            seed = derive_seed(self.seed, "diversity", given)
            z = self.estimator.draw({given: x[given]}, DIVERSITY_DRAWS, seed=seed).z
            for name, made in (self.estimator.decode(z, targets) if targets else {}).items():
                for space, value in self._spread(name, made).items():
                    conditional.setdefault(space, {})[direction((given,), name)] = value
        alike = self.test.take(self._same_class(rows).ravel())
        real = {
            name: self._spread(
                name, alike[name].reshape(DIVERSITY_DRAWS, len(rows), *alike[name].shape[1:])
            )
            for name in self.names
        }
        return {
            space: Diversity(
                conditional=conditional.get(space, {}),
                real={name: found[space] for name, found in real.items()},
            )
            for space in (DATA, *(network.name for network in self.networks))
        }

    def _same_class(self, rows: Indices) -> Indices:
        """Other rows of each row's class, or any rows if there are no classes, (draws, rows)."""
        rng, labels = generator(self.seed, "alike"), self.test.labels
        if labels is None:
            return rng.integers(len(self.test), size=(DIVERSITY_DRAWS, len(rows)))
        members = {label: np.flatnonzero(labels == label) for label in np.unique(labels[rows])}
        return np.stack([rng.choice(members[labels[r]], DIVERSITY_DRAWS) for r in rows], 1)

    def _spread(self, name: str, draws: NDArray[Any]) -> dict[str, Estimate]:
        """Diversity of draws (n, rows, *shape) in the space of the data and of all networks."""
        flat = draws.reshape(-1, *draws.shape[2:])
        spaces = {DATA: self._values(name, flat), **self._predict(name, flat).features}
        return {
            space: self.estimate(pairwise_distance(values.reshape(*draws.shape[:2], -1)))
            for space, values in spaces.items()
        }

    # Classes and features

    def _predict(self, name: str, x: NDArray[Any]) -> _Predictions:
        classes, features = None, {}
        for network in self.networks:
            if network is self.classifiers:
                both = self.classifiers.predict_with_features(name, x)
                classes, features[network.name] = both
            else:
                features[network.name] = np.asarray(network.features(name, x))
        return _Predictions(classes, features)

    def _is_right(self, classes: NDArray[Any], at: Indices) -> NDArray[np.bool_]:
        assert self.test.labels is not None
        return np.asarray(classes == self.test.labels[at])

    def _values(self, name: str, x: NDArray[Any]) -> NDArray[np.float32]:
        """Rows as decoders make them: intensities from 0 to 1, classes as probabilities."""
        modality = next(m for m in self.test.modalities if m.name == name)
        if modality.likelihood == "categorical" and x.ndim == 1:
            return np.eye(modality.size, dtype=np.float32)[x]
        values = x.astype(np.float32)
        return values / np.float32(255) if x.dtype == np.uint8 else values

    @cached_property
    def _references(self) -> dict[str, dict[str, Moments]]:
        """Moments of the features of real rows, by modality and network."""
        found = {
            name: {network.name: MeanAndCovariance() for network in self.networks}
            for name in self.names
        }
        for _, at in batches(self.rows.reference):
            for name, x in self.test.take(at).items():
                for network, values in self._predict(name, x).features.items():
                    found[name][network].update(values)
        return {n: {k: m.compute() for k, m in of.items()} for n, of in found.items()}

    def _distances_from(self, target: str) -> dict[str, FrechetDistance]:
        """Distances from the real rows of a modality, by network."""
        return {n: FrechetDistance(m) for n, m in self._references[target].items()}

    @cached_property
    def _real(self) -> dict[str, dict[str, Jackknife]]:
        """Distance of as many real rows from the reference, by modality and network."""
        found = {name: self._distances_from(name) for name in self.names}
        for place, at in batches(self.rows.chosen[: self._compared]):
            for name, x in self.test.take(at).items():
                for network, values in self._predict(name, x).features.items():
                    found[name][network].update(values, self.clusters[place])
        return {name: _jackknives(of) for name, of in found.items()}

    # Results

    def _coherence(
        self,
        subsets: Sequence[_Subset],
        joint: Mapping[str, _Joint],
        reconstruction: Mapping[str, Estimate],
    ) -> Coherence:
        means = [np.mean([*s.hits.values()], axis=0) for s in subsets]
        sizes = [len(s.given) for s in subsets]
        assert self.test.labels is not None
        labels = self.test.labels[self.rows.chosen]
        by_class: dict[int, Estimate] = {}
        for label in np.unique(labels) if means else ():
            parts = [m[labels[: len(m)] == label] for m in means]
            if min(map(len, parts)):
                by_class[int(label)] = mean_of_means(parts, self.clusters[labels == label])
        agreed = {name: mean_and_error(agreement(of.classes)) for name, of in joint.items()}
        chance = {name: float(chance_agreement(of.classes)) for name, of in joint.items()}
        return Coherence(
            joint=agreed["joint"],
            joint_fitted=agreed.get("joint_fitted"),
            joint_chance=chance["joint"],
            joint_fitted_chance=chance.get("joint_fitted"),
            conditional_chance=float(np.unique(labels, return_counts=True)[1].max() / len(labels)),
            conditional_balanced=_balanced(by_class),
            conditional={
                key: self.estimate(hits)
                for s in subsets
                for key, hits in _directions(s.given, s.hits).items()
            },
            conditional_by_observed={
                size: mean_of_means(
                    [m for m, of in zip(means, sizes, strict=True) if of == size], self.clusters
                )
                for size in dict.fromkeys(sizes)
            },
            conditional_mean=mean_of_means(means, self.clusters) if means else None,
            conditional_by_class=by_class,
            reconstruction=dict(reconstruction),
        )

    def _frechet(
        self, network: str, subsets: Sequence[_Subset], joint: Mapping[str, _Joint]
    ) -> Frechet:
        """Distances in the features of one network."""

        def estimates(found: Mapping[str, Mapping[str, Jackknife]]) -> dict[str, Distance]:
            return {name: of[network].estimate() for name, of in found.items()}

        def mean(found: Mapping[str, Mapping[str, Jackknife]]) -> Jackknife:
            return Jackknife.mean([of[network] for of in found.values()])

        means = {s.given: mean(s.distances) for s in subsets}
        by_size = {
            size: Jackknife.mean([m for given, m in means.items() if len(given) == size])
            for size in range(1, len(self.names))
        }
        real = self._real if self.rows.is_apart else {}
        return Frechet(
            features=len(self._references[self.names[0]][network].mean),
            reference_rows=len(self.rows.reference),
            rows=self._compared,
            **{prior: estimates(found.distances) for prior, found in joint.items()},
            conditional={
                key: found
                for s in subsets
                for key, found in _directions(s.given, estimates(s.distances)).items()
            },
            conditional_by_observed={size: found.estimate() for size, found in by_size.items()},
            mean=FrechetMeans(
                **{prior: mean(found.distances).estimate() for prior, found in joint.items()},
                conditional=Jackknife.mean([*means.values()]).estimate() if means else None,
                real=mean(real).estimate() if real else None,
            ),
            real=estimates(real),
        )


class _Predictions(NamedTuple):
    """Classes and features of some rows."""

    classes: NDArray[np.int64] | None
    features: dict[str, NDArray[Any]]


class _Subset(NamedTuple):
    """What was generated from one subset of modalities; all by target."""

    given: tuple[str, ...]
    hits: dict[str, NDArray[np.bool_]]
    """(rows,): whether a generated row is of the right class."""
    distances: dict[str, dict[str, Jackknife]]
    """By network."""


class _Joint(NamedTuple):
    """What was generated from a prior."""

    classes: NDArray[np.int64]
    """(modalities, draws); no draws without classifiers."""
    distances: dict[str, dict[str, Jackknife]]


def _directions(given: tuple[str, ...], found: Mapping[str, T]) -> dict[str, T]:
    """What was found of each target, by direction."""
    return {direction(given, target): value for target, value in found.items()}


def _balanced(by_class: Mapping[int, Estimate]) -> Estimate | None:
    """Mean over classes, whose rows do not depend on each other."""
    if not by_class:
        return None
    errors = np.array([found.standard_error for found in by_class.values()])
    mean = float(np.mean([found.mean for found in by_class.values()]))
    return Estimate(mean, float(np.sqrt((errors**2).sum()) / len(errors)))


def _jackknives(found: Mapping[str, FrechetDistance]) -> dict[str, Jackknife]:
    return {network: distance.jackknife() for network, distance in found.items()}


def _squared_error(made: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean squared error per value, (rows,)."""
    error: NDArray[np.float32] = ((made - x) ** 2).reshape(len(x), -1).mean(1)
    return error
