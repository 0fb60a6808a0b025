"""The rule book: a verdict on each fact that is known of a model, and one on all of them.

`mvflow evaluate`, `diagnose`, `compare` and `report` all judge by these rules. A rule grades its
numbers one by one and takes the worst grade: a worse number never gives a better verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mvflow.evaluation.calibration_result import Calibration
from mvflow.evaluation.checks import (
    LEVELS,
    Check,
    Level,
    check_of,
    grade_high,
    grade_low,
    worst,
)
from mvflow.evaluation.learning import StageCurve, training_advice
from mvflow.evaluation.result import Evaluation
from mvflow.evaluation.sampler_checks import kept_steps, redrawn, sampler_checks

if TYPE_CHECKING:
    from mvflow.config import Config

__all__ = [
    "Judgement",
    "calibration",
    "chance",
    "evaluation_checks",
    "judge",
    "overfitting",
    "sample_size",
]


def calibration(result: Calibration | None, curves: Sequence[StageCurve] = ()) -> Check:
    """Whether posteriors are what they claim to be, by the worst of their subsets."""
    name = "Calibration"
    if result is None:
        words = "Run 'mvflow diagnose' to see whether posteriors are too narrow or shifted."
        return Check(name, "not diagnosed", "not checked", words)
    failed = [s for s in result.subsets.values() if s.verdict != "good"]
    value = f"posteriors given {len(failed)} of {len(result.subsets)} subsets fail"
    if not failed:
        few = "subset" if len(result.subsets) == 1 else "subsets"
        value = f"posteriors given all {len(result.subsets)} {few} pass"
        return Check(name, value, "good", "Nothing to do.")
    kinds: dict[str, int] = {}
    for subset in failed:
        kinds[subset.kind] = kinds.get(subset.kind, 0) + 1
    value += f" ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})"
    advice = training_advice(curves) if curves else failed[0].advice.rstrip(".")
    return Check(name, value, worst(s.verdict for s in failed), f"{_capital(advice)}.")


def overfitting(curves: Sequence[StageCurve]) -> Check:
    """Whether held-out loss rose while training loss fell, and the weights are of after that.

    Examples:
        >>> losses = [9, 5, 3, 2, 1], [9, 6, 5, 6, 8]
        >>> overfitting([StageCurve("joint", *losses, keeps_best=False)]).verdict
        'do not trust'
        >>> overfitting([StageCurve("joint", *losses, keeps_best=True)]).value
        'none; kept were the weights of joint epoch 3 of 5'
    """
    name = "Overfitting"
    known = [c for c in curves if len(c.held_out)]
    if not known:
        words = "Hold rows out of the training (data.validation) to see whether it overfits."
        return Check(name, "no rows were held out", "not checked", words)
    most = max(known, key=lambda c: c.excess)
    level = grade_low(most.excess, 0.02, 0.1)
    if level != "good":
        what = "diverged" if most.trend == "diverges" else "overfitted"
        value = f"the {most.stage} stage {what} after epoch {most.best_epoch} of {most.epochs}"
        return Check(name, value, level, f"{_capital(training_advice([most]))}.")
    early = [f"{c.stage} epoch {c.best_epoch} of {c.epochs}" for c in known if c.rise > 0.02]
    value = f"none; kept were the weights of {', '.join(early)}" if early else "none"
    return Check(name, value, "good", "Nothing to do.")


def sample_size(rows: int) -> Check:
    """How much the number of test rows leaves open.

    Examples:
        >>> [sample_size(n).verdict for n in (100, 99, 24)]
        ['good', 'look closer', 'do not trust']
    """
    error = 50 / math.sqrt(max(rows, 1))
    words = f"Shares are known to ± {error:.0f} points at best: test on more rows."
    advice: dict[Level, str] = {"look closer": words, "do not trust": words}
    return check_of("Sample size", f"{rows:,} test rows", advice, grade_high(rows, 100, 25))


def chance(scores: Mapping[str, tuple[float, float]], level: float) -> Check:
    """Whether generated rows keep the class more often than guessing the commonest one would.

    Args:
        scores: direction -> coherence and its standard error.
        level: share of the commonest class.

    Examples:
        >>> chance({"a->b": (0.95, 0.01), "b->a": (0.96, 0.01)}, 0.95).verdict
        'do not trust'
    """
    above = [key for key, (mean, error) in scores.items() if mean - 2 * error > level]
    short = len(scores) - len(above)
    value = f"coherence above chance ({level:.2f}) in {len(above)} of {len(scores)} directions"
    advice: dict[Level, str] = {
        "look closer": "Some directions do no better than guessing the commonest class: see the "
        "matrix of scores.",
        "do not trust": "Most directions do no better than guessing the commonest class.",
    }
    return check_of("Chance", value, advice, grade_low(short, 0, len(scores) / 2))


class Judgement(NamedTuple):
    """All checks of one model, and what they come to."""

    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Level:
        """The worst of all."""
        return worst(check.verdict for check in self.checks)

    @property
    def headline(self) -> str:
        """The verdict in a sentence: what it is due to."""
        level = self.verdict
        due = [c for c in self.checks if c.verdict == level]
        listed = "; ".join(f"{c.name.lower()}: {c.value}" for c in due)
        return f"{OPENINGS[level]} {_capital(listed)}." if due else "Nothing is known yet."

    @property
    def advice(self) -> list[str]:
        """What to do, the most urgent first, each thing once."""
        urgent = sorted(self.checks, key=lambda c: -LEVELS.index(c.verdict))
        return list(dict.fromkeys(c.advice for c in urgent if c.verdict != "good"))


OPENINGS: dict[Level, str] = {
    "good": "Good.",
    "not checked": "Good as far as is known.",
    "look closer": "Look closer.",
    "do not trust": "Do not trust yet.",
}


def judge(
    config: Config,
    evaluation: Evaluation | None = None,
    diagnosis: Calibration | None = None,
    curves: Sequence[StageCurve] = (),
) -> Judgement:
    """Everything that is known of a model, judged by one set of rules.

    Args:
        config: of the model; its sampler tells how many steps a row has.
        evaluation: None before one.
        diagnosis: of its posteriors; None before one.
        curves: of the stages of its training.
    """
    checks = [calibration(diagnosis, curves), overfitting(curves)]
    if evaluation is not None:
        checks.append(sample_size(evaluation.rows))
        coherence = evaluation.coherence
        if coherence is not None and coherence.conditional and coherence.conditional_chance:
            scores = {k: (e.mean, e.standard_error) for k, e in coherence.conditional.items()}
            checks.append(chance(scores, coherence.conditional_chance))
        checks.append(_sampler(evaluation, config))
    return Judgement(tuple(checks))


def _sampler(evaluation: Evaluation, config: Config) -> Check:
    """The worst check of what draws given some modalities go through."""
    checks = evaluation_checks(evaluation, config)
    if len(config.modalities) < 3:  # draws given one modality, or given all, need no sampler
        checks = [c for c in checks if c.name == "Share redrawn"]
    if not checks:
        return Check("Sampler", "draws are exact", "good", "Nothing to do.")
    poor = max(checks, key=lambda c: LEVELS.index(c.verdict))
    value = "all diagnostics pass" if poor.verdict == "good" else f"{poor.name}, {poor.value}"
    return Check("Sampler", value, poor.verdict, poor.advice)


def evaluation_checks(evaluation: Evaluation, config: Config) -> list[Check]:
    """Verdicts on all diagnostics that an evaluation holds; none of draws that are all exact."""
    summary, latent = evaluation.sampler, evaluation.latent
    checks = sampler_checks(summary, summary.rows, kept_steps(config.sampler))
    has_ball = latent.radius is not None and latent.redrawn
    return [*checks, redrawn(latent.redrawn)] if has_ball else checks


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
