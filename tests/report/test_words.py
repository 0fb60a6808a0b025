"""What the report says of known numbers."""

from dataclasses import replace

import pytest

from mvflow.evaluation.result import SubsetSampler
from mvflow.evaluation.verdicts import evaluation_checks, subset_checks
from mvflow.metrics import Estimate
from mvflow.report.words import agreement_sentence, conditional_sentence, of_100, readings

GOOD, NO = "good", "do not trust"


def test_reading_of_known_metrics(two):
    entry = two[0][0]
    known = {"joint": 0.95, "circle->square": 0.99, "square->circle": 0.97}
    values = {key: Estimate(value, 0.01) for key, value in known.items()}
    coherence = entry.metrics.coherence.model_copy(
        update={
            "joint": values.pop("joint"),
            "conditional": values,
            "conditional_chance": 0.52,
            "joint_chance": 0.5,
        }
    )
    density = {"circle": Estimate(-1.0, 0.1), "square": Estimate(0.5, 0.1)}
    metrics = entry.metrics.model_copy(
        update={"coherence": coherence, "posterior_log_density": density}
    )
    (first, words), (second, agree), (third, _) = readings(replace(entry, metrics=metrics))
    assert (first, second, third) == ("97 %", "95 %", "−0.25 nats")
    assert words == (
        "Of 100 samples of circle generated from square, 97 are of the class of square (empty or "
        "full). That is the weakest direction; the best, circle → square, has 99. By chance, with "
        "the commonest class always, it would be 52."
    )
    assert agree == (
        "Of 100 pairs generated from nothing, 95 agree: both modalities are of one class. By "
        "chance, with modalities drawn apart, it would be 50."
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


def test_all_diagnostics_of_an_evaluation_are_judged(two, three):
    entry = two[0][0]  # which needs no sampler, so that it has no verdict
    checks = evaluation_checks(entry.metrics, entry.estimator.config)
    assert [c.name for c in checks] == ["Share redrawn"]
    found = evaluation_checks(three[0][0].metrics, three[0][0].estimator.config)
    assert [c.name for c in found] == [
        "Acceptance",
        "Divergences",
        "R-hat",
        "Effective sample size",
        "Ball contacts",
        "Proper target",
        "Share redrawn",
    ]


def test_importance_resampling_is_judged_by_its_weights(three):
    known = three[0][0].metrics

    def verdict(**changes):
        sampler = {"ess_worst": 150.0, "ess_median": 300.0, "rows_khat_above_0_7": 0.0}
        sampler |= {"method": "sir", "rows_dominated": 0, **changes}
        metrics = known.model_copy(
            update={
                "sampler": known.sampler.model_copy(update=sampler),
                "latent": known.latent.model_copy(update={"radius": None}),
            }
        )
        (found,) = evaluation_checks(metrics, three[0][0].estimator.config)
        return found.name, found.verdict

    assert verdict() == ("Importance weights", GOOD)
    assert verdict(ess_worst=20.0, rows_dominated=1) == ("Importance weights", NO)


def test_the_worst_subset_decides_on_the_sampler(three):
    entry = three[0][0]
    sound = {
        "method": "mcmc", "acceptance": 0.8, "acceptance_worst": 0.7, "divergences": 0,
        "rhat_worst": 1.01, "rhat_median": 1.0, "rows_above_1_05": 0.0, "rows_above_1_2": 0.0,
        "ess_worst": 200.0, "ess_median": 300.0,
    }  # fmt: skip
    subsets = {
        "curve+kind": SubsetSampler(**sound),
        "curve+photo": SubsetSampler(**sound | {"rows_above_1_05": 0.5, "rows_above_1_2": 0.3}),
    }
    latent = entry.metrics.latent.model_copy(update={"radius": None})
    exact = entry.metrics.sampler.model_copy(update={"method": "exact"})
    metrics = entry.metrics.model_copy(
        update={"sampler_by_subset": subsets, "latent": latent, "sampler": exact}
    )
    checks = subset_checks(metrics, entry.estimator.config)
    assert [(c.name, c.verdict) for c in checks] == [
        ("given curve + photo", NO),
        ("given curve + kind", GOOD),
    ]
    (sampler,) = (
        c for c in replace(entry, metrics=metrics).judgement.checks if c.name == "Sampler"
    )
    assert sampler.verdict == NO
    assert "given curve + photo, R-hat" in sampler.value


def test_a_reading_without_directions_from_one_modality(three):
    """Of many modalities, an evaluation may have drawn larger subsets alone."""
    entry = three[0][0]
    values = {"curve+kind->photo": Estimate(0.4, 0.1)}
    coherence = entry.metrics.coherence.model_copy(update={"conditional": values})
    metrics = entry.metrics.model_copy(update={"coherence": coherence})
    words = dict(readings(replace(entry, metrics=metrics)))["40 %"]
    assert words.startswith("Of 100 samples of photo generated from curve and kind, 40 are")
