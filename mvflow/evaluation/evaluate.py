"""Everything the paper measures of a trained model, for any estimator on any source of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Batch, DataError, Source, UsageError, entry_shares, generator
from mvflow.estimators import Estimator
from mvflow.evaluation.caveats import method_of
from mvflow.evaluation.classifiers import ModalityClassifiers
from mvflow.evaluation.features import FeatureNetwork
from mvflow.evaluation.gaps import gap_parts, inference_gaps
from mvflow.evaluation.generation import Generation
from mvflow.evaluation.one_to_many import agreement_on_targets, agreement_rows, one_to_many
from mvflow.evaluation.parts import (
    DiversityPart,
    EstimatesPart,
    EvaluationPlan,
    JointPart,
    LikelihoodPart,
    OneToManyPart,
    Part,
    PartStore,
    RebuiltPart,
    SubsetPart,
    compute_parts,
    estimated_seconds,
    kept_parts,
)
from mvflow.evaluation.predictive import LEVELS, PREDICTIVE_DRAWS, Units
from mvflow.evaluation.result import (
    Coherence,
    Evaluation,
    ImportanceCheck,
    Latent,
    MeasuredRows,
    Projections,
    SamplerCheck,
)
from mvflow.evaluation.rows import EvaluationRows, PresentRows, batches, direction
from mvflow.evaluation.summaries import coherence, frechet, prediction_means, prediction_sentence
from mvflow.evaluation.values import Verdict
from mvflow.functional import canonical_correlations
from mvflow.metrics import CalibratedIntervals

__all__ = ["evaluate"]

SAMPLER_DRAWS = 8
SOLVED_SHARE = 10
"""Of the draws of a likelihood one in so many is taken where densities are solved for."""
DIRECTIONS_PER_SUBSET = 3
"""Directions whose likelihood is estimated, for each subset of a size that is drawn."""


def evaluate(
    estimator: Estimator,
    test: Source | Batch,
    classifiers: ModalityClassifiers | None = None,
    networks: Sequence[FeatureNetwork] = (),
    *,
    seed: int = 0,
    train: Source | Batch | None = None,
    units: Mapping[str, Units] | None = None,
    parts: PartStore | None = None,
    on_plan: Callable[[EvaluationPlan], None] | None = None,
    progress: Callable[[int, int, str, float], None] | None = None,
    on_intervals: Callable[[CalibratedIntervals], object] | None = None,
) -> Evaluation:
    """Measure a trained model on test rows.

    Args:
        estimator: the model.
        test: rows that it was not trained on; a dict of arrays will do.
        classifiers: of the same modalities; None leaves coherence out.
        networks: whose features Fréchet distances are taken in, besides the classifiers'.
        seed: of the rows and subsets chosen, and of all draws.
        train: rows that it was trained on, for ridge regression and nearest neighbours beside
            its predictions of tables; None leaves these baselines out.
        units: modality -> how its stored values become those of the file.
        parts: keeps finished parts, and has those of an evaluation that was interrupted.
        on_plan: called before it starts with what it will do and about how long that takes; the
            time is measured only if it is given.
        progress: called before each part with how many are done, how many there are, the name of
            the next, and about how many seconds are left.
        on_intervals: called with the intervals calibrated on these rows, if tables are predicted.

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
    train = None if train is None else estimator.as_source(train)
    if classifiers is not None and test.labels is None:
        msg = "the test rows have no labels: coherence needs a class for each row"
        raise DataError(msg)
    settings = estimator.config.evaluation
    rows = EvaluationRows.of(len(test), settings, seed, PresentRows.of(test))
    all_networks = [*([] if classifiers is None else [classifiers]), *networks]
    _check_accepted(networks, estimator)
    generation = Generation(
        estimator, test, rows, classifiers, all_networks, seed, train, units or {}
    )
    subsets = generation.subsets
    work = [*_subset_parts(generation, subsets), *_other_parts(generation)]
    kept = kept_parts(work, parts)
    seconds: dict[str, float] = {}
    if on_plan is not None:
        left = [part for part in work if part.name not in kept]
        seconds = estimated_seconds(left)
        on_plan(_plan(generation, subsets, work, len(kept), seconds))
    results = compute_parts(work, kept, parts, seconds, progress)
    if on_intervals is not None and generation.tables:
        on_intervals(_intervals(generation, subsets, results))
    return _put_together(generation, subsets, results)


