"""How far posteriors are from what they approximate: of all modalities, and of single ones."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import UNLABELLED, UsageError, generator
from mvflow.estimators import Estimator
from mvflow.evaluation.generation import Generation
from mvflow.evaluation.parts import GapPart, Part
from mvflow.evaluation.result import ExcessDivergence, InferenceGaps
from mvflow.evaluation.rows import Indices
from mvflow.functional import average_divergence_bounds
from mvflow.metrics import Estimate, mean_and_error

__all__ = ["gap_parts", "inference_gaps", "prior_divergences"]

BOUND_DRAWS = 100
EXCESS_ROWS, EXCESS_DRAWS = 50, 20
LARGEST = 1e6
"""Nats that stand for infinity."""
PARTNERS = 32
"""Rows over which q(z|X) is averaged, at most."""


def gap_parts(of: Generation) -> list[Part]:
    """What to compute; nothing of models without a bound, or where no row is complete."""
    if not hasattr(of.estimator, "evidence_lower_bound") or not of.rows.is_complete:
        return []
    count = min(of.estimator.config.evaluation.importance_rows, len(of.rows.chosen))
    compute = partial(_bound, of)
    bound = Part("bound", GapPart, compute, "bound", pilot=compute, rows=count)
    excess = [Part(f"excess {name}", GapPart, partial(_excess, of, name)) for name in of.names]
    return [bound, *(excess if len(of.names) > 1 else [])]


def _bound(of: Generation, rows: int | None = None) -> GapPart:
    """Evidence lower bounds, and how far q(z|X) is from the posteriors of single modalities."""
    at = of.rows.chosen[: of.estimator.config.evaluation.importance_rows][:rows]
    x = of.taken(at, of.names)
    try:
        bound = of.estimator.evidence_lower_bound(x, n=BOUND_DRAWS, seed=of.seed)
    except UsageError:  # q(z|X) has no density
        return GapPart()
    divergences = {}
    for name in of.names:
        try:
            log_prob = of.estimator.posterior_log_prob(bound.z, of.taken(at, [name]))
        except UsageError:  # its posterior has no density
            continue
        divergences[name] = (bound.log_prob - log_prob).mean(0).tolist()
    from_prior = prior_divergences(of.estimator, bound.z, bound.log_prob)
    return GapPart(
        rows=bound.values.tolist(), divergences=divergences, from_prior=from_prior.tolist()
    )


def prior_divergences(
    estimator: Estimator, z: NDArray[np.float32], log_prob: NDArray[np.float64]
) -> NDArray[np.float64]:
    """KL(q(z|X) || p(z)) in nats, (rows,), of the model's own prior.

    Args:
        estimator: the model.
        z: draws of q(z|X), (n, rows, latent_dim).
        log_prob: log q(z|X) of these, (n, rows).
    """
    prior = estimator.prior_log_prob(z, estimator.priors()[0])
    return np.asarray((log_prob - prior).mean(0))


def _excess(of: Generation, name: str) -> GapPart:
    """Bounds on KL(q_avg(z|x_j) || q(z|x_j)) of some rows, over partners of the same x_j."""
    rows, partners = _partners(of, name)
    if not len(rows):
        return GapPart()
    estimator, x = of.estimator, of.taken(rows, of.names)
    try:
        bound = estimator.evidence_lower_bound(x, n=EXCESS_DRAWS, seed=of.seed)
        single = estimator.posterior_log_prob(bound.z, of.taken(rows, [name]))
    except UsageError:
        return GapPart()
    others = []
    for column in partners.T:
        theirs = of.taken(column, of.names)
        own = {k: v for k, v in x.items() if k == name or k not in of.names}
        others.append(estimator.posterior_log_prob(bound.z, {**theirs, **own}))
    lower, upper = average_divergence_bounds(bound.log_prob, np.stack(others), single)
    places = np.flatnonzero(np.isin(of.rows.chosen[:EXCESS_ROWS], rows))
    lower, upper = (np.maximum(bound, -LARGEST) for bound in (lower, upper))
    values = (lower.tolist(), upper.tolist(), places.tolist())
    return GapPart(excess={name: values}, partners=len(others))


def _partners(of: Generation, name: str) -> tuple[Indices, Indices]:
    """Rows whose item of a modality recurs, and other rows that it could have come with.

    Where rows have classes, items are paired by class: those of the same class; else rows with
    the same item. The numbers of partners are equal.
    """
    columns = of.test.columns()
    index = columns[name].index
    complete = np.ones(len(of.test), bool)
    for modality in of.names:
        other = columns[modality].index
        complete &= True if other is None else other >= 0
    if of.test.labels is not None:
        complete &= of.test.labels != UNLABELLED
    if index is None or len(np.unique(index[complete])) == complete.sum():
        return np.zeros(0, np.int64), np.zeros((0, 0), np.int64)
    groups = index if of.test.labels is None else of.test.labels
    rng, found = generator(of.seed, "partners", name), {}
    for row in of.rows.chosen[:EXCESS_ROWS]:
        alike = np.flatnonzero(complete & (groups == groups[row]))
        alike = alike[alike != row]
        if complete[row] and len(alike):
            found[row] = rng.permutation(alike)[:PARTNERS]
    count = max((len(each) for each in found.values()), default=0)
    full = {row: each for row, each in found.items() if len(each) == count}
    rows = np.array([*full], np.int64)
    return rows, np.array([*full.values()], np.int64).reshape(len(rows), count)


def inference_gaps(
    of: Generation, results: Mapping[str, Any], likelihoods: list[float]
) -> InferenceGaps | None:
    """All gaps, from finished parts and log p(X) by row; None where q(z|X) has no density."""
    part: GapPart = results.get("bound", GapPart())
    if not part.rows:
        return None
    bound, divergences = np.array(part.rows), part.divergences
    information = None
    if len(of.names) == 2 == len(divergences):
        information = of.estimate(np.sum([*divergences.values()], 0) - bound)
    excess = {
        name: _estimated(of, *found, partners=each.partners)
        for each in results.values()
        if isinstance(each, GapPart)
        for name, found in each.excess.items()
    }
    return InferenceGaps(
        gap=of.estimate(np.array(likelihoods) - bound),
        elbo=of.estimate(bound),
        divergences={name: of.estimate(values) for name, values in divergences.items()},
        variation_of_information=information,
        excess=excess,
        from_prior=of.estimate(part.from_prior) if part.from_prior else None,
    )


def _estimated(
    of: Generation, lower: list[float], upper: list[float], places: list[int], partners: int
) -> ExcessDivergence:
    clusters: NDArray[Any] = of.clusters[places]
    least, most = (mean_and_error(values, clusters) for values in (lower, upper))
    zero = Estimate(max(least.mean, 0.0), least.standard_error)  # no divergence is negative
    return ExcessDivergence(at_least=zero, at_most=most, partners=partners)
