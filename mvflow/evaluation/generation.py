"""What is generated, judged: coherence, Fréchet distances, reconstruction, diversity.

Rows pass through in chunks, so memory does not grow with their number. Each set of draws is made
once and serves all that is measured of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import Source, derive_seed, generator
from mvflow.estimators import Estimator
from mvflow.evaluation.classifiers import ModalityClassifiers
from mvflow.functional import pairwise_distance
from mvflow.metrics import (
    Coherence,
    FrechetDistance,
    MeanAndCovariance,
    MeanAndError,
    Moments,
)

__all__ = ["FeatureNetwork", "Generation", "Rows", "chunks", "direction"]

CHUNK = 2048
"""Rows generated and judged at once."""
DIVERSE_ROWS, DIVERSE_DRAWS = 64, 8
DATA = "data"
"""Name of the space of the data themselves, for diversity."""

Numbers = NDArray[np.int64]


class FeatureNetwork(Protocol):
    """Maps rows of a modality to features: classifiers, autoencoders, anything of one's own."""

    @property
    def name(self) -> str:
        """By which its distances are called; "inception-v3" makes them an FID."""
        ...

    def features(self, name: str, x: ArrayLike) -> NDArray[Any]:
        """Features (rows, features) of rows (rows, *shape) of the modality `name`."""
        ...


class Rows(NamedTuple):
    """Which rows of a source are used for what."""

    chosen: Numbers
    """To condition on, where one modality is observed."""
    few: Numbers
    """Where several are observed."""
    reference: Numbers
    """Real rows that generated ones are compared with."""
    is_apart: bool
    """Whether `reference` has none of the chosen rows."""

    @classmethod
    def of(cls, count: int, settings: Any, seed: int) -> Rows:
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


