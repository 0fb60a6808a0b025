"""The prior for draws without any observation, chosen on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.core import ConfigError, Source, UsageError, generator, registry
from mvflow.estimators import Estimator
from mvflow.metrics import Estimate, mean_and_error

__all__ = ["PriorScore", "best_prior", "score_priors"]

FIT_ROWS, SCORED_ROWS = 10_000, 2000
"""Most rows that a prior is fitted to, and scored on."""
SHARE = 0.2
"""Of the rows, those that are held out."""


class PriorScore(NamedTuple):
    """A kind of prior on held-out rows."""

    kind: str
    log_density: Estimate | None
    """Mean of log p(z), z ~ q(z|X), in nats a row: what the ELBO gains by it. None if the system
    cannot have this kind."""
    difference: Estimate | None
    """From the first of those compared, over the same rows."""
    why_not: str = ""
    """Why it cannot be had."""


def score_priors(
    model: Estimator,
    source: Source,
    kinds: Sequence[str] | None = None,
    *,
    seed: int = 0,
    callback: Callable[[PriorScore], object] | None = None,
) -> list[PriorScore]:
    """Fit priors of several kinds to some training rows, and score them on held-out ones.

    No stored value of the modality that repeats the most is on both sides. The model stays as it
    is.

    Args:
        model: trained; all of its stages but that of a prior.
        source: training rows.
        kinds: of priors; by default all that are installed, p(z) itself first.
        seed: of the rows, the draws and the fits.
        callback: told of each score.

    Raises:
        UsageError: if there is no such kind.

    Examples:
        >>> from mvflow import JNF, Modality
        >>> rows = {name: np.random.default_rng(0).normal(size=(60, 2)) for name in "ab"}
        >>> specs, short = [Modality("a", (2,)), Modality("b", (2,))], {"epochs": 1}
        >>> model = JNF(specs, latent_dim=2, joint=short, flows=short).fit(rows)
        >>> kinds = ["standard", "mixture"]
        >>> [s.kind for s in score_priors(model, model.as_source(rows), kinds)]
        ['standard', 'mixture']
    """
    known = registry("priors")
    names = sorted(known.names(), key=lambda name: name != "standard") if kinds is None else kinds
    for name in names:
        known.load(name)
    groups = _groups(source)
    fit_at, held_at = _halves(groups, seed)
    rows, clusters = source.take(fit_at), groups[held_at]
    z = model.with_parts(prior="standard").draw(source.take(held_at), 1, seed=seed).z[0]
    found: list[PriorScore] = []
    first: NDArray[np.float64] | None = None
    for name in names:
        try:
            fitted = model.with_parts(prior=name)
            if "prior" in fitted.stage_names:
                fitted.fit(rows, stages=["prior"])
            values = fitted.prior_log_prob(z, name)
        except ConfigError as error:
            score = PriorScore(name, None, None, str(error))
        else:
            first = values if first is None else first
            score = PriorScore(
                name, mean_and_error(values, clusters), mean_and_error(values - first, clusters)
            )
        found.append(score)
        if callback is not None:
            callback(score)
    return found


def best_prior(scores: Sequence[PriorScore]) -> str:
    """The kind with the highest held-out log-density.

    Raises:
        UsageError: if none can be had.

    Examples:
        >>> near, far = Estimate(-3.0, 0.1), Estimate(-5.0, 0.1)
        >>> best_prior([PriorScore("a", far, None), PriorScore("b", near, None)])
        'b'
    """
    known = [s for s in scores if s.log_density is not None and np.isfinite(s.log_density.mean)]
    if not known:
        msg = "none of these priors can be fitted: " + "; ".join(s.why_not for s in scores)
        raise UsageError(msg)
    return max(known, key=lambda s: s.log_density.mean if s.log_density else -np.inf).kind


def _groups(source: Source) -> NDArray[Any]:
    """(rows,): item of the modality with the fewest stored values."""
    indices = [c.index for c in source.columns().values() if c.index is not None]
    return np.asarray(
        min(indices, key=lambda index: int(index.max()), default=np.arange(len(source)))
    )


def _halves(groups: NDArray[Any], seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows to fit to and rows to score on; no group is on both sides where there are several."""
    rng = generator(seed, "priors")
    names = np.unique(groups)
    if len(names) < 1 / SHARE:  # too few to divide
        groups = names = np.arange(len(groups))
    is_held = np.isin(groups, rng.permutation(names)[: max(1, round(SHARE * len(names)))])
    fit, held = (rng.permutation(np.flatnonzero(at)) for at in (~is_held, is_held))
    return np.sort(fit[:FIT_ROWS]), np.sort(held[:SCORED_ROWS])
