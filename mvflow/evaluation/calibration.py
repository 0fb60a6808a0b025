"""Simulation-based calibration of posteriors, with the sampler's diagnostics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mvflow.core import (
    COVARIATES,
    PRESENT,
    Batch,
    NumericsError,
    Source,
    Subset,
    UsageError,
    complete_rows,
    covariate_columns,
    derive_seed,
    generator,
    subset_of,
    without_full_masks,
)
from mvflow.estimators import Estimator
from mvflow.evaluation.calibration_result import (
    Calibration,
    CoverageCurve,
    RankECDF,
    RankHistogram,
    RankPValues,
    SubsetCalibration,
)
from mvflow.evaluation.gaps import prior_divergences
from mvflow.evaluation.learning import StageCurve, stage_curves, training_advice
from mvflow.evaluation.sampler_checks import VERDICTS, check_sampler
from mvflow.evaluation.values import Verdict
from mvflow.functional import (
    coverage,
    ecdf_band,
    ecdf_difference,
    rank_counts,
    rank_statistics,
)

__all__ = ["check_calibration"]

ALPHA = 0.05
"""Probability that a calibrated model fails any of all its tests."""
BINS = 20
"""Of rank histograms, where there are rows enough."""
SHOWN = (0.5, 0.8, 0.95)
"""Levels of the intervals that are reported by coordinate."""
LEVELS = np.arange(1, 20) / 20
TOLERATED = 0.1
"""Error of a coverage, or of the mean rank, up to which a failed test is no reason for alarm."""
MIN_ROWS, MIN_DRAWS = 20, 9
DIVERGENCE_DRAWS = 20
MAX_SUBSETS = 15
"""All subsets of four modalities; of more, a choice."""

MEANING = {
    "model": (
        "True values of z are drawn from the prior and x from the decoders, so that calibrated "
        "posteriors are those of the model itself. A failure lies in the posteriors, in q(z|X), "
        "at which they are trained, or in weights and a beta that make training aim elsewhere on "
        "purpose."
    ),
    "data": (
        "True values of z are drawn from q(z|X) of real rows, so that calibrated posteriors are "
        "what training aims at: the average of q(z|X) over the rows that share what is observed. "
        "A failure lies in the posteriors or, of several modalities, in Eq. 12, which takes these "
        "averages for posteriors under the prior."
    ),
}
GUIDED = (
    " Draws that are guided (w = {:g}) are not posterior draws: they keep closer to what is "
    "observed on purpose, and are not expected to be calibrated."
)
ADVICE = {
    "guided": "guidance makes them so on purpose: without it draws are those of the posterior",
    "sampler": "mend the sampler first, whose draws are not to be trusted here",
    "singles": "calibrate the posteriors of its single modalities first, whose errors it repeats",
    "subset": "draw longer (sampler.draws), and if that changes nothing, take it as approximate",
}
"""What to do about a posterior of several modalities, or guided; else the loss curves tell."""


class _RankTests(NamedTuple):
    """How the ranks of one subset's posterior lie, by coordinate of z."""

    p_values: NDArray[np.float64]
    """(tests, latent_dim): chi-square of the histogram, Kolmogorov-Smirnov."""
    counts: NDArray[np.int64]
    expected: NDArray[np.float64]
    coverage: NDArray[np.float64]
    """(levels, latent_dim)."""
    difference: NDArray[np.float64]
    """(draws + 1, latent_dim): distribution function of the ranks less the uniform one."""
    mean: NDArray[np.float64]
    """Mean rank as a probability; 0.5 if all is well."""


