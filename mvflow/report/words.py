"""What the numbers mean, in words: the reading at the top of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mvflow.core import class_name

if TYPE_CHECKING:
    from mvflow.evaluation import Evaluation
    from mvflow.evaluation.result import Coherence
    from mvflow.report.entry import Entry

__all__ = [
    "agreement_sentence",
    "arrow",
    "conditional_sentence",
    "of_100",
    "readings",
    "signed",
]

MAX_CLASSES = 3
"""Classes up to which a sentence names them."""


def arrow(key: str) -> str:
    """A direction's key for readers.

    Examples:
        >>> arrow("m0+m1->m2")
        'm0 + m1 → m2'
    """
    return key.replace("->", " → ").replace("+", " + ")


def of_100(share: float) -> str:
    """A share as a count out of 100 that never rounds to all or none.

    Examples:
        >>> of_100(0.968), of_100(0.999), of_100(1.0), of_100(0.002)
        ('97', 'more than 99', '100', 'fewer than 1')
    """
    if share < 1 and round(100 * share) == 100:
        return "more than 99"
    if share > 0 and round(100 * share) == 0:
        return "fewer than 1"
    return str(round(100 * share))


def conditional_sentence(
    given: str, target: str, share: float, classes: Sequence[str] = ()
) -> str:
    """Conditional coherence of one direction in words.

    Examples:
        >>> conditional_sentence("text", "image", 0.97, ["cat", "dog"])
        'Of 100 samples of image generated from text, 97 are of the class of text (cat or dog).'
    """
    verb = "is" if of_100(share) in ("1", "fewer than 1") else "are"
    named = f" ({' or '.join(classes)})" if classes else ""
    return (
        f"Of 100 samples of {target} generated from {given}, {of_100(share)} {verb} of the class "
        f"of {given}{named}."
    )


def agreement_sentence(modalities: int, share: float) -> str:
    """Joint coherence in words.

    Examples:
        >>> agreement_sentence(2, 0.947)
        'Of 100 pairs generated from nothing, 95 agree: both modalities are of one class.'
    """
    what, all_of = (
        ("pairs", "both modalities") if modalities == 2 else ("samples", "all modalities")
    )
    verb = "agrees" if of_100(share) in ("1", "fewer than 1") else "agree"
    return (
        f"Of 100 {what} generated from nothing, {of_100(share)} {verb}: {all_of} are of one class."
    )


def readings(entry: Entry) -> list[tuple[str, str]]:
    """The numbers that matter of a model, each with a sentence; likelihood without classes."""
    metrics = entry.metrics
    if metrics is None:
        return []
    numbers = [_predictions(metrics)] if metrics.predictions_by_observed else []
    if metrics.coherence is not None:
        joint, chance = metrics.coherence.joint.mean, metrics.coherence.joint_chance
        if metrics.coherence.conditional:
            numbers.append(_conditional(entry, metrics.coherence))
        words = agreement_sentence(len(entry.names), joint)
        numbers.append((_percent(joint), words + _chance(chance, "modalities drawn apart")))
    elif not numbers:
        numbers.append(_likelihood(metrics))
    density = metrics.posterior_log_density
    if density:
        mean = sum(d.mean for d in density.values()) / len(density)
        words = (
            "Log density that the posteriors of single modalities give to where held-out rows "
            "lie: higher is better, and 1 nat more is 2.7 times the density."
        )
        if entry.estimator.can_project:
            words += " Posteriors on shared information are wide on purpose, so less is expected."
        numbers.append((f"{signed(mean)} nats", words))
    return numbers


def _chance(chance: float | None, of: str) -> str:
    return "" if chance is None else f" By chance, with {of}, it would be {of_100(chance)}."


def _predictions(metrics: Evaluation) -> tuple[str, str]:
    """How well tables are predicted from all that is observed."""
    size, means = max(metrics.predictions_by_observed.items())
    is_numeric = bool(means.r2)
    score = (means.r2 or means.accuracy)["model"].mean
    what = "R²" if is_numeric else "accuracy"
    others = f"{size} other{'s' * (size != 1)}"
    words = f"Mean {what} of a modality predicted from {others}. {metrics.prediction_sentence}"
    return (signed(score) if is_numeric else _percent(score)), words


def signed(value: float, digits: int = 2) -> str:
    """A number with a true minus sign.

    Examples:
        >>> signed(-1.5)
        '−1.50'
    """
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def _conditional(entry: Entry, coherence: Coherence) -> tuple[str, str]:
    """The weakest direction from one modality, in words, and how the best one does."""
    every = {k: v.mean for k, v in coherence.conditional.items()}
    single = {k: mean for k, mean in every.items() if "+" not in k} or every
    worst, best = min(single, key=single.__getitem__), max(single, key=single.__getitem__)
    given, target = worst.replace("+", " and ").split("->")
    labels = [] if entry.test.labels is None else sorted({int(c) for c in entry.test.labels})
    classes = [class_name(entry.test, c) for c in labels] if len(labels) <= MAX_CLASSES else []
    words = conditional_sentence(given, target, single[worst], classes)
    if best != worst:
        words += f" That is the weakest direction; the best, {arrow(best)}, has "
        words += f"{of_100(single[best])}."
    words += _chance(coherence.conditional_chance, "the commonest class always")
    return _percent(single[worst]), words


def _likelihood(metrics: Evaluation) -> tuple[str, str]:
    words = (
        "Mean log-likelihood of unseen rows, all modalities together. Higher is better; "
        "compare it only between models of the same data and likelihoods. The classes of "
        "generated rows were not measured, since there are no classifiers."
    )
    return f"{signed(metrics.log_likelihood['joint'].mean, 1)} nats", words


def _percent(share: float) -> str:
    """A share in percent; one digit more close to the ends.

    Examples:
        >>> _percent(0.921), _percent(0.999), _percent(1.0)
        ('92 %', '99.9 %', '100 %')
    """
    digits = 1 if 0.99 < share < 1 or 0 < share < 0.01 else 0
    return f"{100 * share:.{digits}f} %" if share < 0.9995 or share == 1 else "> 99.9 %"
