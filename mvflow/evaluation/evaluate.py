"""Everything the paper measures of a trained model, for any estimator on any source of rows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError, Source, generator
from mvflow.estimators import Estimator, JNFShared
from mvflow.evaluation.classifiers import ModalityClassifiers
from mvflow.evaluation.generation import FeatureNetwork, Generation, Rows, chunks, direction
from mvflow.functional import canonical_correlations
from mvflow.metrics import MeanAndError

__all__ = ["evaluate"]

Numbers = NDArray[np.int64]


def evaluate(
    estimator: Estimator,
    test: Source,
    classifiers: ModalityClassifiers | None,
    networks: Sequence[FeatureNetwork] = (),
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a trained model on test rows.

    Args:
        estimator: the model.
        test: rows that it was not trained on.
        classifiers: of the same modalities; None leaves coherence out.
        networks: whose features Fréchet distances are taken in, besides the classifiers'.
        seed: of the rows chosen and of all draws.

    Returns:
        A JSON object: `coherence` (joint; conditional by direction; its mean by number of
        observed modalities; classes that survive reconstruction), `frechet` by network (joint by
        modality; conditional by direction and by number observed, beside what as many real rows
        reach; means, which for "autoencoder" are the paper's MFD), `reconstruction` (squared
        error per value) and `diversity` with standard errors, `classifiers` (accuracy),
        `log_likelihood` in nats per row with standard errors, `posterior_log_density`
        (held-out log q_j(z|x_j) at z ~ q(z|X)), `sampler`, `latent`, `rows`, `seed`.

    Raises:
        DataError: if coherence is asked of rows without labels.
    """
    if classifiers is not None and test.labels is None:
        msg = "the test rows have no labels: coherence needs a class for each row"
        raise DataError(msg)
    rows = Rows.of(len(test), estimator.config.evaluation, seed)
    everyone = [*([] if classifiers is None else [classifiers]), *networks]
    generation = Generation(estimator, test, rows, classifiers, everyone, seed)
    result: dict[str, Any] = {
        "model": estimator.config.model,
        "subset": estimator.config.subset,
        "recipe": estimator.config.recipe,
        "rows": len(rows.chosen),
        "seed": seed,
        "trained_with_seed": estimator.config.seed,
        **generation.measure(),
        "log_likelihood": _log_likelihoods(estimator, test, rows.chosen, seed),
        "posterior_log_density": _posterior_log_density(estimator, test, rows.chosen, seed),
        "sampler": _sampler(estimator, test, rows.chosen, seed),
        "latent": {
            "radius": float(estimator.model_.joint.radius),
            "redrawn": {n: m.compute()["mean"] for n, m in generation.contacts.items()},
            "largest_norm": max(generation.norms),
        },
    }
    if classifiers is not None:
        result["classifiers"] = classifiers.accuracy
    if isinstance(estimator, JNFShared):
        result["shared"] = _shared(estimator, test, rows.chosen)
    return result


def _log_likelihoods(
    estimator: Estimator, test: Source, rows: Numbers, seed: int
) -> dict[str, Any]:
    settings = estimator.config.evaluation
    some, n = test.take(rows[: settings.importance_rows]), settings.importance_draws
    names = sorted(some)
    out: dict[str, NDArray[np.float64]] = {"joint": estimator.log_likelihood(some, n=n, seed=seed)}
    for source in names:
        for target in names:
            if source != target:
                out[direction((source,), target)] = estimator.log_likelihood(
                    {target: some[target]}, given={source: some[source]}, n=n, seed=seed
                )
    return {k: MeanAndError().update(v).compute() for k, v in out.items()}


def _posterior_log_density(
    estimator: Estimator, test: Source, rows: Numbers, seed: int
) -> dict[str, Any]:
    rng = generator(seed, "posterior density")
    found = {name: MeanAndError() for name in sorted(m.name for m in estimator.modalities)}
    for _, at in chunks(rows):
        x = test.take(at)
        loc, scale = estimator.encode(x)
        z = loc + scale * rng.standard_normal(loc.shape, np.float32)
        for name, mean in found.items():
            mean.update(estimator.posterior_log_prob(z, {name: x[name]}))
    return {name: mean.compute() for name, mean in found.items()}


def _sampler(estimator: Estimator, test: Source, rows: Numbers, seed: int) -> dict[str, Any]:
    """How the sampler fares on the product of all experts, for some rows."""
    some = test.take(rows[: estimator.config.evaluation.sampler_rows])
    draws = estimator.draw(some, 8, seed=seed, product=True)
    return {
        "name": estimator.config.sampler.name,
        "given": "+".join(sorted(some)),
        "rows": len(next(iter(some.values()))),
        **draws.diagnostics.summary(),
        "largest_norm": float(np.linalg.norm(draws.z, axis=-1).max()),
    }


def _shared(estimator: JNFShared, test: Source, rows: Numbers) -> dict[str, Any]:
    """What the projections hold: correlations between modalities, and traces of known factors.

    `correlations` are the canonical ones of each pair of modalities on these rows; `factors_r2`
    is the share of a factor's variance that a linear function of a projection explains.
    """
    parts = [estimator.project(test.take(at)) for _, at in chunks(rows)]
    projections = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    factors = {name: values[rows] for name, values in test.factors.items()}
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