def check_calibration(
    estimator: Estimator,
    data: Source | Batch | None = None,
    *,
    rows: int = 200,
    draws: int = 99,
    seed: int = 0,
    subsets: Iterable[Iterable[str]] | None = None,
    callback: Callable[[int, int, str], None] | None = None,
) -> Calibration:
    """Rank true latents among posterior draws given each subset (Talts et al. 2018).

    Args:
        estimator: the model.
        data: None simulates rows with the model, z from the prior and x from the decoders, and
            so tests whether q(z|x_S) is the model's posterior. Real rows have z from q(z|X), and
            test whether q(z|x_S) is what its training aims at.
        rows: how many latents are ranked; the more, the smaller the errors that are found.
        draws: posterior draws per row. Of a sampler's draws, which depend on each other, only
            19, spread evenly over its chains.
        seed: of all that is drawn.
        subsets: observed modalities; by default all subsets of up to four modalities, of more
            the single ones, one of each size, and all.
        callback: called before each subset with how many are done, how many there are, its name.

    Raises:
        UsageError: if there are too few rows or draws, or a modality is unknown.

    Examples:
        >>> from mvflow import JNF, Modality
        >>> rows = {name: np.random.default_rng(0).normal(size=(40, 2)) for name in "ab"}
        >>> specs, short = [Modality("a", (2,)), Modality("b", (2,))], {"epochs": 1}
        >>> model = JNF(specs, latent_dim=2, joint=short, flows=short).fit(rows)
        >>> sorted(check_calibration(model, rows=20, subsets=[["a"], ["b"]]).subsets)
        ['a', 'b']
    """
    for name, value, least in (("rows", rows, MIN_ROWS), ("draws", draws, MIN_DRAWS)):
        if value < least:
            msg = f"{name} is {value}: calibration needs at least {least}"
            raise UsageError(msg)
    against: Literal["model", "data"] = "model" if data is None else "data"
    chosen = _subsets(estimator, subsets, against)
    if data is None:
        z, x = _simulated(estimator, rows, seed)
        estimator = getattr(estimator, "of_own_draws", lambda: estimator)()
    else:
        z, x = _real(estimator, estimator.as_source(data), rows, seed)
    tests = 2 * z.shape[1] * len(chosen)
    curves = stage_curves(getattr(estimator, "history_", ()), estimator.config)
    found: dict[str, SubsetCalibration] = {}
    for i, given in enumerate(sorted(chosen, key=len)):
        if callback is not None:
            callback(i, len(chosen), "+".join(given))
        singles = [found[name].verdict for name in given if name in found]
        options: dict[str, Any] = {"tests": tests, "singles": singles, "curves": curves}
        found["+".join(given)] = _subset(estimator, given, z, x, draws=draws, seed=seed, **options)
    weight = getattr(estimator, "guidance", 0.0)
    guided = GUIDED.format(weight) if weight else ""
    verdicts = [v for f in found.values() for v in (f.verdict, f.sampler.verdict)]
    return Calibration(
        against=against,
        meaning=MEANING[against] + guided,
        rows=len(z),
        draws=draws,
        seed=seed,
        latent_dim=z.shape[1],
        tests=tests,
        alpha=ALPHA,
        outside_ball=float(np.mean(np.linalg.norm(z, axis=-1) > estimator.radius)),
        verdict=max(verdicts, key=VERDICTS.index),
        failed=[name for name, f in found.items() if f.verdict != "good"],
        subsets=found,
        from_prior=_from_prior(estimator, x, seed),
    )


def _from_prior(estimator: Estimator, x: Batch, seed: int) -> float | None:
    """Mean KL(q(z|X) || p(z)) of rows with all modalities; None where q(z|X) has no density."""
    if not hasattr(estimator, "evidence_lower_bound"):
        return None
    try:
        at = derive_seed(seed, "calibration", "prior")
        bound = estimator.evidence_lower_bound(x, n=DIVERGENCE_DRAWS, seed=at)
        return float(prior_divergences(estimator, bound.z, bound.log_prob).mean())
    except (UsageError, NumericsError):
        return None


def _subsets(
    estimator: Estimator, asked: Iterable[Iterable[str]] | None, against: str
) -> list[Subset]:
    names = sorted(m.name for m in estimator.modalities)
    if asked is not None:
        chosen = list(dict.fromkeys(subset_of(s, estimator.modalities) for s in asked))
        if not chosen or () in chosen:
            msg = "a subset to check is empty: name one modality or more"
            raise UsageError(msg)
        return chosen
    # z and the draws are both from q(z|X) where all is observed in data: nothing to be tested
    largest = len(names) - (against == "data" and len(names) > 1)
    every = [s for size in range(1, largest + 1) for s in combinations(names, size)]
    if len(every) <= MAX_SUBSETS:
        return every
    return [(n,) for n in names] + [tuple(names[:size]) for size in range(2, largest + 1)]


def _simulated(
    estimator: Estimator, rows: int, seed: int
) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Latents of the prior, and rows of all modalities drawn from the decoders.

    Of a model with covariates, each row has some at random, levels alike and numbers as the
    training rows spread: under the model they say nothing of z.
    """
    seeds = [derive_seed(seed, "calibration", what) for what in ("z", "x")]
    z = estimator.draw(None, rows, seed=seeds[0]).z[:, 0]
    rng, columns = generator(seed, "calibration", "covariates"), {}
    for covariate in estimator.config.covariate_specs():
        column = rng.normal(size=(rows, 1))
        if covariate.levels is not None:
            column = np.eye(covariate.width)[rng.integers(covariate.width, size=rows)]
        columns[COVARIATES + covariate.name] = column.astype(np.float32)
    return z, {**estimator.simulate(z, seed=seeds[1], covariates=columns), **columns}


def _real(
    estimator: Estimator, data: Source, rows: int, seed: int
) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Rows of the data that have all modalities, if there are some, and latents of q(z|X)."""
    data = complete_rows(data)
    if len(data) < MIN_ROWS:
        msg = f"the data have {len(data)} rows: calibration needs at least {MIN_ROWS}"
        raise UsageError(msg)
    taken = data.take(generator(seed, "calibration rows").permutation(len(data))[:rows])
    x = without_full_masks(taken)
    return estimator.draw(x, 1, seed=derive_seed(seed, "calibration", "z")).z[0], x


