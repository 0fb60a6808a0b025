"""Rules for draws: acceptance, divergences, R-hat, effective sizes, weights, the ball."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mvflow.evaluation.checks import Check, Level, check_of, grade_high, grade_low, number
from mvflow.evaluation.result import SamplerSummary, SubsetSampler
from mvflow.evaluation.values import Verdict
from mvflow.inference import Diagnostics

__all__ = [
    "VERDICTS",
    "acceptance",
    "check_sampler",
    "contacts",
    "divergences",
    "effective",
    "kept_steps",
    "proper",
    "redrawn",
    "rhat",
    "sampler_checks",
    "weights",
]

VERDICTS: tuple[Verdict, ...] = ("good", "look closer", "do not trust")
"""From best to worst."""


def acceptance(mean: float, lowest: float) -> Check:
    """Share of proposals that were accepted, over all and in the row with the fewest.

    Examples:
        >>> acceptance(0.83, 0.7).verdict, acceptance(0.83, 0.1).verdict
        ('good', 'do not trust')
    """
    advice: dict[Level, str] = {
        "good": "Nothing to do: steps are of a sensible size.",
        "look closer": "The step size has not settled: use a longer warm-up (sampler.warmup).",
        "do not trust": "Chains stand still: lengthen the warm-up (sampler.warmup), and look at "
        "the rows with the lowest acceptance.",
    }
    levels = grade_high(mean, 0.6, 0.4), grade_high(lowest, 0.4, 0.2), grade_low(mean, 0.97, 1.0)
    return check_of("Acceptance", f"{mean:.2f} (worst row {lowest:.2f})", advice, *levels)


def divergences(count: int, steps: int) -> Check:
    """Proposals that ran away numerically, of `steps` proposals in all; zero if that is not known.

    Examples:
        >>> [divergences(n, 1000).verdict for n in (0, 10, 11)]
        ['good', 'look closer', 'do not trust']
    """
    value = f"{count:,} of {steps:,} proposals" if steps else f"{count:,} proposals"
    advice: dict[Level, str] = {
        "good": "Nothing to do: no step ran away.",
        "look closer": "A few steps ran away and were rejected: a longer warm-up "
        "(sampler.warmup) usually removes them.",
        "do not trust": "Many steps ran away: regions of the posterior are missed. Lengthen the "
        "warm-up (sampler.warmup) first.",
    }
    return check_of("Divergences", value, advice, grade_low(count, 0, 0.01 * steps))


def rhat(highest: float, above: float, median: float, far: float | None = None) -> Check:
    """Do chains that ran apart agree? 1 is perfect; sound short chains exceed 1.05 in a few rows.

    Args:
        highest: largest R-hat of all rows.
        above: share of rows whose R-hat is above 1.05.
        median: R-hat of the typical row.
        far: share of rows above 1.2; None if it is not known.

    Examples:
        >>> cases = (1.05, 0.0), (1.2, 0.5), (3.0, 0.05), (3.0, 0.06)
        >>> [rhat(highest, above, 1.0).verdict for highest, above in cases]
        ['good', 'look closer', 'look closer', 'do not trust']
    """
    if far is None:
        far = 0.0 if highest <= 1.2 else above
    value = f"median {median:.2f}, worst {highest:.2f}; above 1.05 in {100 * above:.0f} % of rows"
    advice: dict[Level, str] = {
        "good": "Nothing to do: all chains reached the same region.",
        "look closer": "Some chains disagree: draw longer (sampler.draws), with more chains "
        "(sampler.chains).",
        "do not trust": "Chains of one row sit in different places, so shares between modes are "
        "arbitrary: take draws as examples, not as probabilities; draw longer (sampler.draws), "
        "which helps only if modes are connected.",
    }
    levels = (
        grade_low(highest, 1.2, math.inf),
        grade_low(above, 0.05, 1.0),
        grade_low(far, 0.05, 0.05),
    )
    return check_of("R-hat", value, advice, *levels)


def effective(lowest: float, median: float, kept: int) -> Check:
    """How many independent draws the kept steps of a row are worth.

    Examples:
        >>> cases = (100.0, 150.0), (10.0, 20.0), (10.0, 19.0), (9.9, 150.0)
        >>> [effective(lowest, median, 200).verdict for lowest, median in cases]
        ['good', 'look closer', 'do not trust', 'do not trust']
    """
    of = f"{kept:,}" if kept else "all"
    value = f"median {median:.0f}, worst {lowest:.0f}, of {of} kept steps"
    advice: dict[Level, str] = {
        "good": "Nothing to do: draws are diverse.",
        "look closer": "Averages over draws of one row are coarse: raise sampler.draws.",
        "do not trust": "The worst rows have few independent draws: raise sampler.draws fivefold "
        "or more.",
    }
    levels = grade_high(lowest, 100, 10), grade_high(median, 20, 20)
    return check_of("Effective sample size", value, advice, *levels)


def weights(lowest: float, median: float, heavy: float, dominated: int) -> Check:
    """Importance weights: effective number of candidates per row, and how heavy their tails are.

    Args:
        lowest: least effective sample size of a row.
        median: effective sample size of the median row.
        heavy: share of rows whose Pareto shape exceeds 0.7.
        dominated: rows in which one candidate has more than half of the weight.

    Examples:
        >>> cases = (150.0, 300.0, 0.0, 0), (30.0, 90.0, 0.04, 0), (6.0, 50.0, 0.4, 0)
        >>> [weights(*case).verdict for case in cases]
        ['good', 'look closer', 'do not trust']
    """
    value = (
        f"effective draws: median {median:.0f}, worst {lowest:.0f}; "
        f"heavy tails in {100 * heavy:.0f} % of rows"
    )
    advice: dict[Level, str] = {
        "good": "Nothing to do: many draws count.",
        "look closer": "A few draws carry most of the weight: raise sampler.candidates.",
        "do not trust": "The experts hardly overlap, so few draws count: raise "
        "sampler.candidates, or use Markov chains (sampler.kind=hmc).",
    }
    levels = grade_high(lowest, 100, 10), grade_low(heavy, 0.0, 0.05), grade_low(dominated, 0, 0)
    return check_of("Importance weights", value, advice, *levels)


def contacts(share: float) -> Check:
    """Share of proposals that fell outside the ball in which latents are kept.

    Examples:
        >>> [contacts(s).verdict for s in (0.01, 0.1, 0.11)]
        ['good', 'look closer', 'do not trust']
    """
    advice: dict[Level, str] = {
        "good": "Nothing to do: the ball is not felt.",
        "look closer": "The product reaches the edge of what training saw: look at the odd "
        "samples.",
        "do not trust": "The product is held together by the ball alone: divide by the aggregated "
        "posterior in place of the prior, or train another posterior family.",
    }
    value = f"{100 * share:.1f} % of proposals"
    return check_of("Ball contacts", value, advice, grade_low(share, 0.01, 0.1))


def proper(improper: int, rows: int) -> Check:
    """Rows whose product has its mass outside the ball, however far.

    Examples:
        >>> [proper(n, 64).verdict for n in (0, 1, 7)]
        ['good', 'look closer', 'do not trust']
    """
    words = (
        "Experts are wider than the prior they are divided by: divide by the aggregated posterior "
        "instead."
    )
    advice: dict[Level, str] = {
        "good": "Nothing to do: the product has an end.",
        "look closer": words,
        "do not trust": words,
    }
    value = f"{improper} of {rows} rows improper"
    return check_of("Proper target", value, advice, grade_low(improper, 0, 0.1 * rows))


def redrawn(shares: Mapping[str, float]) -> Check:
    """Share of draws given one modality that fell outside the ball and were drawn again.

    Examples:
        >>> [redrawn({"a": 0.0, "b": s}).verdict for s in (0.01, 0.05, 0.06)]
        ['good', 'look closer', 'do not trust']
    """
    name = max(sorted(shares), key=lambda key: (math.isnan(shares[key]), shares[key]))
    advice: dict[Level, str] = {
        "good": "Nothing to do: single modalities are drawn exactly, and almost all draws count.",
        "look closer": "The posterior leaks a little beyond what training saw: try another "
        "family.",
        "do not trust": "The posterior puts much mass where no data lie: try another family.",
    }
    value = f"{100 * shares[name]:.2f} % (most: given {name})"
    return check_of("Share redrawn", value, advice, grade_low(shares[name], 0.01, 0.05))


def sampler_checks(
    summary: SamplerSummary, rows: int, steps: int, far: float | None = None
) -> list[Check]:
    """Verdicts on all diagnostics of a sampler; none of draws that are exact.

    Args:
        summary: of its draws.
        rows: how many it is of.
        steps: kept steps of a row, over all its chains; 0 if that is not known.
        far: share of rows with R-hat above 1.2; None if it is not known.
    """
    s, checks = summary, []
    if s.method == "mcmc":
        checks = [
            acceptance(number(s.acceptance), number(s.acceptance_worst)),
            divergences(s.divergences or 0, rows * steps),
            rhat(number(s.rhat_worst), number(s.rows_above_1_05), number(s.rhat_median), far),
            effective(number(s.ess_worst), number(s.ess_median), steps),
        ]
        if s.ball_contacts is not None:
            checks.append(contacts(s.ball_contacts))
        if s.rows_improper is not None:
            checks.append(proper(s.rows_improper, rows))
    if s.method == "sir":
        low, median, heavy = s.ess_worst, s.ess_median, s.rows_khat_above_0_7
        checks = [weights(number(low), number(median), number(heavy), s.rows_dominated or 0)]
    return checks


def kept_steps(sampler: Any) -> int:
    """Kept steps of one row over all chains, by a sampler's settings; 0 if it has no chains."""
    return int(getattr(sampler, "chains", 0) * getattr(sampler, "draws", 0))


def check_sampler(diagnostics: Diagnostics, rows: int, sampler: Any) -> SubsetSampler:
    """Summary of the draws given one subset; where a sampler made them, its worst diagnostic."""
    summary: dict[str, Any] = diagnostics.summary()
    if diagnostics.method == "exact":
        return SubsetSampler.of(summary)
    if diagnostics.rhat.size:
        summary["rows_above_1.2"] = float(np.mean(diagnostics.rhat > 1.2))
    subset = SubsetSampler.of(summary)
    checks = sampler_checks(subset, rows, kept_steps(sampler), subset.rows_above_1_2)
    poor = max(checks, key=lambda check: VERDICTS.index(check.verdict))
    advice = poor.advice
    if poor.verdict != "good":
        advice = f"{poor.name}, {poor.value}: {advice[0].lower()}{advice[1:]}"
    return subset.model_copy(update={"verdict": poor.verdict, "advice": advice})
