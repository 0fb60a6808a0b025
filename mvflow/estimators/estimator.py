"""The estimator around any system: fit, draw, generate, score, save. NumPy in, NumPy out."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mvflow.core import (
    Batch,
    Source,
    UsageError,
    as_source,
    check_count,
    check_seed,
    check_source,
    derive_seed,
    listed,
)
from mvflow.estimators.gaps import LEVELS, calibrated_gaps
from mvflow.estimators.generative import GenerativeEstimator
from mvflow.estimators.imputing import Imputed, imputed, unlike
from mvflow.estimators.inputs import as_given, check_mapping, checked_latent, chunked
from mvflow.estimators.plotting import Plots
from mvflow.estimators.scoring import ImportanceSampled, evidence_lower_bound, log_likelihood
from mvflow.inference import refuse
from mvflow.metrics import CalibratedIntervals

__all__ = ["Bound", "Estimator"]


class Bound(NamedTuple):
    """The evidence lower bound of some rows, and the draws that it was estimated from."""

    values: NDArray[np.float64]
    """(rows,), in nats."""
    z: NDArray[np.float32]
    """(n, rows, latent_dim), of q(z|X)."""
    log_prob: NDArray[np.float64]
    """Log q(z|X) of the draws, (n, rows)."""


class Estimator(GenerativeEstimator):
    """A multimodal generative model of any system, with NumPy arrays in and out.

    The constructor stores its configuration; `fit` trains and returns the estimator. Each system
    has an estimator of its own: `JNF`, `JNFShared`, ... (`mvflow.estimators.estimator_class`).

    Args:
        modalities: what the data hold.
        latent_dim: dimension of z, or of its shared part.
        networks: modality -> {"encoder": ..., "decoder": ..., "projector": ...}: names, mappings
            with `kind` and settings, or modules.
        settings: further fields of the system's settings, such as `joint={"epochs": 50}`.

    Attributes:
        config: everything that defines the model and its training.
        system_: the trained torch module, after `fit` or `load`.
        trained_: names of the stages trained so far, in order.
        records_: what is recorded of each: data, content hash of the weights.

    Examples:
        Those of all methods are of this model and these rows:

        >>> rng = np.random.default_rng(0)
        >>> rows = {"a": rng.normal(size=(64, 3)), "b": rng.normal(size=(64, 2))}
        >>> specs, short = [Modality("a", (3,)), Modality("b", (2,))], {"epochs": 1}
        >>> model = JNF(specs, latent_dim=2, joint=short, flows=short).fit(rows, seed=0)
        >>> x = {name: values[:4] for name, values in rows.items()}
    """

    def impute(
        self,
        given: Batch,
        *,
        targets: Iterable[str] | None = None,
        n: int = 100,
        level: float = 0.9,
        intervals: CalibratedIntervals | None = None,
        seed: int | None = 0,
        covariates: Mapping[str, Any] | None = None,
    ) -> dict[str, Imputed]:
        """Means, intervals and draws of what is not given: modalities, and gaps in given ones.

        Args:
            given: observed modalities, name -> (rows, *shape). NaN, what a masked array masks and
                what a mask `present/NAME` leaves out are gaps, of values or of whole rows. A data
                frame with columns of two levels, modality and column, will do.
            targets: what to impute; by default all that is not given or has gaps.
            n: draws per row.
            level: of central intervals of draws with the likelihood's noise.
            intervals: margins found on held-out rows (`mvflow.runs.read_intervals`, or
                `calibrate_gaps`), by which intervals are widened so that they hold what they
                promise.
            seed: of the draws.
            covariates: of the rows, as in `draw`.

        Returns:
            name -> `Imputed`, in which all that was given is as it was, and NaN where nothing of
            a row was given.

        Warns:
            UnreliableDrawsWarning: naming the rows of which nothing was given.

        Raises:
            UsageError: if a target is given without a gap, nothing is given of any row, or there
                is nothing to impute.

        Examples:
            >>> absent = model.impute({"a": x["a"]}, n=20)
            >>> absent["b"].mean.shape, bool((absent["b"].low <= absent["b"].high).all())
            ((4, 2), True)
            >>> lacking = np.ma.masked_array(x["b"], [[False] * 2] * 3 + [[True] * 2])
            >>> whole = model.impute({"a": x["a"], "b": lacking}, n=20)["b"]
            >>> whole.filled, bool((whole.mean[:3] == x["b"][:3]).all())
            (2, True)
        """
        return imputed(
            self,
            given,
            targets=targets,
            n=n,
            level=level,
            intervals=intervals,
            seed=seed,
            covariates=covariates,
        )

    def calibrate_gaps(
        self,
        rows: Source | Batch,
        *,
        levels: Sequence[float] = LEVELS,
        n: int = 100,
        seed: int | None = 0,
    ) -> CalibratedIntervals:
        """Margins by which `impute` has to widen the intervals of single values.

        Each value of a table is hidden once, with a tenth of the others, and imputed; the margins
        are the quantiles of how far it lies outside of its interval (split conformal prediction),
        by column. Whole tables are hidden, too, and imputed from all other modalities, and from
        those that rows without them have.

        Args:
            rows: held-out rows of all modalities, with gaps such as new rows have; at most 2,000
                are used.
            levels: of the intervals.
            n: draws per row, as many as `impute` is to make.
            seed: of the draws.

        Examples:
            >>> gaps = JNF(
            ...     specs, latent_dim=2, joint={**short, "masking": 0.5}, flows=short,
            ...     networks={"a": {"encoder": "gaps"}, "b": {"encoder": "gaps"}},
            ... ).fit(rows, seed=0)
            >>> sorted(gaps.calibrate_gaps(rows, n=20).margins)
            ['a+b->a', 'a+b->b', 'a->b', 'b->a']
        """
        return calibrated_gaps(self, self.as_source(rows), levels=levels, n=n, seed=seed)

    def unlike(
        self,
        given: Batch,
        reference: Source | Batch,
        *,
        seed: int | None = 0,
        covariates: Mapping[str, Any] | None = None,
    ) -> NDArray[np.bool_]:
        """Rows that are less likely, by log p(x_S), than all reference rows, bool (rows,).

        Args:
            given: observed modalities.
            reference: held-out rows of all modalities, of which at most 500 are used. A row like
                those is marked with a probability of 1 in one more than their number.
            seed: of the draws of importance sampling.
            covariates: of the given rows.

        Examples:
            >>> far = {"a": x["a"] + [[0.0], [0.0], [0.0], [90.0]]}
            >>> model.unlike(far, rows).tolist()
            [False, False, False, True]
        """
        known = as_source(reference, self.modalities)
        return unlike(self, given, known, seed=seed, covariates=covariates)

    def posterior_log_prob(
        self,
        z: ArrayLike,
        given: Batch,
        *,
        combine: bool = False,
        covariates: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Log q(z|x_S) in nats, (..., rows), of z (..., rows, latent_dim).

        A product of experts is not normalised. `combine` and `covariates` as in `draw`.

        Raises:
            DataError: if z is not of that shape.
            NotFittedError: if a stage has not been trained.
            UsageError: if no modality is given.

        Examples:
            >>> z = model.sample_latent({"a": x["a"]}, n=5)
            >>> model.posterior_log_prob(z, {"a": x["a"]}).shape
            (5, 4)
        """
        self._check_fitted()
        observed = self._checked(given, covariates)
        if not observed.x:
            msg = "no modality was given: q(z|x_S) needs one or more"
            raise UsageError(msg)
        values = torch.from_numpy(checked_latent(z, self.system_.latent.dim, observed.rows)).to(
            self._device
        )
        chunks = chunked(observed)
        log_prob = values.new_empty(values.shape[:-1], dtype=torch.float64)
        with torch.no_grad():
            for i, rows in enumerate(chunks.parts):
                part = values[..., chunks.at(i), :]
                log_prob[..., chunks.at(i)] = (
                    self._posterior(rows, combine).log_prob(part).double()
                )
        bad = log_prob.isnan()
        refuse(bad.reshape(-1, observed.rows).any(0), "log q(z|x_S) is not a number")
        return log_prob.cpu().numpy()

    def prior_log_prob(self, z: ArrayLike, prior: str | None = None) -> NDArray[np.float64]:
        """Log density of a prior in nats, (...,), of z (..., latent_dim).

        Args:
            z: latents, such as `encode` or `draw` have them.
            prior: a name of `priors()`; by default the configured one.

        Raises:
            DataError: if z is not of that shape, or not finite.

        Examples:
            >>> z = model.sample_latent(x, n=1)[0]
            >>> model.prior_log_prob(z).shape
            (4,)
        """
        distribution = self._prior(prior)()
        values = torch.from_numpy(checked_latent(z, self.system_.latent.dim)).to(self._device)
        with torch.no_grad():
            log_prob = distribution.log_prob(values[..., None, :])[..., 0].double()
        return log_prob.cpu().numpy()

    def log_likelihood(
        self,
        x: Batch,
        *,
        given: Batch | None = None,
        n: int = 1000,
        seed: int | None = 0,
        covariates: Mapping[str, Any] | None = None,
        full_output: bool = False,
    ) -> Any:
        """Importance-sampled log p(x), or log p(x | given), of each row in nats, (rows,).

        In rows that lack modalities it is that of what they have.

        Args:
            x: modalities to score.
            given: observed modalities.
            n: draws of z per row; the estimate is a lower bound on average that tightens with n.
            seed: of the draws; None gives fresh ones.
            covariates: of the rows, as in `draw`.
            full_output: return `ImportanceSampled`, with effective numbers of draws and Pareto
                shapes of the weights beside the values.

        Raises:
            DataError: if the data do not fit the modalities or are not finite.
            UsageError: if there is nothing to score, in all or in a row, or `n` is not positive.

        Examples:
            >>> model.log_likelihood(x, n=100).shape
            (4,)
            >>> model.log_likelihood({"b": x["b"]}, given={"a": x["a"]}, n=100).shape
            (4,)
        """
        for each in (x, given):
            check_mapping(each)
        names = {m.name for m in self.modalities}
        both = sorted(set(x) & set(given or {}) & names)
        if both:
            msg = f"modality {both[0]!r} is both given and to be scored"
            raise UsageError(msg)
        self._check_fitted()
        seed = check_seed(seed)
        # together, for equal numbers of rows
        seen = self._checked({**(given or {}), **x}, covariates)
        if not names & set(x):
            msg = "no modality to score: x is empty"
            raise UsageError(msg)
        rows = chunked(seen, max(1, seen.rows))  # apart only where they lack different modalities
        parts = []
        for i, own in enumerate(rows.parts):
            scored, known = own.only(x), own.only(given or ())
            if not scored.x or (given and not known.x):
                what = "given" if scored.x else "to be scored"
                lacking = sorted(np.arange(seen.rows)[rows.at(i)].tolist())
                told = f"rows {listed(lacking)} have" if lacking[1:] else f"row {lacking[0]} has"
                msg = f"{told} none of the modalities {what}: leave such rows out"
                raise UsageError(msg)
            sampled = log_likelihood(
                self.system_,
                scored,
                known,
                n=check_count(n),
                seed=derive_seed(seed, "pattern", i) if i else seed,
                map_chunks=self._map_chunks,
            )
            parts.append(sampled)
        sampled = ImportanceSampled(
            *(rows.restored(np.concatenate(of)) for of in zip(*parts, strict=True))
        )
        return sampled if full_output else as_given(sampled.values, x)

    def evidence_lower_bound(
        self,
        x: Batch,
        *,
        n: int = 100,
        seed: int | None = 0,
        covariates: Mapping[str, Any] | None = None,
    ) -> Bound:
        """E log p(X|z) + log p(z) - log q(z|X) of each row, in nats, without weights or beta.

        Args:
            x: all modalities. A model that was trained on rows that lack some takes such rows,
                of which it is the bound on log p(x_S).
            n: draws of z ~ q(z|X) per row.
            seed: of the draws; None gives fresh ones.
            covariates: of the rows, as in `draw`.

        Raises:
            UsageError: if a modality is missing, or q(z|X) has no density.

        Examples:
            >>> bound = model.evidence_lower_bound(x, n=50)
            >>> bool((bound.values < model.log_likelihood(x, n=500)).all())
            True
        """
        self._check_fitted()
        seed, observed = check_seed(seed), self._checked(x, covariates)
        self._check_encodable(observed)
        chunks = chunked(observed)
        parts = [
            evidence_lower_bound(self.system_, rows, n=check_count(n), seed=derive_seed(seed, i))
            for i, rows in enumerate(chunks.parts)
        ]
        values, z, log_prob = zip(*parts, strict=True)
        return Bound(
            chunks.restored(np.concatenate(values)),
            chunks.restored(np.concatenate(z, 1), 1),
            chunks.restored(np.concatenate(log_prob, 1), 1),
        )

    def evaluate(self, test: Source | Batch, classifiers: Any = None, **options: Any) -> Any:
        """Measure the model on test rows, as `mvflow.evaluate`.

        Examples:
            >>> sorted(model.evaluate(rows).log_likelihood)
            ['a->b', 'b->a', 'joint']
        """
        module = importlib.import_module("mvflow.evaluation")  # a higher layer
        return module.evaluate(self, self.as_source(test), classifiers, **options)

    def report(
        self,
        path: str | Path,
        test: Source | Batch,
        *,
        train: Source | Batch | None = None,
        seed: int = 0,
    ) -> Path:
        """Write a report on the model as one HTML file, and return its path.

        Args:
            path: of the file.
            test: rows that the model was not trained on.
            train: rows that it was trained on, for ridge regression and nearest neighbours
                beside it.
            seed: of all draws.

        Examples:
            >>> model.report(folder / "report.html", rows).name
            'report.html'
        """
        module, rows = importlib.import_module("mvflow.report"), self.as_source(test)
        stages = {name: record.to_dict() for name, record in self.records_.items()}
        entry = module.Entry(
            type(self).__name__,
            self,
            rows,
            list(self.history_),
            {"stages": stages, "versions": {}},
            {},
            self.evaluate(rows, seed=seed, train=train),
        )
        written: Path = module.write_report(Path(path), [entry], seed=seed)
        return written

    @property
    def plot(self) -> Plots:
        """Figures: `plot.history()`, `plot.latent(x)`, `plot.samples()`.

        Examples:
            >>> len(model.plot.history().axes)
            2
        """
        return Plots(self)

    def as_source(self, data: Source | Batch) -> Source:
        """Rows as a `Source` whose values fit the model; a dict of arrays becomes one.

        Raises:
            DataError: if a value does not fit its modality.
            UsageError: if it is neither.

        Examples:
            >>> len(model.as_source(x))
            4
        """
        specs = self.config.covariate_specs()
        source = as_source(data, self.modalities, covariate_specs=specs)
        check_source(source, self.modalities, specs)
        return source
