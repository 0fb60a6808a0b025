"""What the report says of known numbers."""

from dataclasses import replace

import numpy as np
import pytest

from mvflow.inference import SIR
from mvflow.metrics import Estimate
from mvflow.report.verdicts import (
    acceptance,
    checks,
    contacts,
    divergences,
    effective,
    redrawn,
    rhat,
)
from mvflow.report.words import agreement_sentence, conditional_sentence, of_100, readings

GOOD, CLOSER, NO = "good", "look closer", "do not trust"


def test_reading_of_known_metrics(two):
    entry = two[0][0]
    known = {"joint": 0.95, "circle->square": 0.99, "square->circle": 0.97}
    values = {key: Estimate(value, 0.01) for key, value in known.items()}
    coherence = entry.metrics.coherence.model_copy(
        update={"joint": values.pop("joint"), "conditional": values}
    )
    density = {"circle": Estimate(-1.0, 0.1), "square": Estimate(0.5, 0.1)}
    metrics = entry.metrics.model_copy(
        update={"coherence": coherence, "posterior_log_density": density}
    )
    (first, words), (second, agree), (third, _) = readings(replace(entry, metrics=metrics))
    assert (first, second, third) == ("97 %", "95 %", "−0.25 nats")
    assert words == (
        "Of 100 samples of circle generated from square, 97 are of the class of square (empty or "
        "full). That is the weakest direction; the best, circle → square, has 99."
    )
    assert agree == (
        "Of 100 pairs generated from nothing, 95 agree: both modalities are of one class."
    )


def test_sentences_without_names_of_classes():
    assert conditional_sentence("mnist", "svhn", 0.01) == (
        "Of 100 samples of svhn generated from mnist, 1 is of the class of mnist."
    )
    assert agreement_sentence(5, 0.0).startswith("Of 100 samples generated from nothing, 0 agree:")


@pytest.mark.parametrize(
    ("share", "count"),
    [(0.0, "0"), (0.001, "fewer than 1"), (0.5, "50"), (0.996, "more than 99"), (1.0, "100")],
)
def test_counts_never_round_to_all_or_none(share, count):
    assert of_100(share) == count


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (acceptance(0.6, 0.4), GOOD),
        (acceptance(0.97, 0.4), GOOD),
        (acceptance(0.98, 0.9), CLOSER),
        (acceptance(0.59, 0.5), CLOSER),
        (acceptance(0.8, 0.39), CLOSER),
        (acceptance(0.8, 0.19), NO),
        (acceptance(0.39, 0.3), NO),
        (divergences(0, 100), GOOD),
        (divergences(1, 100), CLOSER),
        (divergences(2, 100), NO),
        (rhat(1.05, 0.0, 1.0), GOOD),
        (rhat(1.051, 0.5, 1.0), CLOSER),
        (rhat(1.2, 1.0, 1.1), CLOSER),
        (rhat(9.0, 0.05, 1.0), CLOSER),
        (rhat(1.21, 0.051, 1.0), NO),
        (rhat(np.inf, 1.0, np.inf), NO),
        (effective(100, 200, 400), GOOD),
        (effective(99, 200, 400), CLOSER),
        (effective(10, 20, 400), CLOSER),
        (effective(9.9, 20, 400), NO),
        (effective(15, 19, 400), NO),
        (contacts(0.01), GOOD),
        (contacts(0.1), CLOSER),
        (contacts(0.101), NO),
        (redrawn({"a": 0.01}), GOOD),
        (redrawn({"a": 0.0, "b": 0.05}), CLOSER),
        (redrawn({"a": 0.051, "b": 0.0}), NO),
    ],
)
def test_verdicts_at_their_thresholds(check, verdict):
    assert check.verdict == verdict
    assert check.advice.endswith(".")
    assert check.advice.startswith("Nothing to do") == (verdict == GOOD)


def test_numbers_that_are_not_numbers_are_never_good():
    nan = float("nan")
    for check in (
        acceptance(nan, nan),
        rhat(nan, nan, nan),
        effective(nan, nan, 4),
        contacts(nan),
    ):
        assert check.verdict != GOOD
    assert redrawn({"a": nan}).verdict != GOOD


def test_all_diagnostics_of_an_evaluation_are_judged(two):
    found = checks(two[0][0].metrics, two[0][0].estimator.config.sampler)
    assert [c.name for c in found] == [
        "Acceptance",
        "Divergences",
        "R-hat",
        "Effective sample size",
        "Ball contacts",
        "Proper target",
        "Share redrawn",
    ]


def test_importance_resampling_is_judged_by_its_weights(two):
    known = two[0][0].metrics

    def verdict(**changes):
        sampler = {"ess_worst": 150.0, "ess_median": 300.0, "rows_khat_above_0_7": 0.0}
        sampler |= {"method": "sir", "rows_dominated": 0, **changes}
        metrics = known.model_copy(
            update={
                "sampler": known.sampler.model_copy(update=sampler),
                "latent": known.latent.model_copy(update={"radius": None}),
            }
        )
        (found,) = checks(metrics, SIR())
        return found.name, found.verdict

    assert verdict() == ("Importance weights", GOOD)
    assert verdict(ess_worst=20.0, rows_dominated=1) == ("Importance weights", NO)
