"""Everything the paper measures of a trained model, for any estimator on any source of rows."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Batch, DataError, Source, derive_seed, generator
from mvflow.estimators import Estimator, JNFShared
from mvflow.evaluation.classifiers import Classifiers
from mvflow.functional import canonical_correlations
from mvflow.metrics import Coherence, MeanAndError

__all__ = ["direction", "evaluate"]


def direction(given: tuple[str, ...], target: str) -> str:
    """Key of a direction of generation.

    Examples:
        >>> direction(("m1", "m0"), "m2")
        'm0+m1->m2'
    """
    return f"{'+'.join(sorted(given))}->{target}"


def evaluate(
    estimator: Estimator, test: Source, classifiers: Classifiers | None, *, seed: int = 0
) -> dict[str, Any]:
    """Measure a trained model on test rows.

    Args:
        estimator: the model.
        test: rows that it was not trained on.
        classifiers: of the same modalities; None leaves coherence out.
        seed: of the rows chosen and of all draws.

    Returns:
        A JSON object: `coherence` (joint; conditional by direction; its mean by number of
        observed modalities; classes that survive reconstruction), `classifiers` (accuracy),
        `log_likelihood` in nats per row with standard errors, `posterior_log_density`
        (held-out log q_j(z|x_j) at z ~ q(z|X)), `sampler`, `latent`, `rows`, `seed`.

    Raises:
        DataError: if coherence is asked of rows without labels.
    """
    settings = estimator.config.evaluation
    chosen = generator(seed, "evaluation rows").permutation(len(test))[: settings.rows]
    x = test.take(chosen)
    result: dict[str, Any] = {
        "model": estimator.config.model,
        "recipe": estimator.config.recipe,
        "rows": len(chosen),
        "seed": seed,
        "trained_with_seed": estimator.config.seed,
        "log_likelihood": _log_likelihoods(estimator, x, seed),
        "posterior_log_density": _posterior_log_density(estimator, x, seed),
        "sampler": _sampler(estimator, x, seed),
        "latent": _latent(estimator, x, seed),
    }
    if classifiers is not None:
        if test.labels is None:
            msg = "the test rows have no labels: coherence needs a class for each row"
            raise DataError(msg)
        result["classifiers"] = classifiers.accuracy
        result["coherence"] = _coherence(estimator, classifiers, x, test.labels[chosen], seed)
    if isinstance(estimator, JNFShared):
        factors = {name: values[chosen] for name, values in test.factors.items()}
        result["shared"] = _shared(estimator, x, factors)
    return result


def _head(x: Batch, rows: int) -> dict[str, NDArray[Any]]:
    return {name: values[:rows] for name, values in x.items()}


def _coherence(
    estimator: Estimator, classifiers: Classifiers, x: Batch, labels: NDArray[np.int64], seed: int
) -> dict[str, Any]:
    names = sorted(m.name for m in estimator.modalities)
    settings = estimator.config.evaluation
    conditional, by_size = {}, {}
    for size in range(1, len(names)):
        rows = len(labels) if size == 1 else settings.product_rows
        found = []
        for given in combinations(names, size):
            observed = {name: x[name][:rows] for name in given}
            path = derive_seed(seed, *given)
            for target, draws in estimator.generate(observed, seed=path).items():
                predicted = classifiers.predict(target, draws[0])[None]
                metric = Coherence().update(predicted, labels[:rows])
                conditional[direction(given, target)] = metric.compute()
                found.append(metric.compute())
        by_size[str(size)] = float(np.mean(found))
    made = estimator.generate(None, settings.prior_draws, seed=derive_seed(seed, "prior"))
    predictions = np.stack([classifiers.predict(n, made[n][:, 0]) for n in names])
    latent = estimator.sample_latent(x, seed=derive_seed(seed, "rebuild"))
    rebuilt = estimator.decode(latent)
    return {
        "joint": Coherence().update(predictions).compute(),
        "conditional": conditional,
        "conditional_by_observed": by_size,
        "reconstruction": {
            n: Coherence().update(classifiers.predict(n, rebuilt[n][0])[None], labels).compute()
            for n in names
        },
    }


def _log_likelihoods(estimator: Estimator, x: Batch, seed: int) -> dict[str, Any]:
    settings = estimator.config.evaluation
    some, n = _head(x, settings.importance_rows), settings.importance_draws
    names = sorted(some)
    out: dict[str, NDArray[np.float64]] = {"joint": estimator.log_likelihood(some, n=n, seed=seed)}
    for source in names:
        for target in names:
            if source != target:
                out[direction((source,), target)] = estimator.log_likelihood(
                    {target: some[target]}, given={source: some[source]}, n=n, seed=seed
                )
    return {k: MeanAndError().update(v).compute() for k, v in out.items()}


def _posterior_log_density(estimator: Estimator, x: Batch, seed: int) -> dict[str, Any]:
    loc, scale = estimator.encode(x)
    z = loc + scale * generator(seed, "posterior density").standard_normal(loc.shape, np.float32)
    return {
        name: MeanAndError().update(estimator.posterior_log_prob(z, {name: x[name]})).compute()
        for name in sorted(x)
    }


def _sampler(estimator: Estimator, x: Batch, seed: int) -> dict[str, Any]:
    """How the sampler fares on the product of all experts, for some rows."""
    some = _head(x, estimator.config.evaluation.sampler_rows)
    draws = estimator.draw(some, 8, seed=seed, product=True)
    return {
        "name": estimator.config.sampler.name,
        "given": "+".join(sorted(some)),
        "rows": len(next(iter(some.values()))),
        **draws.diagnostics.summary(),
        "largest_norm": float(np.linalg.norm(draws.z, axis=-1).max()),
    }


def _latent(estimator: Estimator, x: Batch, seed: int) -> dict[str, Any]:
    """The ball, and the draws of single-modality posteriors that fell outside it (redrawn)."""
    radius = float(estimator.model_.joint.radius)
    contacts, norms = {}, []
    for name in sorted(x):
        draws = estimator.draw({name: x[name]}, 1, seed=seed)
        contacts[name] = float(draws.diagnostics.contacts.mean())
        norms.append(float(np.linalg.norm(draws.z, axis=-1).max()))
    return {"radius": radius, "redrawn": contacts, "largest_norm": max(norms)}


def _shared(estimator: JNFShared, x: Batch, factors: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """What the projections hold: correlations between modalities, and traces of known factors.

    `correlations` are the canonical ones of each pair of modalities on these rows; `factors_r2`
    is the share of a factor's variance that a linear function of a projection explains.
    """
    projections = estimator.project(x)
    ridge = estimator.config.projectors.ridge
    correlations = {
        f"{a}~{b}": canonical_correlations(projections[a], projections[b], ridge).tolist()
        for a, b in combinations(sorted(projections), 2)
    }
    traces = {
        name: {factor: _r_squared(g, values) for factor, values in sorted(factors.items())}
        for name, g in sorted(projections.items())
    }
    return {"correlations": correlations, "factors_r2": traces}


def _r_squared(features: NDArray[Any], values: NDArray[Any]) -> float:
    """Share of the variance of `values` (rows,) that a linear fit on `features` explains."""
    design = np.column_stack([np.ones(len(features)), features]).astype(np.float64)
    target = np.asarray(values, np.float64)
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    spread = target.var()
    return float(1 - residual.var() / spread) if spread > 0 else 0.0