def _check_accepted(networks: Sequence[FeatureNetwork], estimator: Estimator) -> None:
    for network in networks:
        accepts = getattr(network, "accepts", None)
        if accepts is not None and not any(map(accepts, estimator.modalities)):
            listed = ", ".join(f"{m.name} {m.shape}" for m in estimator.modalities)
            msg = (
                f"no modality has rows that {network.name} can take, such as images of shape "
                f"(1 or 3, height, width): they are {listed}; leave it out"
            )
            raise UsageError(msg)


def _subset_parts(of: Generation, subsets: Mapping[int, Sequence[tuple[str, ...]]]) -> list[Part]:
    return [
        Part(
            f"given {'+'.join(given)}",
            SubsetPart,
            partial(of.subset, given),
            "one" if size == 1 else "several",
            size,
            partial(of.subset, given),
            len(of.rows_given(given)),
        )
        for size, found in subsets.items()
        for given in found
    ]


def _other_parts(of: Generation) -> list[Part]:
    settings = of.estimator.config.evaluation
    priors = dict(zip(("joint", "joint_fitted"), of.estimator.priors(), strict=False))
    singles = [(a, b) for a in of.names for b in of.names if a != b]
    wanted = DIRECTIONS_PER_SUBSET * settings.subsets
    if len(singles) > wanted:
        order = generator(of.seed, "likelihood directions").permutation(len(singles))[:wanted]
        singles = [singles[i] for i in sorted(order)]
    count = min(settings.importance_rows, len(of.rows.chosen))
    known = [(a, b) for a, b in singles if len(of.rows.having((a, b), 1))]
    likelihoods = [(None, ""), *known]
    return [
        *(Part(name, JointPart, partial(of.joint, prior)) for name, prior in priors.items()),
        Part("one to many", OneToManyPart, partial(one_to_many, of)),
        Part("reconstruction", RebuiltPart, of.rebuilt),
        Part("diversity", DiversityPart, of.diversity),
        *(
            Part(
                _likelihood_name(source, target),
                LikelihoodPart,
                partial(_likelihood, of, source, target),
                "joint likelihood" if source is None else "likelihood",
                1,
                partial(_likelihood, of, source, target),
                count,
            )
            for source, target in likelihoods
        ),
        *gap_parts(of),
        Part("posterior density", EstimatesPart, partial(_posterior_log_density, of)),
        Part("sampler", SamplerCheck, partial(_sampler, of)),
    ]


def _likelihood_name(source: str | None, target: str) -> str:
    return f"likelihood {'joint' if source is None else direction((source,), target)}"


def _plan(
    of: Generation,
    subsets: Mapping[int, Sequence[tuple[str, ...]]],
    work: Sequence[Part],
    finished: int,
    seconds: Mapping[str, float],
) -> EvaluationPlan:
    every = of.estimator.config.evaluation.importance_draws
    fewest = min(_draws_given_one(of, name) for name in of.names)
    return EvaluationPlan(
        subsets={size: len(found) for size, found in subsets.items()},
        skipped=_skipped(of, subsets),
        rows=len(of.rows.chosen),
        rows_by_observed={size: len(of.rows_given(found[0])) for size, found in subsets.items()},
        draws=PREDICTIVE_DRAWS if of.tables else 1,
        likelihood_draws=fewest if fewest < every else None,
        parts=len(work),
        finished=finished,
        seconds=sum(seconds.values()),
    )


def _skipped(of: Generation, subsets: Mapping[int, Sequence[tuple[str, ...]]]) -> dict[int, int]:
    counts = {size: comb(len(of.names), size) - len(found) for size, found in subsets.items()}
    return {size: count for size, count in counts.items() if count}


