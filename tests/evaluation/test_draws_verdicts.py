"""What an evaluation says of its own draws: likelihoods, chains, and coherences made of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from mvflow.config import config_from_dict
from mvflow.evaluation.evaluate import _importance_check, _likelihood
from mvflow.evaluation.parts import JointPart, SubsetPart
from mvflow.evaluation.result import SamplerSummary, SubsetSampler
from mvflow.evaluation.sampler_checks import check_sampler, kept_steps, sampler_checks
from mvflow.evaluation.summaries import coherence
from mvflow.evaluation.verdicts import evaluation_checks, subset_checks
from mvflow.inference import Diagnostics
from mvflow.metrics import Estimate

NONE = np.zeros(0)
SAMPLER = SimpleNamespace(kind="hmc", chains=4, draws=100)


@pytest.mark.parametrize(
    ("heavy", "verdict"),
    [(0, "good"), (5, "good"), (6, "look closer"), (50, "look closer"), (51, "do not trust")],
)
def test_a_likelihood_is_judged_by_the_share_of_rows_with_heavy_tails(heavy, verdict):
    khat = np.r_[np.full(heavy, 0.71), np.full(100 - heavy, 0.7)]
    check = _importance_check(np.r_[3.0, np.full(98, 50.0), 90.0], khat, 1000)
    assert check.verdict == verdict
    assert check.rows_khat_above_0_7 == heavy / 100
    assert (check.ess_worst, check.ess_median, check.draws) == (3.0, 50.0, 1000)
    assert check.khat_worst == khat.max()
    assert check.advice.startswith("Nothing to do") == (verdict == "good")
    assert f"{heavy} % of rows" in check.advice or verdict == "good"


def test_a_tail_without_end_is_a_number_that_json_has():
    check = _importance_check(np.ones(2), np.array([0.1, np.inf]), 10)
    assert (check.khat_worst, check.rows_khat_above_0_7) == (1e3, 0.5)


def part(given, **sampler):
    targets = [name for name in "abc" if name not in given]
    hits = dict.fromkeys(targets, [True, False] * 5)
    made = SubsetSampler(method="mcmc" if sampler else "exact", **sampler)
    return SubsetPart(
        given=given, rows=10, hits=hits, likeness={}, contacts=None, norm=1.0, sampler=made
    )


def test_coherences_are_marked_where_chains_of_more_than_a_twentieth_of_the_rows_disagree():
    parts = [
        part(("a",)),
        part(("a", "b"), rows_above_1_05=0.05),
        part(("a", "c"), rows_above_1_05=0.06),
        part(("b", "c"), rows_above_1_05=1.0),
        part(("b",), rows_above_1_05=0.0),
    ]
    joint = {"joint": JointPart(classes=[[0, 1]] * 3, likeness={})}
    rows = np.arange(10)
    assert coherence(parts, joint, {}, rows % 2, rows).unsound == ["a+c", "b+c"]


def chains(**changes):
    """Diagnostics of ten rows whose chains are sound, but for what is changed."""
    sound = {
        "acceptance": np.full(10, 0.8),
        "divergences": np.zeros(10, int),
        "contacts": np.zeros(10),
        "rhat": np.full(10, 1.0),
        "ess": np.full(10, 300.0),
        "start_ess": np.ones(10),
    }
    return Diagnostics("mcmc", **sound | changes)


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({}, "good", "Nothing to do"),
        ({"contacts": np.full(10, 0.05)}, "look closer", "Ball contacts, 5.0 % of proposals: the"),
        ({"contacts": np.full(10, 0.2)}, "do not trust", "Ball contacts, 20.0 %"),
        ({"rhat": np.r_[1.21, np.ones(9)]}, "do not trust", "R-hat, median 1.00, worst 1.21"),
        ({"rhat": np.full(10, 1.2)}, "look closer", "R-hat, median 1.20"),
        ({"divergences": np.r_[40, np.zeros(9, int)]}, "look closer", "Divergences, 40 of 4,000"),
        ({"divergences": np.r_[41, np.zeros(9, int)]}, "do not trust", "Divergences, 41"),
        ({"ess": np.full(10, 5.0)}, "do not trust", "Effective sample size, median 5, worst 5"),
        ({"improper": np.arange(10) < 2}, "do not trust", "Proper target, 2 of 10"),
        # The worst is said, not the first or the last.
        (
            {"divergences": np.r_[1, np.zeros(9, int)], "contacts": np.full(10, 0.2)},
            "do not trust",
            "Ball contacts",
        ),
    ],
)
def test_draws_given_a_subset_are_judged_by_their_worst_diagnostic(changes, verdict, said):
    found = check_sampler(chains(**changes), 10, SAMPLER)
    assert (found.verdict, found.advice[: len(said)]) == (verdict, said)
    rhat = changes.get("rhat", np.ones(10))
    assert found.rows_above_1_2 == np.mean(rhat > 1.2)


def test_chains_far_apart_in_few_rows_leave_a_doubt_where_all_are_a_little_apart():
    few = chains(rhat=np.r_[1.3, np.full(19, 1.1)])
    assert check_sampler(few, 20, SAMPLER).verdict == "look closer"
    more = chains(rhat=np.r_[1.3, 1.3, np.full(18, 1.1)])
    assert check_sampler(more, 20, SAMPLER).verdict == "do not trust"


def test_exact_draws_have_no_verdict_of_a_sampler():
    exact = Diagnostics("exact", NONE, np.zeros(0, int), np.full(10, 0.5), NONE, NONE, NONE)
    found = check_sampler(exact, 10, SAMPLER)
    assert (found.verdict, found.advice, found.rows_above_1_2) == ("good", "", None)
    assert kept_steps(SAMPLER) == 400
    assert kept_steps(SimpleNamespace(draws=7)) == 0


def test_contacts_and_improper_rows_are_judged_where_they_are_known():
    summary = {"method": "mcmc", "acceptance": 0.8, "acceptance_worst": 0.7}
    names = [c.name for c in sampler_checks(SamplerSummary(**summary), 10, 400)]
    assert names == ["Acceptance", "Divergences", "R-hat", "Effective sample size"]
    summary |= {"ball_contacts": 0.0, "rows_improper": 0}
    names = [c.name for c in sampler_checks(SamplerSummary(**summary), 10, 400)]
    assert names[4:] == ["Ball contacts", "Proper target"]


def evaluation(names, radius=3.0, redrawn=None, by_subset=(), rows_by_observed=()):
    """What the rules read of an evaluation whose sampler is sound."""
    sampler = SamplerSummary.of(chains().summary()).model_copy(update={"rows_improper": None})
    latent = SimpleNamespace(radius=radius, redrawn=redrawn or {})
    made = SimpleNamespace(
        sampler=SimpleNamespace(**sampler.model_dump(), rows=10),
        latent=latent,
        rows=100,
        sampler_by_subset=dict(by_subset),
        rows_by_observed=dict(rows_by_observed),
    )
    modalities = {name: {"shape": [2]} for name in names}
    return made, config_from_dict({"system": "jnf", "latent_dim": 2, "modalities": modalities})


def test_the_sampler_is_judged_from_three_modalities_and_the_ball_where_draws_met_it():
    for names, expected in (("ab", []), ("abc", ["Acceptance", "Divergences", "R-hat"])):
        checks = [c.name for c in evaluation_checks(*evaluation(names))]
        assert checks[:3] == expected
        assert "Share redrawn" not in checks
        checks = [c.name for c in evaluation_checks(*evaluation(names, redrawn={"a": 0.0}))]
        assert checks[-1] == "Share redrawn"
        made = evaluation(names, radius=None, redrawn={"a": 0.0})
        assert "Share redrawn" not in [c.name for c in evaluation_checks(*made)]


def test_each_subset_is_judged_by_its_worst_diagnostic_of_its_own_number_of_rows():
    """Of two observed there are fewer rows: one improper of these weighs more."""
    sound = check_sampler(chains(improper=np.zeros(10, bool)), 10, SAMPLER)
    one = sound.model_copy(update={"rows_improper": 1})
    far = sound.model_copy(update={"rows_above_1_05": 0.5, "rhat_worst": 3.0})
    subsets = {"a+b": one, "a+c": far.model_copy(update={"rows_above_1_2": 0.05}), "b+c": sound}
    made, config = evaluation("abc", by_subset=subsets, rows_by_observed={1: 100, 2: 9})
    checks = {c.name: (c.verdict, c.value) for c in subset_checks(made, config)}
    assert checks["given a + b"][0] == "do not trust"
    assert checks["given a + b"][1] == "Proper target: 1 of 9 rows improper"
    assert checks["given a + c"][0] == "look closer"
    assert checks["given a + c"][1].startswith("R-hat: ")
    assert checks["given b + c"][0] == "good"
    assert list(checks)[0] == "given a + b"


@pytest.mark.parametrize(
    ("source", "solves", "draws"),
    [(None, None, 100), (None, True, 100), ("a", None, 100), ("a", False, 100), ("a", True, 10)],
)
def test_a_likelihood_is_judged_by_all_its_rows_and_draws_less_where_densities_cost(
    source, solves, draws
):
    asked = []

    class Estimator:
        config = SimpleNamespace(
            evaluation=SimpleNamespace(rows=50, importance_rows=20, importance_draws=100)
        )
        if solves is not None:
            solves_densities = staticmethod(lambda x: solves)

        def log_likelihood(self, x, given=None, *, n, **options):
            asked.append((len(x), n))
            khat = np.r_[0.1, np.full(len(x) - 1, 0.9)]
            return SimpleNamespace(values=np.zeros(len(x)), ess=np.ones(len(x)), khat=khat)

    of = SimpleNamespace(
        estimator=Estimator(),
        rows=SimpleNamespace(chosen=np.arange(50), having=lambda names, n: np.arange(n)),
        taken=lambda at, names: at,
        names=("a", "b"),
        seed=0,
        estimate=lambda values, at: Estimate(float(values.mean()), 0.0),
    )
    found = _likelihood(of, source, "b")
    assert asked == [(20, draws)]
    assert found.check.draws == draws
    assert (found.check.rows_khat_above_0_7, found.check.verdict) == (0.95, "do not trust")
