"""Can the draws be trusted? A verdict on each diagnostic of the sampler, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from mvflow.evaluation import Evaluation
    from mvflow.inference import Sampler

__all__ = [
    "Check",
    "acceptance",
    "checks",
    "contacts",
    "divergences",
    "effective",
    "redrawn",
    "rhat",
]

Verdict = Literal["good", "look closer", "do not trust"]


class Check(NamedTuple):
    """One diagnostic: its value, what to think of it and what to do."""

    name: str
    value: str
    verdict: Verdict
    advice: str


def acceptance(mean: float, worst: float) -> Check:
    """Share of proposals that were accepted; the sampler aims at 0.8.

    Examples:
        >>> acceptance(0.83, 0.7).verdict, acceptance(0.83, 0.1).verdict
        ('good', 'do not trust')
    """
    verdict: Verdict = "look closer"
    advice = "The step size has not settled: use a longer warm-up (sampler.warmup)."
    if worst < 0.2 or mean < 0.4:
        verdict = "do not trust"
        advice = "Chains stand still: lengthen the warm-up, and look at the rows with the lowest."
    elif 0.6 <= mean <= 0.97 and worst >= 0.4:
        verdict, advice = "good", "Nothing to do: steps are of a sensible size."
    return Check("Acceptance", f"{mean:.2f} (worst row {worst:.2f})", verdict, advice)


def divergences(count: int, steps: int) -> Check:
    """Proposals that ran away numerically, of `steps` proposals in all; zero if that is not known.

    Examples:
        >>> [divergences(n, 1000).verdict for n in (0, 10, 11)]
        ['good', 'look closer', 'do not trust']
    """
    value = f"{count:,} of {steps:,} proposals" if steps else f"{count:,} proposals"
    if count == 0:
        return Check("Divergences", value, "good", "Nothing to do: no step ran away.")
    if count <= 0.01 * steps:
        advice = "A few steps ran away and were rejected: a longer warm-up usually removes them."
        return Check("Divergences", value, "look closer", advice)
    advice = (
        "Many steps ran away: regions of the posterior are missed. Lengthen the warm-up first."
    )
    return Check("Divergences", value, "do not trust", advice)


def rhat(worst: float, above: float, median: float) -> Check:
    """Do chains that ran apart agree? 1 is perfect agreement.

    Args:
        worst: largest R-hat of all rows.
        above: share of rows whose R-hat is above 1.05.
        median: R-hat of the typical row.

    Examples:
        >>> cases = (1.05, 0.0), (1.2, 0.5), (3.0, 0.05), (3.0, 0.06)
        >>> [rhat(worst, above, 1.0).verdict for worst, above in cases]
        ['good', 'look closer', 'look closer', 'do not trust']
    """
    value = f"median {median:.2f}, worst {worst:.2f}; above 1.05 in {100 * above:.0f} % of rows"
    if worst <= 1.05:
        return Check("R-hat", value, "good", "Nothing to do: all chains found the same region.")
    if worst <= 1.2 or above <= 0.05:
        advice = "Some chains disagree: draw longer (sampler.draws), and use more chains."
        return Check("R-hat", value, "look closer", advice)
    advice = (
        "Chains of one row sit in different places, so shares between modes are arbitrary: treat "
        "draws as examples, not as probabilities; longer chains help only if modes are connected."
    )
    return Check("R-hat", value, "do not trust", advice)


def effective(worst: float, median: float, kept: int) -> Check:
    """How many independent draws the kept steps of a row are worth.

    Examples:
        >>> cases = (100.0, 150.0), (10.0, 20.0), (10.0, 19.0), (9.9, 150.0)
        >>> [effective(worst, median, 200).verdict for worst, median in cases]
        ['good', 'look closer', 'do not trust', 'do not trust']
    """
    of = f"{kept:,}" if kept else "all"
    value = f"median {median:.0f}, worst {worst:.0f}, of {of} kept steps"
    if worst >= 100:
        return Check("Effective sample size", value, "good", "Nothing to do: draws are diverse.")
    if worst >= 10 and median >= 20:
        advice = "Averages over draws of one row are coarse: raise sampler.draws."
        return Check("Effective sample size", value, "look closer", advice)
    advice = "The worst rows have few independent draws: raise sampler.draws fivefold or more."
    return Check("Effective sample size", value, "do not trust", advice)


def weights(worst: float, median: float, heavy: float, dominated: int) -> Check:
    """Importance weights: effective number of candidates per row, and how heavy their tails are.

    Args:
        worst: least effective sample size of a row.
        median: effective sample size of the median row.
        heavy: share of rows whose Pareto shape exceeds 0.7.
        dominated: rows in which one candidate has more than half of the weight.

    Examples:
        >>> cases = (150.0, 300.0, 0.0, 0), (30.0, 90.0, 0.04, 0), (6.0, 50.0, 0.4, 0)
        >>> [weights(*case).verdict for case in cases]
        ['good', 'look closer', 'do not trust']
    """
    value = (
        f"effective draws: median {median:.0f}, worst {worst:.0f}; "
        f"heavy tails in {100 * heavy:.0f} % of rows"
    )
    if worst >= 100 and heavy == 0:
        return Check("Importance weights", value, "good", "Nothing to do: many draws count.")
    if worst >= 10 and heavy <= 0.05 and not dominated:
        advice = "A few draws carry most of the weight: raise sampler.candidates."
        return Check("Importance weights", value, "look closer", advice)
    advice = "The experts hardly overlap, so few draws count: use the sampler hmc."
    return Check("Importance weights", value, "do not trust", advice)


def contacts(share: float) -> Check:
    """Share of proposals that fell outside the ball in which latents are kept.

    Examples:
        >>> [contacts(s).verdict for s in (0.01, 0.1, 0.11)]
        ['good', 'look closer', 'do not trust']
    """
    value = f"{100 * share:.1f} % of proposals"
    if share <= 0.01:
        return Check("Ball contacts", value, "good", "Nothing to do: the ball is not felt.")
    if share <= 0.1:
        advice = "The product reaches the edge of what training saw: look at the odd samples."
        return Check("Ball contacts", value, "look closer", advice)
    advice = (
        "The product is held together by the ball alone: divide by the aggregated posterior "
        "in place of the prior, or train another posterior family."
    )
    return Check("Ball contacts", value, "do not trust", advice)


def proper(improper: int, rows: int) -> Check:
    """Rows whose product has its mass outside the ball, however far.

    Examples:
        >>> [proper(n, 64).verdict for n in (0, 1, 7)]
        ['good', 'look closer', 'do not trust']
    """
    value = f"{improper} of {rows} rows improper"
    if improper == 0:
        return Check("Proper target", value, "good", "Nothing to do: the product has an end.")
    advice = (
        "Experts are wider than the prior they are divided by: divide by the aggregated posterior "
        "instead."
    )
    few = improper <= 0.1 * rows
    return Check("Proper target", value, "look closer" if few else "do not trust", advice)


def redrawn(shares: Mapping[str, float]) -> Check:
    """Share of draws given one modality that fell outside the ball and were drawn again.

    Examples:
        >>> [redrawn({"a": 0.0, "b": s}).verdict for s in (0.01, 0.05, 0.06)]
        ['good', 'look closer', 'do not trust']
    """
    name = max(shares, key=shares.__getitem__)
    share = shares[name]
    value = f"{100 * share:.2f} % (most: given {name})"
    if share <= 0.01:
        advice = "Nothing to do: single modalities are drawn exactly, and almost all draws count."
        return Check("Share redrawn", value, "good", advice)
    if share <= 0.05:
        advice = "The posterior leaks a little beyond what training saw: try another family."
        return Check("Share redrawn", value, "look closer", advice)
    advice = "The posterior puts much mass where no data lie: train it longer, or use another one."
    return Check("Share redrawn", value, "do not trust", advice)


def checks(metrics: Evaluation, sampler: Sampler) -> list[Check]:
    """Verdicts on all diagnostics that an evaluation holds; none of draws that are all exact.

    Args:
        metrics: of the model.
        sampler: its settings, of which `chains` and `draws` tell the number of steps.
    """
    found, s = [], metrics.sampler
    steps = getattr(sampler, "chains", 0) * getattr(sampler, "draws", 0)
    if s.method == "mcmc":
        found = [
            acceptance(_number(s.acceptance), _number(s.acceptance_worst)),
            divergences(s.divergences or 0, s.rows * steps),
            rhat(_number(s.rhat_worst), _number(s.rows_above_1_05), _number(s.rhat_median)),
            effective(_number(s.ess_worst), _number(s.ess_median), steps),
        ]
        if s.ball_contacts is not None:
            found.append(contacts(s.ball_contacts))
        if s.rows_improper is not None:
            found.append(proper(s.rows_improper, s.rows))
    if s.method == "sir":
        worst, median, heavy = s.ess_worst, s.ess_median, s.rows_khat_above_0_7
        found = [weights(_number(worst), _number(median), _number(heavy), s.rows_dominated or 0)]
    has_ball = metrics.latent.radius is not None and metrics.latent.redrawn
    return [*found, redrawn(metrics.latent.redrawn)] if has_ball else found


def _number(value: float | None) -> float:
    return math.nan if value is None else value