def _put_together(
    of: Generation, subsets: Mapping[int, Sequence[tuple[str, ...]]], results: Mapping[str, Any]
) -> Evaluation:
    estimator, rows = of.estimator, of.rows
    generated: list[SubsetPart] = [
        results[f"given {'+'.join(given)}"] for found in subsets.values() for given in found
    ]
    joint = {name: results[name] for name in ("joint", "joint_fitted") if name in results}
    rebuilt: RebuiltPart = results["reconstruction"]
    radius = estimator.radius
    real = of.features.real() if of.networks else {}
    likelihoods = {
        name.removeprefix("likelihood "): part
        for name, part in results.items()
        if isinstance(part, LikelihoodPart)
    }
    predictions = {
        direction(part.given, target): found
        for part in generated
        for target, found in part.predictions.items()
    }
    shares = _coherence(of, generated, joint, rebuilt)
    many = agreement_on_targets(results["one to many"], of.clusters_of(agreement_rows(of)))
    return Evaluation(
        facts=estimator.facts(),
        recipe=estimator.config.recipe,
        rows=len(rows.chosen),
        rows_by_observed={len(part.given): part.rows for part in generated},
        seed=of.seed,
        trained_with_seed=estimator.config.seed,
        coherence=None if shares is None else shares.model_copy(update={"one_to_many": many}),
        frechet={
            network.name: frechet(
                network.name,
                of.features.feature_counts[network.name],
                generated,
                joint,
                real,
                rows=of.compared,
                reference_rows=len(rows.reference),
                reference_full=of.features.reference_full,
                manifold_rows=of.features.manifold_rows,
                is_apart=rows.is_apart,
            )
            for network in of.networks
            if network.name in of.features.feature_counts
        },
        networks={
            network.name: about
            for network in of.networks
            if (about := getattr(network, "about", ""))
        },
        reconstruction=rebuilt.errors,
        diversity=results["diversity"].spaces,
        classifiers={} if of.classifiers is None else of.classifiers.accuracy,
        log_likelihood={name: part.value for name, part in likelihoods.items()},
        likelihood_checks={name: part.check for name, part in likelihoods.items()},
        posterior_log_density=results["posterior density"].values,
        sampler=results["sampler"],
        sampler_by_subset={
            "+".join(part.given): part.sampler for part in generated if len(part.given) > 1
        },
        gaps=inference_gaps(of, results, results[_likelihood_name(None, "")].rows),
        latent=Latent(
            radius=radius if math.isfinite(radius) else None,
            redrawn={
                part.given[0]: part.contacts or 0.0 for part in generated if len(part.given) == 1
            },
            largest_norm=max((p.norm for p in generated if len(p.given) == 1), default=0.0),
        ),
        shared=_projections(of) if estimator.can_project and rows.is_complete else None,
        predictions=predictions,
        predictions_by_observed=prediction_means([*predictions.values()]),
        prediction_sentence=prediction_sentence([*predictions.values()]),
        subsets_skipped=_skipped(of, subsets),
        distinct=_distinct(of),
        method=method_of(
            estimator.config, sampled=any(p.sampler.method != "exact" for p in generated)
        ),
        presence=None if rows.present is None else _presence(of, generated),
    )


def _coherence(
    of: Generation,
    generated: Sequence[SubsetPart],
    joint: Mapping[str, JointPart],
    rebuilt: RebuiltPart,
) -> Coherence | None:
    """Shares of the right class, on rows whose class is known."""
    labels = of.test.labels
    if of.classifiers is None or labels is None:
        return None
    if of.rows.present is None:
        return coherence(generated, joint, rebuilt.kept, labels[of.rows.chosen], of.clusters)
    measured = [part for part in generated if part.at]
    if not measured:
        return None
    used = np.unique(np.concatenate([part.at for part in measured]))
    places = [np.searchsorted(used, part.at) for part in measured]
    return coherence(measured, joint, rebuilt.kept, labels[used], of.clusters_of(used), places)


def _presence(of: Generation, generated: Sequence[SubsetPart]) -> MeasuredRows:
    present = of.rows.present
    assert present is not None
    return MeasuredRows(
        rows=len(of.test),
        complete=int(present.complete.sum()),
        labelled=None if present.labelled is None else int(present.labelled.sum()),
        full={name: int(mask.sum()) for name, mask in present.full.items()},
        has={name: int(mask.sum()) for name, mask in present.has.items()},
        given={"+".join(part.given): part.rows for part in generated},
    )


def _distinct(of: Generation) -> dict[str, int]:
    """Modality -> different items among the chosen rows."""
    found = {}
    for name, column in of.test.columns().items():
        if name in of.names:
            index = of.rows.chosen if column.index is None else column.index[of.rows.chosen]
            found[name] = len(np.unique(index[index >= 0]))
    return found


def _intervals(
    of: Generation, subsets: Mapping[int, Sequence[tuple[str, ...]]], results: Mapping[str, Any]
) -> CalibratedIntervals:
    margins = {}
    for found in subsets.values():
        for given in found:
            part: SubsetPart = results[f"given {'+'.join(given)}"]
            for target, wide in part.margins.items():
                margins[direction(given, target)] = np.array(wide)
    if entry_shares(of.test):  # of single values, too
        gaps = of.estimator.calibrate_gaps(of.test, n=PREDICTIVE_DRAWS, seed=of.seed)
        margins = {**gaps.margins, **margins}
    return CalibratedIntervals(LEVELS, PREDICTIVE_DRAWS, margins)


