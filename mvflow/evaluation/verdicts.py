"""The rule book: a verdict on each fact that is known of a model, and one on all of them.

`mvflow evaluate`, `diagnose`, `compare` and `report` all judge by these rules. A rule grades its
numbers one by one and takes the worst grade: a worse number never gives a better verdict.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Any, NamedTuple

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
from mvflow.evaluation.learning import RISE, StageCurve, stage_settings, training_advice
from mvflow.evaluation.predictions import Prediction
from mvflow.evaluation.result import COLLAPSED, Coherence, Evaluation
from mvflow.evaluation.sampler_checks import kept_steps, redrawn, sampler_checks
from mvflow.metrics import Estimate

if TYPE_CHECKING:
    from mvflow.config import Config

__all__ = [
    "Judgement",
    "baselines",
    "calibration",
    "chance",
    "evaluation_checks",
    "intervals",
    "judge",
    "latent_space",
    "more_observed",
    "overfitting",
    "sample_size",
    "subset_checks",
    "untrained",
]


def calibration(result: Calibration | None, curves: Sequence[StageCurve] = ()) -> Check:
    """Whether posteriors are what they claim to be, by the worst of their subsets."""
    name = "Calibration"
    if result is None:
        words = "Run 'mvflow diagnose RUN' to see whether posteriors are too narrow or shifted."
        return Check(name, "not diagnosed", "not checked", words)
    failed = [result.subsets[key] for key in sorted(result.subsets)]
    failed = [subset for subset in failed if subset.verdict != "good"]
    value = f"posteriors given {len(failed)} of {len(result.subsets)} subsets fail"
    if not failed:
        few = "subset" if len(result.subsets) == 1 else "subsets"
        value = f"posteriors given all {len(result.subsets)} {few} pass"
        return Check(name, value, "good", "Nothing to do.")
    kinds = Counter(subset.kind for subset in failed).most_common()
    value += f" ({', '.join(f'{n} {kind}' for kind, n in kinds)})"
    advice = training_advice(curves) if curves else failed[0].advice.rstrip(".")
    return Check(name, value, worst(s.verdict for s in failed), f"{_capital(advice)}.")


def latent_space(divergence: float, settings: Collection[str] = ()) -> Check:
    """Whether latents say anything of the rows: all that is drawn given a row goes by them.

    Args:
        divergence: KL(q(z|X) || p(z)) in nats, mean over rows.
        settings: that may be lowered to mend it.

    Examples:
        >>> latent_space(0.0006).value
        'the latents say nothing of the rows (KL 0.0006 nats)'
        >>> latent_space(7.2).value
        'q(z|X) is 7.2 nats from the prior'
    """
    lower = f"lower {' or '.join(settings)}, or " if settings else ""
    text = "The latents have collapsed to the prior, so that what is given changes no draw; "
    text += f"small gaps and good calibration then mean nothing: {lower}train longer."
    value = f"q(z|X) is {divergence:.1f} nats from the prior"
    if not divergence >= COLLAPSED:
        value = f"the latents say nothing of the rows (KL {max(divergence, 0.0):.1g} nats)"
    advice: dict[Level, str] = {"do not trust": text}
    return check_of("Latent space", value, advice, grade_high(divergence, COLLAPSED, COLLAPSED))


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
    if not curves:
        words = "Train for some epochs to see whether it overfits."
        return Check(name, "no losses are kept", "not checked", words)
    if not known:
        words = "Hold rows out of the training (data.validation) to see whether it overfits."
        return Check(name, "no rows were held out", "not checked", words)
    most = max(known, key=lambda c: (c.excess, c.gap))
    level = grade_low(most.excess, RISE, 0.1)
    if level != "good":
        level = worst([level, grade_low(most.gap, 1.0, 1.0)])
        what = "diverged" if most.trend == "diverges" else "overfitted"
        value = f"the {most.stage} stage {what} after epoch {most.best_epoch} of {most.epochs}"
        return Check(name, value, level, f"{_capital(training_advice([most]))}.")
    early = [f"{c.stage} epoch {c.best_epoch} of {c.epochs}" for c in known if c.is_rescued]
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


def chance(scores: Mapping[str, tuple[float, float, float]]) -> Check:
    """Whether generated rows agree more often than they would by chance.

    Args:
        scores: direction, or "joint" -> coherence, its standard error, its chance level.

    Examples:
        >>> chance({"a->b": (0.95, 0.01, 0.95), "b->a": (0.96, 0.01, 0.95)}).verdict
        'do not trust'
    """
    above = [k for k, (mean, error, level) in scores.items() if mean - 2 * error > level]
    short = sorted(k for k in scores if k not in above)
    value = f"coherence above chance in {len(above)} of {len(scores)} ways of generating"
    if short and above:
        value += f", not in {_listed(short)}"
    advice: dict[Level, str] = {
        "look closer": "Some ways of generating do no better than guessing: see the coherences.",
        "do not trust": "Most ways of generating do no better than guessing the commonest class.",
    }
    return check_of("Chance", value, advice, grade_low(len(short), 0, len(scores) / 2))


def more_observed(scores: Mapping[str, Estimate]) -> Check | None:
    """Whether draws given more modalities are as coherent as those given a part of these.

    A posterior that sees more knows no less. Each set is compared with those of one modality less;
    noise is what one comparison of all would go beyond by chance in 1 of 40 models. None where no
    set was measured beside a part of it.

    Args:
        scores: direction ("a+b->c") -> coherence.

    Examples:
        >>> scores = {"a->c": (0.8, 0.01), "b->c": (0.7, 0.01), "a+b->c": (0.7, 0.01)}
        >>> check = more_observed({k: Estimate(*v) for k, v in scores.items()})
        >>> check.value
        'worse with more observed in 1 of 2 comparisons, most a + b → c 0.700, without b 0.800'
    """
    known = []
    for key, more in scores.items():
        given, _, target = key.partition("->")
        for name in given.split("+"):
            rest = "+".join(n for n in given.split("+") if n != name)
            if less := scores.get(f"{rest}->{target}"):
                noise = math.hypot(more.standard_error, less.standard_error)
                words = f"{_listed([key])} {more.mean:.3f}, without {name} {less.mean:.3f}"
                known.append((less.mean - more.mean, noise, words))
    if not known:
        return None
    errors = NormalDist().inv_cdf(1 - 0.025 / len(known))
    worse = [(loss, words) for loss, noise, words in known if not loss <= errors * noise]
    value = "nowhere worse with more modalities observed, beyond noise"
    if worse:
        value = f"worse with more observed in {len(worse)} of {len(known)} comparisons"
        value += f", most {max(worse)[1]}"
    text = "What merges modalities loses what one of them tells: a rule that learns every set of "
    text += "modalities may not (`mvflow list subsets`)."
    advice: dict[Level, str] = {"look closer": text}
    return check_of("More observed", value, advice, "look closer" if worse else "good")


def baselines(shortfalls: Mapping[str, float], beaten: Collection[str]) -> Check:
    """How the model predicts beside ridge regression and nearest neighbours.

    Args:
        shortfalls: direction -> how much R² (accuracy of classes) the best baseline is ahead;
            negative where the model is.
        beaten: directions in which a baseline is ahead beyond noise.

    Examples:
        >>> baselines({"a->b": -0.02, "b->a": 0.01}, []).verdict
        'good'
        >>> baselines({"a->b": 0.15, "b->a": 0.34}, ["a->b", "b->a"]).value
        'a baseline predicts better in 2 of 2 directions, by 0.24 on average'
    """
    mean = sum(shortfalls.values()) / max(len(shortfalls), 1)
    words = "ahead of" if mean < -0.005 else "level with"
    value = f"{words} the best of them on average ({-mean:+.2f})"
    if beaten:
        value = f"a baseline predicts better in {len(beaten)} of {len(shortfalls)} directions, "
        value += f"by {sum(shortfalls[d] for d in beaten) / len(beaten):.2f} on average"
    text = "The best baseline is ahead on average, but nowhere beyond noise: test on more rows."
    if beaten:
        most = sorted(beaten, key=lambda key: -shortfalls[key])
        text = "Ridge regression or nearest neighbours predict better, most "
        text += f"{_listed(most)}: their scores stand beside the model's."
    advice: dict[Level, str] = {"look closer": text, "do not trust": text}
    share = len(beaten) / max(len(shortfalls), 1)
    levels = grade_low(mean, 0.01, 0.05), grade_low(share, 0.25, 0.75)
    return check_of("Baselines", value, advice, *levels)


def intervals(held: float, raw: float | None = None) -> Check:
    """How many true values lie in 90 % prediction intervals, on average.

    Args:
        held: share, of calibrated intervals where there are any.
        raw: share before calibration; None if `held` is that.

    Examples:
        >>> [intervals(share).verdict for share in (0.87, 0.8, 0.56)]
        ['good', 'look closer', 'do not trust']
    """
    value = f"90 % intervals hold {100 * held:.0f} % of the true values"
    value += "" if raw is None else f" ({100 * raw:.0f} % before calibration)"
    words = "Take intervals as too narrow: see the coverage by level."
    advice: dict[Level, str] = {"look closer": words, "do not trust": words}
    return check_of("Intervals", value, advice, grade_high(round(held, 9), 0.87, 0.8))


def untrained(config: Config, stages: Collection[str]) -> list[Check]:
    """That stages have the weights they began with; nothing where all were trained.

    Args:
        config: of the model.
        stages: that it has.

    Examples:
        >>> from mvflow.config import config_from_dict
        >>> raw = {"system": "jnf", "latent_dim": 2, "modalities": {"a": {"shape": [3]}}}
        >>> config = config_from_dict({**raw, "joint": {"epochs": 0}})
        >>> [check.value for check in untrained(config, ["joint", "flows"])]
        ['joint was trained for 0 epochs']
    """
    sections = {stage: stage_settings(config, stage) for stage in stages}
    none = {s: of for s, (of, settings) in sections.items() if _epochs(settings) == 0}
    if not none:
        return []
    value = f"{' and '.join(sorted(none))} {'was' if len(none) == 1 else 'were'} "
    words = f"Raise {' and '.join(f'{of}.epochs' for of in sorted(none.values()))}, and train."
    return [Check("Training", f"{value}trained for 0 epochs", "do not trust", words)]


def _epochs(settings: Any) -> int | None:
    return getattr(settings, "epochs", None)


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
        urgent = sorted(self.checks, key=lambda c: -LEVELS.index(c.verdict))
        least = min(LEVELS.index(level), LEVELS.index("look closer"))
        due = [c for c in urgent if LEVELS.index(c.verdict) >= least]
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
    checks += _latents(config, evaluation, diagnosis)
    if evaluation is not None:
        checks[:0] = untrained(config, evaluation.stages)
        checks.append(sample_size(evaluation.rows))
        checks += _coherence(evaluation.coherence)
        checks += _predictions(evaluation.predictions)
        checks.append(_sampler(evaluation, config))
    return Judgement(tuple(checks))


def _latents(
    config: Config, evaluation: Evaluation | None, diagnosis: Calibration | None
) -> list[Check]:
    """By the evaluation, whose rows are real; without one by the diagnosis."""
    gaps = None if evaluation is None else evaluation.gaps
    known = None if gaps is None or gaps.from_prior is None else gaps.from_prior.mean
    if known is None and diagnosis is not None:
        known = diagnosis.from_prior
    has_beta = hasattr(getattr(config, "joint", None), "beta")
    return [] if known is None else [latent_space(known, ["joint.beta"] if has_beta else [])]


def _coherence(measured: Coherence | None) -> list[Check]:
    if measured is None or measured.conditional_chance is None or not measured.conditional:
        return []
    level, joint = measured.conditional_chance, measured.joint
    scores = {k: (e.mean, e.standard_error, level) for k, e in measured.conditional.items()}
    if measured.joint_chance is not None:
        scores["joint"] = (joint.mean, joint.standard_error, measured.joint_chance)
    ordered = more_observed(measured.conditional)
    return [chance(scores)] + ([] if ordered is None else [ordered])


def _predictions(predictions: Mapping[str, Prediction]) -> list[Check]:
    """Rules for tables; none where nothing is predicted."""
    ahead = {
        key: max(-e.mean for e in p.differences.values())
        for key, p in predictions.items()
        if p.measure != "deviance" and p.differences
    }
    beaten = [key for key in ahead if predictions[key].winner not in ("model", "tied")]
    checks = [baselines(ahead, beaten)] if ahead else []
    measured = [p.model.intervals for p in predictions.values()]
    known = [levels[0.9] for levels in measured if 0.9 in levels]
    if known:
        raw = fmean([i.coverage.mean for i in known])
        widened = [i.calibrated_coverage.mean for i in known if i.calibrated_coverage is not None]
        checks.append(intervals(fmean(widened), raw) if widened else intervals(raw))
    return checks


def _sampler(evaluation: Evaluation, config: Config) -> Check:
    """The worst check of what draws given some modalities go through."""
    checks = evaluation_checks(evaluation, config) + subset_checks(evaluation, config)
    if not checks:
        return Check("Sampler", "draws are exact", "good", "Nothing to do.")
    poor = max(checks, key=lambda c: LEVELS.index(c.verdict))
    value = "all diagnostics pass" if poor.verdict == "good" else f"{poor.name}, {poor.value}"
    return Check("Sampler", value, poor.verdict, poor.advice)


def subset_checks(evaluation: Evaluation, config: Config) -> list[Check]:
    """The worst check of the sampler's draws given each subset, the worst subset first."""
    checks = []
    for name, summary in sorted(evaluation.sampler_by_subset.items()):
        rows = evaluation.rows_by_observed.get(name.count("+") + 1, evaluation.rows)
        steps, far = kept_steps(config.sampler), summary.rows_above_1_2
        if of_subset := sampler_checks(summary, rows, steps, far):
            poor = max(of_subset, key=lambda c: LEVELS.index(c.verdict))
            value = f"{poor.name}: {poor.value}"
            checks.append(poor._replace(name=f"given {_listed([name])}", value=value))
    return sorted(checks, key=lambda c: -LEVELS.index(c.verdict))


def evaluation_checks(evaluation: Evaluation, config: Config) -> list[Check]:
    """Verdicts on all diagnostics that matter; none of draws that are all exact.

    Draws given one modality, or given all, need no sampler: of two modalities, it has no verdict.
    """
    summary, latent = evaluation.sampler, evaluation.latent
    steps, needs_sampler = kept_steps(config.sampler), len(config.modalities) > 2
    checks = sampler_checks(summary, summary.rows, steps) if needs_sampler else []
    has_ball = latent.radius is not None and latent.redrawn
    return [*checks, redrawn(latent.redrawn)] if has_ball else checks


def _listed(names: Sequence[str]) -> str:
    shown = [name.replace("->", " → ").replace("+", " + ") for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