def chunks(rows: Numbers) -> Iterator[tuple[slice, Numbers]]:
    """Row numbers in pieces, each with its place among them."""
    for start in range(0, len(rows), CHUNK):
        place = slice(start, min(start + CHUNK, len(rows)))
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
    rows: Rows
    classifiers: ModalityClassifiers | None
    networks: Sequence[FeatureNetwork]
    seed: int
    contacts: dict[str, MeanAndError] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)

    @cached_property
    def names(self) -> list[str]:
        """Names of the modalities, sorted."""
        return sorted(m.name for m in self.estimator.modalities)

    def rows_of(self, size: int) -> Numbers:
        """The rows conditioned on where `size` modalities are observed."""
        return self.rows.chosen if size == 1 else self.rows.few

    def measure(self) -> dict[str, Any]:
        """Everything: `coherence`, `frechet`, `reconstruction`, `diversity`, `latent`."""
        conditional = {
            size: [
                judged
                for given in combinations(self.names, size)
                for judged in self._conditional(given)
            ]
            for size in range(1, len(self.names))
        }
        joint = {name: self._joint(prior) for name, prior in self._priors.items()}
        kept, errors = self._rebuilt()
        result: dict[str, Any] = {
            "rows_by_observed": {str(k): len(self.rows_of(k)) for k in conditional},
            "reconstruction": errors,
            "diversity": self._diversity(),
        }
        if self.classifiers is not None:
            result["coherence"] = {
                **{name: coherent.compute() for name, (coherent, _) in joint.items()},
                "conditional": {j.key: j.coherence.compute() for j in _all(conditional)},
                "conditional_by_observed": {
                    str(size): float(np.mean([j.coherence.compute() for j in found]))
                    for size, found in conditional.items()
                },
                "reconstruction": {name: kept[name].compute() for name in self.names},
            }
        if self.networks:
            result["frechet"] = {
                network.name: self._distances(
                    network.name,
                    conditional,
                    {name: judged for name, (_, judged) in joint.items()},
                )
                for network in self.networks
            }
        return result

    # Draws

    def _seed(self, path: tuple[str | int, ...], place: slice) -> int:
        """Of a chunk; the first has no number, so that few rows are drawn as if all at once."""
        return derive_seed(self.seed, *path, *([place.start] if place.start else []))

    def _conditional(self, given: tuple[str, ...]) -> list[_Judged]:
        """Generate all other modalities from those given."""
        targets = [name for name in self.names if name not in given]
        judged = {name: self._judged(direction(given, name), name) for name in targets}
        for place, at in chunks(self.rows_of(len(given))):
            x = self.test.take(at)
            draws = self.estimator.draw(
                {name: x[name] for name in given}, 1, seed=self._seed(given, place)
            )
            if len(given) == 1:
                contacts = self.contacts.setdefault(given[0], MeanAndError())
                contacts.update(np.asarray(draws.diagnostics.contacts, np.float64))
                self.norms.append(float(np.linalg.norm(draws.z, axis=-1).max()))
            for name, made in self.estimator.decode(draws.z, targets).items():
                judged[name].update(self.see(name, made[0]), self._labels(at))
        return list(judged.values())

    @property
    def _priors(self) -> dict[str, str]:
        """What draws without an observation are measured, by their name in the results."""
        fitted = {"joint_fitted": "mixture"} if "prior" in self.estimator.trained_ else {}
        return {"joint": "standard", **fitted}

    def _joint(self, prior: str) -> tuple[Coherence, dict[str, _Judged]]:
        """Draws from the prior."""
        settings = self.estimator.config.evaluation
        seed = derive_seed(self.seed, "prior")
        z = self.estimator.draw(None, settings.prior_draws, seed=seed, prior=prior).z
        coherence, judged = Coherence(), {name: self._judged(name, name) for name in self.names}
        for place, _ in chunks(np.arange(len(z))):
            made = self.estimator.decode(z[place, 0])
            seen = {name: self.see(name, made[name]) for name in self.names}
            for name in self.names:
                judged[name].update(seen[name], None)
            classes = [found.classes for found in seen.values() if found.classes is not None]
            if classes:
                coherence.update(np.stack(classes))
        return coherence, judged

    def _rebuilt(self) -> tuple[dict[str, Coherence], dict[str, dict[str, float]]]:
        """Rows encoded and decoded: whether they keep their class, and their squared error."""
        kept = {name: Coherence() for name in self.names}
        errors = {name: MeanAndError() for name in self.names}
        for place, at in chunks(self.rows.chosen):
            x, labels = self.test.take(at), self._labels(at)
            latent = self.estimator.draw(x, 1, seed=self._seed(("rebuild",), place)).z
            for name, made in self.estimator.decode(latent).items():
                errors[name].update(_squared_error(made[0], self._values(name, x[name])))
                if labels is not None:
                    assert self.classifiers is not None
                    kept[name].update(self.classifiers.predict(name, made[0])[None], labels)
        return kept, {name: errors[name].compute() for name in self.names}

    def _diversity(self) -> dict[str, Any]:
        """Distance between draws given one modality of the same row, and between real rows."""
        rows = self.rows.chosen[:DIVERSE_ROWS]
        x = self.test.take(rows)
        spaces: list[str] = [DATA, *(network.name for network in self.networks)]
        found: dict[str, Any] = {space: {"conditional": {}, "real": {}} for space in spaces}
        for given in self.names:
            targets = [name for name in self.names if name != given]
            seed = derive_seed(self.seed, "diversity", given)
            z = self.estimator.draw({given: x[given]}, DIVERSE_DRAWS, seed=seed).z
            for name, made in (self.estimator.decode(z, targets) if targets else {}).items():
                for space, value in self._spread(name, made).items():
                    found[space]["conditional"][direction((given,), name)] = value
        alike = self.test.take(self._alike(rows).ravel())
        for name in self.names:
            real = alike[name].reshape(DIVERSE_DRAWS, len(rows), *alike[name].shape[1:])
            for space, value in self._spread(name, real).items():
                found[space]["real"][name] = value
        return found

    def _alike(self, rows: Numbers) -> Numbers:
        """Other rows of each row's class, or any rows if there are no classes, (draws, rows)."""
        rng, labels = generator(self.seed, "alike"), self.test.labels
        if labels is None:
            return rng.integers(len(self.test), size=(DIVERSE_DRAWS, len(rows)))
        members = {label: np.flatnonzero(labels == label) for label in np.unique(labels[rows])}
        return np.stack([rng.choice(members[labels[r]], DIVERSE_DRAWS) for r in rows], 1)

    def _spread(self, name: str, draws: NDArray[Any]) -> dict[str, dict[str, float]]:
        """Diversity of draws (n, rows, *shape) in the space of the data and of all networks."""
        flat = draws.reshape(-1, *draws.shape[2:])
        spaces = {DATA: self._values(name, flat), **self.see(name, flat).features}
        return {
            space: MeanAndError()
            .update(pairwise_distance(values.reshape(*draws.shape[:2], -1)))
            .compute()
            for space, values in spaces.items()
        }

    # Judging

    def see(self, name: str, x: NDArray[Any]) -> _Seen:
        """Classes and features of rows."""
        classes, found = None, {}
        for network in self.networks:
            if network is self.classifiers:
                classes, found[network.name] = self.classifiers.predict_with_features(name, x)
            else:
                found[network.name] = np.asarray(network.features(name, x))
        return _Seen(classes, found)

    def _values(self, name: str, x: NDArray[Any]) -> NDArray[np.float32]:
        """Rows as decoders make them: intensities from 0 to 1, classes as probabilities."""
        modality = next(m for m in self.test.modalities if m.name == name)
        if modality.likelihood == "categorical" and x.ndim == 1:
            return np.eye(modality.size, dtype=np.float32)[x]
        values = x.astype(np.float32)
        return values / np.float32(255) if x.dtype == np.uint8 else values

    def _labels(self, at: Numbers) -> Numbers | None:
        if self.classifiers is None or self.test.labels is None:
            return None
        return self.test.labels[at]

    @cached_property
    def _references(self) -> dict[str, dict[str, Moments]]:
        """Moments of the features of real rows, by network and modality."""
        found = {
            network.name: {name: MeanAndCovariance() for name in self.names}
            for network in self.networks
        }
        for _, at in chunks(self.rows.reference):
            for name, x in self.test.take(at).items():
                for network, values in self.see(name, x).features.items():
                    found[network][name].update(values)
        return {n: {k: m.compute() for k, m in of.items()} for n, of in found.items()}

    def _judged(self, key: str, target: str) -> _Judged:
        references = {n: FrechetDistance(of[target]) for n, of in self._references.items()}
        return _Judged(key, Coherence(), references)

    def _distances(
        self,
        network: str,
        conditional: Mapping[int, list[_Judged]],
        joint: Mapping[str, Mapping[str, _Judged]],
    ) -> dict[str, Any]:
        """Fréchet distances in the features of one network."""
        by_prior = {
            prior: {name: found.distances[network].compute() for name, found in judged.items()}
            for prior, judged in joint.items()
        }
        values = {j.key: j.distances[network].compute() for j in _all(conditional)}
        found: dict[str, Any] = {
            "features": len(next(iter(self._references[network].values())).mean),
            "reference_rows": len(self.rows.reference),
            **by_prior,
            "conditional": values,
            "conditional_by_observed": {
                str(size): float(np.mean([values[j.key] for j in judged]))
                for size, judged in conditional.items()
            },
            "mean": {
                **{prior: float(np.mean(list(of.values()))) for prior, of in by_prior.items()},
                "conditional": float(np.mean(list(values.values()))) if values else None,
            },
        }
        if self.rows.is_apart:
            found["real_by_observed"] = {
                str(size): self._real[len(self.rows_of(size))][network] for size in conditional
            }
        return found

    @cached_property
    def _real(self) -> dict[int, dict[str, float]]:
        """Distance of as many real rows from the reference, by number of rows and network."""
        found = {}
        for rows in (self.rows.chosen, self.rows.few):
            judged = {name: self._judged(name, name) for name in self.names}
            for _, at in chunks(rows):
                for name, x in self.test.take(at).items():
                    judged[name].update(self.see(name, x), None)
            found[len(rows)] = {
                n.name: float(np.mean([j.distances[n.name].compute() for j in judged.values()]))
                for n in self.networks
            }
        return found


class _Seen(NamedTuple):
    """What the networks see of some rows."""

    classes: Numbers | None
    features: dict[str, NDArray[Any]]


class _Judged(NamedTuple):
    """What is measured of one modality, generated in one way."""

    key: str
    coherence: Coherence
    distances: dict[str, FrechetDistance]

    def update(self, seen: _Seen, labels: Numbers | None) -> None:
        if labels is not None and seen.classes is not None:
            self.coherence.update(seen.classes[None], labels)
        for network, values in seen.features.items():
            self.distances[network].update(values)


def _all(conditional: Mapping[int, list[_Judged]]) -> Iterator[_Judged]:
    for judged in conditional.values():
        yield from judged


def _squared_error(made: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean squared error per value, (rows,)."""
    error: NDArray[np.float32] = ((made - x) ** 2).reshape(len(x), -1).mean(1)
    return error