def _likelihood(
    of: Generation, source: str | None, target: str, rows: int | None = None
) -> LikelihoodPart:
    """Log p(X) of the model, or of one modality given another."""
    settings = of.estimator.config.evaluation
    names = () if source is None else (source, target)
    every = of.rows.having(names, settings.rows) if names else of.rows.chosen
    at = every[: settings.importance_rows][:rows]
    scored = of.taken(at, of.names if source is None else [target])
    draws = settings.importance_draws if source is None else _draws_given_one(of, source)
    found = of.estimator.log_likelihood(
        scored,
        given=None if source is None else of.taken(at, [source]),
        n=draws,
        seed=of.seed,
        full_output=True,
    )
    return LikelihoodPart(
        value=of.estimate(found.values, at),
        rows=found.values.tolist(),
        check=_importance_check(found.ess, found.khat, draws),
    )


def _draws_given_one(of: Generation, source: str) -> int:
    """Draws per row of a likelihood given one modality: fewer where densities cost much."""
    draws: int = of.estimator.config.evaluation.importance_draws
    solves = getattr(of.estimator, "solves_densities", None)
    row = of.rows.having([source], 1)[:1]
    if solves is None or not len(row) or not solves(of.taken(row, [source])):
        return draws
    return max(1, draws // SOLVED_SHARE)


def _importance_check(ess: NDArray[Any], khat: NDArray[Any], draws: int) -> ImportanceCheck:
    bad = float(np.mean(khat > 0.7))
    verdict: Verdict = "good"
    advice = "Nothing to do: weights are even enough."
    if bad > 0.05:
        verdict = "look closer" if bad <= 0.5 else "do not trust"
        advice = (
            f"In {100 * bad:.0f} % of rows a few draws carry the weight (Pareto k above 0.7), so "
            "that the likelihood is too low by an unknown amount: raise "
            "evaluation.importance_draws, and compare it with other models with care."
        )
    return ImportanceCheck(
        draws=draws,
        ess_median=float(np.median(ess)),
        ess_worst=float(np.min(ess)),
        khat_worst=min(float(np.max(khat)), 1e3),
        rows_khat_above_0_7=bad,
        verdict=verdict,
        advice=advice,
    )


def _posterior_log_density(of: Generation) -> EstimatesPart:
    """Log q(z|x_j) at draws z ~ q(z|X) of held-out rows; nothing of posteriors without density."""
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in of.names}
    rows: dict[str, list[NDArray[np.int64]]] = {name: [] for name in of.names}
    rng = generator(of.seed, "posterior density")
    for place, at in batches(of.rows.chosen):
        x = of.taken(at, of.names)
        if of.estimator.can_encode:
            loc, scale = of.estimator.encode(x)
            z = loc + scale * rng.standard_normal(loc.shape, np.float32)
        else:
            z = of.estimator.draw(x, 1, seed=of.batch_seed(("posterior density",), place)).z[0]
        for name, values in found.items():
            kept = of.rows.has(name, at)
            try:
                values.append(of.estimator.posterior_log_prob(z[kept], of.taken(at[kept], [name])))
            except UsageError:
                continue
            rows[name].append(at[kept])
    return EstimatesPart(
        values={
            name: of.estimate(np.concatenate(values), np.concatenate(rows[name]))
            for name, values in found.items()
            if sum(map(len, values))
        }
    )


def _sampler(of: Generation) -> SamplerCheck:
    """How the sampler fares on the rule for subsets with all modalities given, on some rows."""
    estimator = of.estimator
    some = of.taken(of.rows.chosen[: estimator.config.evaluation.sampler_rows], of.names)
    draws = estimator.draw(some, SAMPLER_DRAWS, seed=of.seed, combine=True)
    return SamplerCheck.of(
        draws.diagnostics.summary(),
        name=estimator.config.sampler.kind,
        given="+".join(of.names),
        rows=draws.z.shape[1],
        largest_norm=float(np.linalg.norm(draws.z, axis=-1).max()),
    )


def _projections(of: Generation) -> Projections:
    parts = [of.estimator.project(of.taken(at, of.names)) for _, at in batches(of.rows.chosen)]
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