def _subset(
    estimator: Estimator,
    given: Subset,
    z: NDArray[np.float32],
    x: Batch,
    *,
    draws: int,
    seed: int,
    tests: int,
    singles: list[Verdict],
    curves: Sequence[StageCurve],
) -> SubsetCalibration:
    names = {key for name in given for key in (name, PRESENT + name)}
    observed = {**{k: v for k, v in x.items() if k in names}, **covariate_columns(x)}
    path = derive_seed(seed, "calibration", *given)
    is_several = 1 < len(given) < len(estimator.modalities)
    n = min(draws, BINS - 1) if is_several else draws
    drawn = estimator.draw(observed, n, seed=path)
    ranks = rank_statistics(z, drawn.z)
    fit = _test_ranks(ranks, n, generator(path, "ties"))
    sampler = check_sampler(drawn.diagnostics, len(z), estimator.config.sampler)
    worst = int(fit.p_values.min(0).argmin())
    p_value = min(1.0, float(fit.p_values.min()) * tests)
    kind = _kind(fit, worst)
    verdict = _verdict(fit, worst, p_value)
    if getattr(estimator, "guidance", 0.0) and (is_several or len(given) == 1):
        what_to_do = ADVICE["guided"]
    elif not estimator.can_encode or not is_several:
        what_to_do = training_advice(curves, _stages_of(estimator, given))
    elif sampler.verdict == "do not trust":
        what_to_do = ADVICE["sampler"]
    else:
        what_to_do = ADVICE["singles" if {*singles} - {"good"} else "subset"]
    return SubsetCalibration(
        given=list(given),
        draws=n,
        p_value=p_value,
        verdict=verdict,
        kind="calibrated" if verdict == "good" else kind,
        advice=_advice(fit, worst, verdict, kind, what_to_do),
        worst=worst,
        failing=int((fit.p_values.min(0) * tests < ALPHA).sum()),
        coverage={f"{c:g}": _row(fit.coverage[c == LEVELS][0]) for c in SHOWN},
        mean_rank=_row(fit.mean),
        p_values=RankPValues(chi_square=_row(fit.p_values[0]), ks=_row(fit.p_values[1])),
        histogram=RankHistogram(expected=_row(fit.expected), counts=fit.counts.T.tolist()),
        curve=CoverageCurve(
            levels=_row(LEVELS),
            mean=_row(fit.coverage.mean(1)),
            lowest=_row(fit.coverage.min(1)),
            highest=_row(fit.coverage.max(1)),
        ),
        ecdf=RankECDF(band=ecdf_band(len(z)), difference=_row(fit.difference[:, worst])),
        sampler=sampler,
    )


def _stages_of(estimator: Estimator, given: Subset) -> list[str] | None:
    """Stages that train the posterior of all modalities, or of a single one; None for all."""
    if not estimator.can_encode:
        return None
    encoder = getattr(estimator.system_, "encoder_stages", ())
    if len(given) == len(estimator.modalities) > 1:
        return list(encoder)
    return [name for name in estimator.stage_names if name not in encoder]


def _row(values: NDArray[Any]) -> list[float]:
    return [float(f"{v:.4g}") for v in values]


def _test_ranks(ranks: NDArray[np.int64], n: int, rng: np.random.Generator) -> _RankTests:
    rows = len(ranks)
    counts, expected = rank_counts(ranks, n, max(2, min(BINS, n + 1, rows // 5)))
    pearson = ((counts - expected[:, None]) ** 2 / expected[:, None]).sum(0)
    spread = (ranks + rng.random(ranks.shape)) / (n + 1)  # uniform on [0, 1], if all is well
    return _RankTests(
        np.stack(
            [
                stats.chi2.sf(pearson, len(expected) - 1),
                np.array([stats.kstest(u, "uniform").pvalue for u in spread.T]),
            ]
        ),
        counts,
        expected,
        coverage(ranks, n, LEVELS),
        ecdf_difference(ranks, n),
        (ranks.mean(0) + 0.5) / (n + 1),
    )


def _kind(fit: _RankTests, k: int) -> str:
    """What is most wrong with coordinate k: where draws lie, or how far they spread."""
    error = (fit.coverage[:, k] - LEVELS).mean()
    if abs(fit.mean[k] - 0.5) > abs(error):
        return "shifted"
    return "too narrow" if error < 0 else "too wide"


def _verdict(fit: _RankTests, k: int, p_value: float) -> Verdict:
    if p_value >= ALPHA:
        return "good"
    error = max(abs(fit.coverage - LEVELS[:, None]).max(), abs(fit.mean - 0.5).max())
    return "look closer" if error <= TOLERATED else "do not trust"


def _advice(fit: _RankTests, k: int, verdict: str, kind: str, what_to_do: str) -> str:
    """One sentence on what to do."""
    if verdict == "good":
        return "Nothing to do: true values lie among the draws as they should."
    if kind == "shifted":
        share = 1 - fit.mean[k]
        side = "above" if share > 0.5 else "below"
        share = max(share, 1 - share)
        what = f"{100 * share:.0f} % of draws of z{k} lie {side} the true value in place of 50 %"
    else:
        found = fit.coverage[LEVELS == 0.8][0][k]
        what = f"80 % intervals of z{k} hold {100 * found:.0f} % of the true values"
    return f"{kind.capitalize()} ({what}): {what_to_do}."
