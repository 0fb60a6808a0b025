"""Everything the paper measures of a trained model, for any estimator on any source of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Batch, DataError, Source, UsageError, generator
from mvflow.estimators import Estimator
from mvflow.evaluation.classifiers import ModalityClassifiers
from mvflow.evaluation.generation import (
    EvaluationRows,
    FeatureNetwork,
    Generation,
    batches,
    direction,
)
from mvflow.evaluation.result import Evaluation, Latent, Projections, SamplerCheck
from mvflow.functional import canonical_correlations
from mvflow.metrics import Estimate

__all__ = ["evaluate"]

SAMPLER_DRAWS = 8


def evaluate(
    estimator: Estimator,
    test: Source | Batch,
    classifiers: ModalityClassifiers | None = None,
    networks: Sequence[FeatureNetwork] = (),
    *,
    seed: int = 0,
) -> Evaluation:
    """Measure a trained model on test rows.

    Args:
        estimator: the model.
        test: rows that it was not trained on; a dict of arrays will do.
        classifiers: of the same modalities; None leaves coherence out.
        networks: whose features Fréchet distances are taken in, besides the classifiers'.
        seed: of the rows chosen and of all draws.

    Raises:
        DataError: if the rows do not fit the model, or coherence is asked of rows without labels.

    Examples:
        >>> from mvflow import JNF, Modality
        >>> rows = {name: np.random.default_rng(0).normal(size=(40, 2)) for name in "ab"}
        >>> few = {"rows": 8, "prior_draws": 8, "importance_rows": 4, "sampler_rows": 2}
        >>> specs, short = [Modality("a", (2,)), Modality("b", (2,))], {"epochs": 1}
        >>> model = JNF(specs, latent_dim=2, joint=short, flows=short, evaluation=few).fit(rows)
        >>> sorted(evaluate(model, rows).log_likelihood)
        ['a->b', 'b->a', 'joint']
    """
    test = estimator.as_source(test)
    if classifiers is not None and test.labels is None:
        msg = "the test rows have no labels: coherence needs a class for each row"
        raise DataError(msg)
    rows = EvaluationRows.of(len(test), estimator.config.evaluation, seed)
    all_networks = [*([] if classifiers is None else [classifiers]), *networks]
    generation = Generation(estimator, test, rows, classifiers, all_networks, seed)
    radius = estimator.radius
    return Evaluation(
        facts=estimator.facts(),
        recipe=estimator.config.recipe,
        rows=len(rows.chosen),
        seed=seed,
        trained_with_seed=estimator.config.seed,
        **generation.measure(),
        classifiers={} if classifiers is None else classifiers.accuracy,
        log_likelihood=_log_likelihoods(generation),
        posterior_log_density=_posterior_log_density(generation),
        sampler=_sampler(generation),
        latent=Latent(
            radius=radius if math.isfinite(radius) else None,
            redrawn=generation.contacts,
            largest_norm=max(generation.norms, default=0.0),
        ),
        shared=_projections(generation) if estimator.can_project else None,
    )


def _log_likelihoods(of: Generation) -> dict[str, Estimate]:
    settings = of.estimator.config.evaluation
    some = of.test.take(of.rows.chosen[: settings.importance_rows])
    draws: dict[str, Any] = {"n": settings.importance_draws, "seed": of.seed}
    out = {"joint": of.estimator.log_likelihood(some, **draws)}
    for source in of.names:
        for target in of.names:
            if source != target:
                out[direction((source,), target)] = of.estimator.log_likelihood(
                    {target: some[target]}, given={source: some[source]}, **draws
                )
    return {key: of.estimate(values) for key, values in out.items()}


def _posterior_log_density(of: Generation) -> dict[str, Estimate]:
    """Log q(z|x_j) at draws z ~ q(z|X) of held-out rows; nothing of posteriors without density."""
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in of.names}
    rng = generator(of.seed, "posterior density")
    for place, at in batches(of.rows.chosen):
        x = of.test.take(at)
        if of.estimator.can_encode:
            loc, scale = of.estimator.encode(x)
            z = loc + scale * rng.standard_normal(loc.shape, np.float32)
        else:
            z = of.estimator.draw(x, 1, seed=of.batch_seed(("posterior density",), place)).z[0]
        for name, values in found.items():
            try:
                values.append(of.estimator.posterior_log_prob(z, {name: x[name]}))
            except UsageError:
                continue
    return {name: of.estimate(np.concatenate(v)) for name, v in found.items() if v}


def _sampler(of: Generation) -> SamplerCheck:
    """How the sampler fares on the rule for subsets with all modalities given, on some rows."""
    estimator = of.estimator
    some = of.test.take(of.rows.chosen[: estimator.config.evaluation.sampler_rows])
    draws = estimator.draw(some, SAMPLER_DRAWS, seed=of.seed, combine=True)
    return SamplerCheck.of(
        draws.diagnostics.summary(),
        name=estimator.config.sampler.kind,
        given="+".join(sorted(some)),
        rows=len(next(iter(some.values()))),
        largest_norm=float(np.linalg.norm(draws.z, axis=-1).max()),
    )


def _projections(of: Generation) -> Projections:
    parts = [of.estimator.project(of.test.take(at)) for _, at in batches(of.rows.chosen)]
    projections = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    factors = {name: values[of.rows.chosen] for name, values in of.test.factors.items()}
    correlations = {
        f"{a}~{b}": canonical_correlations(projections[a], projections[b]).tolist()
        for a, b in combinations(sorted(projections), 2)
    }
    traces = {
        name: {factor: _r_squared(g, values) for factor, values in sorted(factors.items())}
        for name, g in sorted(projections.items())
    }
    return Projections(correlations=correlations, factors_r2=traces)


def _r_squared(features: NDArray[Any], values: NDArray[Any]) -> float:
    """Share of the variance of `values` (rows,) that a linear fit on `features` explains."""
    design = np.column_stack([np.ones(len(features)), features]).astype(np.float64)
    target = np.asarray(values, np.float64)
    residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    spread = target.var()
    return float(1 - residual.var() / spread) if spread > 0 else 0.0
