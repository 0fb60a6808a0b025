"""Generated rows, measured: classes, features, reconstruction, diversity, predictions of tables.

Rows pass through in batches, so memory does not grow with their number. Each set of draws is made
once and serves all that is measured of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import (
    COVARIATES,
    PRESENT,
    UNLABELLED,
    Source,
    derive_seed,
    generator,
    intensities,
    nan_absent,
    without_full_masks,
)
from mvflow.estimators import Estimator
from mvflow.evaluation.baselines import Baseline, Baselines
from mvflow.evaluation.classifiers import ModalityClassifiers
from mvflow.evaluation.features import FeatureComparison, FeatureNetwork, likeness_of
from mvflow.evaluation.parts import (
    DiversityPart,
    JointPart,
    RebuiltPart,
    SubsetPart,
)
from mvflow.evaluation.predictions import Prediction
from mvflow.evaluation.predictive import PREDICTIVE_DRAWS, Predictive, Table, Units
from mvflow.evaluation.result import Diversity, SubsetSampler
from mvflow.evaluation.rows import (
    MIN_SCORED,
    EvaluationRows,
    Indices,
    batches,
    chosen_subsets,
    direction,
)
from mvflow.evaluation.sampler_checks import check_sampler
from mvflow.evaluation.scoring import score
from mvflow.functional import pairwise_distance
from mvflow.inference import Diagnostics
from mvflow.metrics import Estimate, mean_and_error

__all__ = ["Generation"]

MAX_DRAWN_VALUES = 2**22
"""Predictive values held at once."""
DIVERSITY_ROWS, DIVERSITY_DRAWS = 64, 8
DATA = "data"
"""Name of the space of the data themselves, for diversity."""


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
        train: rows that it was trained on, for baselines; None leaves these out.
        units: modality -> how its stored values become those of the file.
    """

    estimator: Estimator
    test: Source
    rows: EvaluationRows
    classifiers: ModalityClassifiers | None
    networks: Sequence[FeatureNetwork]
    seed: int
    train: Source | None = None
    units: Mapping[str, Units] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """Names of the modalities, sorted."""
        return sorted(m.name for m in self.estimator.modalities)

    @cached_property
    def clusters(self) -> Indices:
        """(chosen rows,): item of the modality that repeats the most, whose rows depend."""
        columns = self.test.columns().values()
        indices = [c.index[self.rows.chosen] for c in columns if c.index is not None]
        plain = np.arange(len(self.rows.chosen))  # negative below: rows without it share nothing
        indices = [np.where(index < 0, -1 - plain, index) for index in indices]
        return np.asarray(min([plain, *indices], key=lambda of: len(np.unique(of))), np.int64)

    def clusters_of(self, at: Indices) -> Indices:
        """The same of any rows."""
        if self.rows.present is None:
            return self.clusters[: len(at)]
        columns = [c for c in self.test.columns().values() if c.index is not None]
        every = [np.where((i := np.asarray(c.index)[at]) < 0, -1 - at, i) for c in columns]
        return np.asarray(min([at, *every], key=lambda of: len(np.unique(of))), np.int64)

    def estimate(self, values: ArrayLike, at: Indices | None = None) -> Estimate:
        """Mean and error of values of the given rows; by default the first of those chosen."""
        return mean_and_error(values, self.clusters if at is None else self.clusters_of(at))

    def taken(self, at: Indices, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Rows of some modalities, with their covariates and what of them is present."""
        wanted = {*names, *(PRESENT + name for name in names)}
        x = self.test.take(at)
        kept = {k: v for k, v in x.items() if k in wanted or k.startswith(COVARIATES)}
        return without_full_masks(kept)

    @cached_property
    def subsets(self) -> dict[int, list[tuple[str, ...]]]:
        """Subsets to condition on, by size, of which some row has all."""
        per_size = self.estimator.config.evaluation.subsets
        drawn = chosen_subsets(self.names, per_size, self.seed)
        if self.rows.present is None:
            return drawn
        usable = {n: [s for s in of if len(self.rows.having(s, 1))] for n, of in drawn.items()}
        return {size: of for size, of in usable.items() if of}

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The modalities that are predicted: vectors and classes."""
        found = (Table.of(m, self.units.get(m.name)) for m in self.estimator.modalities)
        return {table.name: table for table in found if table is not None}

    @cached_property
    def baselines(self) -> Baselines | None:
        """Predictors of tables, fitted on training rows."""
        if self.train is None or not self.tables:
            return None
        tables = self.tables.values()
        return Baselines(
            self.train,
            {t.name: t.width for t in tables if t.kind == "classes"},
            [t.name for t in tables if t.kind == "counts"],
            self.seed,
            {t.name: t.coded for t in tables if t.coded},
        )

    # Draws

    def rows_given(self, given: Sequence[str]) -> Indices:
        """The rows conditioned on: all that were chosen, or where a sampler is needed, few.

        Where some rows lack modalities, the first that have the given ones.
        """
        settings = self.estimator.config.evaluation
        rows = self.rows.having(given, settings.rows)
        if len(given) == 1 or not self.estimator.needs_sampler(self.taken(rows[:1], given)):
            return rows
        return rows[: settings.product_rows]

    @cached_property
    def compared(self) -> int:
        """Number of rows in every distance: biased as they are, they compare at one number."""
        rows = len(self.rows.chosen if len(self.names) < 3 else self.rows.few)
        if self.rows.present is None:
            return rows
        subsets = [given for of in self.subsets.values() for given in of]
        return min([rows, *(len(self.rows_given(given)) for given in subsets)])

    @cached_property
    def features(self) -> FeatureComparison:
        """Classes and features of rows, and what they are compared with."""
        return FeatureComparison(
            self.estimator.modalities,
            self.test,
            self.rows,
            self.networks,
            self.classifiers,
            self.compared,
            self.clusters_of,
            self.estimator.config.evaluation.frechet_infinity,
        )

    def batch_seed(self, path: tuple[str | int, ...], place: slice) -> int:
        """Of a batch; the first has no number, so that few rows are drawn as if all at once."""
        return derive_seed(self.seed, *path, *([place.start] if place.start else []))

    def subset(self, given: tuple[str, ...], count: int | None = None) -> SubsetPart:
        """Generate all other modalities from those given.

        Args:
            given: observed modalities.
            count: of rows, where not all are to be taken.
        """
        targets = [name for name in self.names if name not in given]
        tables = [name for name in targets if name in self.tables]
        hits: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in targets}
        compared_with = {name: self.features.compared_with(name) for name in targets}
        rows = self.rows_given(given)[:count]
        predicted: dict[str, list[Predictive]] = {name: [] for name in tables}
        diagnostics, norms = [], []
        for place, at in batches(rows):
            seed = self.batch_seed(given, place)
            n = PREDICTIVE_DRAWS if tables else 1
            draws = self.estimator.draw(self.taken(at, given), n, seed=seed)
            z, covariates = draws.z, getattr(draws, "covariates", {})
            diagnostics.append(draws.diagnostics)
            norms.append(float(np.linalg.norm(z, axis=-1).max()))
            compared = min(max(self.compared - place.start, 0), len(at))
            for name, made in self.estimator.decode(z[:1], targets, covariates=covariates).items():
                found = self.features.predict(name, made[0], compared)
                if found.classes is not None:
                    known = self.rows.is_labelled(at)
                    hits[name].append(self._is_right(found.classes[known], at[known]))
                clusters = self.clusters_of(rows)[place][:compared]
                for network, values in found.features.items():
                    compared_with[name][network].update(values, clusters)
            for name, parts in self._predictive(tables, z, at, covariates, seed).items():
                predicted[name] += parts
        joined = _joined(diagnostics)
        predictions, margins = self._scored(given, tables, rows, predicted)
        return SubsetPart(
            given=given,
            rows=len(rows),
            hits={k: np.concatenate(v).tolist() for k, v in hits.items() if v},
            likeness={name: likeness_of(of) for name, of in compared_with.items()},
            contacts=float(joined.contacts.mean()) if joined.contacts.size else 0.0,
            norm=max(norms),
            sampler=self._checked_sampler(joined, len(rows)),
            predictions=predictions,
            margins=margins,
            at=[] if self.rows.present is None else rows[self.rows.is_labelled(rows)].tolist(),
        )

    def predicted(
        self, given: tuple[str, ...], tables: Sequence[str], at: Indices
    ) -> dict[str, list[Predictive]]:
        """Predictive distributions of tables of some rows, given others of their modalities."""
        out: dict[str, list[Predictive]] = {name: [] for name in tables}
        for place, some in batches(at):
            seed = self.batch_seed(given, place)
            draws = self.estimator.draw(self.taken(some, given), PREDICTIVE_DRAWS, seed=seed)
            covariates = getattr(draws, "covariates", {})
            for name, parts in self._predictive(tables, draws.z, some, covariates, seed).items():
                out[name] += parts
        return out

    def _checked_sampler(self, diagnostics: Diagnostics, rows: int) -> SubsetSampler:
        if diagnostics.method == "exact":
            return SubsetSampler.of(diagnostics.summary())
        return check_sampler(diagnostics, rows, self.estimator.config.sampler)

    def _predictive(
        self,
        tables: Sequence[str],
        z: NDArray[np.float32],
        at: Indices,
        covariates: Mapping[str, NDArray[Any]],
        seed: int,
    ) -> dict[str, list[Predictive]]:
        """Predictive distributions of tables at draws of z (draws, rows, latent_dim)."""
        out: dict[str, list[Predictive]] = {name: [] for name in tables}
        if not tables:
            return out
        width = len(z) * sum(self.tables[name].width for name in tables)
        for place, some in batches(at, max(1, MAX_DRAWN_VALUES // width)):
            x = self.test.take(some)
            gaps = {k for name in tables if x.get(k := PRESENT + name, some).ndim > 1}
            made = self.estimator.predictive(
                z[:, place],
                without_full_masks({name: x[name] for name in (*tables, *sorted(gaps))}),
                seed=derive_seed(seed, "noise", place.start),
                covariates={k: v[place] for k, v in covariates.items()},
            )
            for name in tables:
                table = self.tables[name]
                is_class = table.kind == "classes"
                out[name].append(
                    Predictive.of(
                        table,
                        made.mean[name],
                        None if is_class else made.draws[name],
                        made.log_prob[name],
                        x[name] if is_class else self._known_values(name, x),
                    )
                )
        return out

    def _scored(
        self,
        given: tuple[str, ...],
        tables: Sequence[str],
        rows: Indices,
        predicted: Mapping[str, list[Predictive]],
    ) -> tuple[dict[str, Prediction], dict[str, list[list[float]]]]:
        """Scores of all predictions, and the margins of their intervals."""
        if not tables:
            return {}, {}
        x = self.test.take(rows)
        others: dict[str, dict[str, Baseline]] = {name: {} for name in tables}
        if self.baselines is not None:
            others = self.baselines.predict(self.taken(rows, given), given, tables)
        predictions, margins = {}, {}
        for name in tables:
            table = self.tables[name]
            known = self.rows.has(name, rows)
            if known.sum() < MIN_SCORED:
                continue
            true = x[name] if table.kind == "classes" else self._known_values(name, x)
            predictions[name], wide = score(
                table,
                given,
                true[known],
                Predictive.joined(predicted[name]).of_rows(known),
                {baseline: of.of_rows(known) for baseline, of in others[name].items()},
                draws=PREDICTIVE_DRAWS,
                baseline_rows=0 if self.baselines is None else self.baselines.rows,
                clusters=self.clusters_of(rows)[known],
            )
            margins[name] = wide.tolist()
        return predictions, margins

    def joint(self, prior: str) -> JointPart:
        """Draws from a prior; of a model with covariates, each with those of a test row."""
        settings = self.estimator.config.evaluation
        seed = derive_seed(self.seed, "prior")
        z = self.estimator.draw(None, settings.prior_draws, seed=seed, prior=prior).z[:, 0]
        at = np.resize(self.rows.chosen, len(z))
        compared_with = {name: self.features.compared_with(name) for name in self.names}
        classes: list[NDArray[np.int64]] = []
        for place, some in batches(at):
            covariates = self.taken(some, ())
            made = self.estimator.decode(z[place], covariates=covariates)
            found = {name: self.features.predict(name, made[name]) for name in self.names}
            for name in self.names:
                for network, values in found[name].features.items():
                    compared_with[name][network].update(values)
            of_each = [one.classes for one in found.values() if one.classes is not None]
            if of_each:
                classes.append(np.stack(of_each))
        return JointPart(
            classes=np.concatenate(classes, 1).tolist() if classes else [],
            likeness={name: likeness_of(of) for name, of in compared_with.items()},
        )

    def rebuilt(self) -> RebuiltPart:
        """Rows encoded and decoded: whether they keep their class, and their squared error."""
        kept: dict[str, list[Any]] = {name: [] for name in self.names}
        errors: dict[str, list[Any]] = {name: [] for name in self.names}
        of_errors: dict[str, list[Any]] = {name: [] for name in self.names}
        for place, at in batches(self.rows.chosen):
            x = self.taken(at, self.names)
            draws = self.estimator.draw(x, 1, seed=self.batch_seed(("rebuild",), place))
            covariates = getattr(draws, "covariates", {})
            for name, made in self.estimator.decode(draws.z, covariates=covariates).items():
                mask = x.get(PRESENT + name)
                error, known = _squared_error(made[0], self._values(name, x[name]), mask)
                errors[name].append(error)
                of_errors[name].append(at[known])
                if self.classifiers is not None:
                    classes = self.classifiers.predict(name, made[0])
                    kept[name].append(self._is_right(classes, at)[self.rows.is_labelled(at)])
        labelled = self.rows.chosen[self.rows.is_labelled(self.rows.chosen)]
        return RebuiltPart(
            kept={
                name: self.estimate(np.concatenate(v), labelled)
                for name, v in kept.items()
                if v and len(labelled)
            },
            errors={
                name: self.estimate(np.concatenate(v), rows)
                for name, v in errors.items()
                if len(rows := np.concatenate(of_errors[name]))
            },
        )

    def diversity(self) -> DiversityPart:
        """Distance between draws given one modality of the same row, and between real rows."""
        conditional: dict[str, dict[str, Estimate]] = {}
        settings = self.estimator.config.evaluation
        for given in self.names:
            rows = self.rows.having([given], settings.rows)[:DIVERSITY_ROWS]
            targets = [name for name in self.names if name != given]
            seed = derive_seed(self.seed, "diversity", given)
            draws = self.estimator.draw(self.taken(rows, [given]), DIVERSITY_DRAWS, seed=seed)
            own = {"covariates": getattr(draws, "covariates", {})}
            made = self.estimator.decode(draws.z, targets, **own) if targets else {}
            for name, values in made.items():
                for space, value in self._spread(name, values, rows).items():
                    conditional.setdefault(space, {})[direction((given,), name)] = value
        real = {}
        for name in self.names:
            rows = self.rows.having([name], settings.rows)[:DIVERSITY_ROWS]
            x = self.test.take(self._same_class(name, rows).ravel())
            whole = x.get(PRESENT + name, np.True_).all()
            alike = x[name] if whole else self._known_values(name, x)
            draws_shape = (DIVERSITY_DRAWS, len(rows), *alike.shape[1:])
            real[name] = self._spread(name, alike.reshape(draws_shape), rows)
        return DiversityPart(
            spaces={
                space: Diversity(
                    conditional=conditional.get(space, {}),
                    real={name: found[space] for name, found in real.items() if space in found},
                )
                for space in (DATA, *(network.name for network in self.networks))
            }
        )

    def _same_class(self, name: str, rows: Indices) -> Indices:
        """Other rows of each row's class that have a modality, or any without one, (draws, rows).

        Where there are no classes, or a row's is not known, any rows that have the modality. Rows
        have all of its values, where there are such.
        """
        rng, labels = generator(self.seed, "alike"), self.test.labels
        present, having = self.rows.present, np.arange(len(self.test))
        if present is not None:
            full = np.flatnonzero(present.full[name])
            having = full if len(full) >= MIN_SCORED else np.flatnonzero(present.has[name])
        if labels is None:
            return having[rng.integers(len(having), size=(DIVERSITY_DRAWS, len(rows)))]
        members = {label: having[labels[having] == label] for label in np.unique(labels[rows])}
        members = {label: of if len(of) else having for label, of in members.items()}
        members[UNLABELLED] = having
        return np.stack([rng.choice(members[labels[r]], DIVERSITY_DRAWS) for r in rows], 1)

    def _spread(self, name: str, draws: NDArray[Any], rows: Indices) -> dict[str, Estimate]:
        """Diversity of draws (n, rows, *shape) in the space of the data and of all networks."""
        flat = draws.reshape(-1, *draws.shape[2:])
        spaces = {DATA: self._values(name, flat), **self.features.predict(name, flat).features}
        return {
            space: self.estimate(pairwise_distance(values.reshape(*draws.shape[:2], -1)), rows)
            for space, values in spaces.items()
        }

    # Values

    def _is_right(self, classes: NDArray[Any], at: Indices) -> NDArray[np.bool_]:
        assert self.test.labels is not None
        return np.asarray(classes == self.test.labels[at])

    def _values(self, name: str, x: NDArray[Any]) -> NDArray[np.float32]:
        """Rows as decoders make them: intensities from 0 to 1, classes as probabilities."""
        modality = next(m for m in self.test.modalities if m.name == name)
        is_class = name in self.tables and self.tables[name].kind == "classes"
        if is_class and x.ndim == 1:
            return np.eye(modality.size, dtype=np.float32)[x]
        return intensities(x).astype(np.float32, copy=False)

    def _known_values(self, name: str, x: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Rows of a table as decoders make them, NaN where a value is missing."""
        return nan_absent(self._values(name, x[name]), x.get(PRESENT + name))


def _joined(parts: Sequence[Diagnostics]) -> Diagnostics:
    """Diagnostics of all rows of several batches."""
    if len(parts) == 1:
        return parts[0]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Diagnostics._fields
        if name != "method"
    }
    return Diagnostics(parts[0].method, **arrays)


def _squared_error(
    made: NDArray[np.float32], x: NDArray[np.float32], mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mean squared error per value that is present, and which rows have any."""
    error: NDArray[np.float32] = ((made - x) ** 2).reshape(len(x), -1)
    if mask is None:
        return error.mean(1), np.ones(len(x), bool)
    present = np.broadcast_to(mask.reshape(len(x), -1), error.shape)
    known: NDArray[np.bool_] = np.asarray(present.any(1))
    return error[known].mean(1, where=present[known]), known
