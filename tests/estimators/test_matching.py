"""The rule "matching" behind the same face: its stage, its prior, its guidance."""

import numpy as np
import pytest

from mvflow import JNF, JNFShared, load
from mvflow.core import NotFittedError, UsageError
from mvflow.evaluation import check_calibration

MATCHING = {"kind": "matching", "summary_hidden": [8], "embedding": 4, "width": 8, "epochs": 3}
SEEN = [(JNF, "projections"), (JNFShared, "projections"), (JNFShared, "data"), (JNFShared, "both")]


@pytest.fixture(scope="module", params=SEEN, ids=lambda p: f"{p[0].__name__}-{p[1]}")
def model(request, small):
    kind, sees = request.param
    made = small.estimator(kind, 3, subset={**MATCHING, "sees": sees})
    return made.fit(small.data(3)[0], seed=0)


@pytest.fixture(scope="module")
def plain(small):
    return small.estimator(JNF, 3, subset=MATCHING).fit(small.data(3)[0], seed=0)


@pytest.fixture(scope="module")
def x(small):
    return {n: v[:4] for n, v in small.data(3)[0].items()}


def test_every_subset_is_drawn_without_a_chain_and_has_a_density(model, x):
    assert model.trained_[-1] == "matching"
    assert "flows" not in model.trained_
    for given in (["m0"], ["m0", "m2"], ["m0", "m1", "m2"]):
        rows = {n: x[n] for n in given}
        found = model.draw(rows, 5, seed=1, combine=True)
        assert found.diagnostics.method == "exact"
        again = model.draw(rows, 5, seed=1, combine=True)
        np.testing.assert_array_equal(found.z, again.z)
        assert np.isfinite(model.posterior_log_prob(found.z, rows, combine=True)).all()


def test_given_nothing_it_is_the_prior_that_is_drawn(model):
    """Another distribution than N(0, I), which can be asked for by name."""
    assert model.priors() == ["standard", "matching"]
    own, named = model.draw(None, 50).z, model.draw(None, 50, prior="matching").z
    np.testing.assert_array_equal(own, named)
    assert not np.array_equal(own, model.draw(None, 50, prior="standard").z)
    assert "one network for all subsets" in model.facts()["prior"]
    mixture = model.with_settings(prior={"kind": "mixture", "components": 2})
    with pytest.raises(NotFittedError, match="prior"):
        mixture.draw(None, 5)  # who configures a fitted prior gets it


def test_guidance_changes_draws_and_neither_weights_nor_densities(model, x):
    given, z = {"m0": x["m0"]}, np.zeros((3, 4, 2), np.float32)
    plain, none = model.draw(given, 5).z, model.draw(given, 5, guidance=0.0).z
    np.testing.assert_array_equal(plain, none)
    asked = model.draw(given, 5, guidance=2.0).z
    assert not np.array_equal(plain, asked)
    guided = model.with_guidance(2.0)
    assert guided.trained_ == model.trained_  # no stage depends on it
    np.testing.assert_array_equal(guided.draw(given, 5).z, asked)
    np.testing.assert_array_equal(guided.draw(given, 5, guidance=0.0).z, plain)
    log_prob = model.posterior_log_prob(z, given)
    np.testing.assert_array_equal(guided.posterior_log_prob(z, given), log_prob)
    np.testing.assert_array_equal(guided.transform(given), model.transform(given))
    assert guided.facts()["subset"] == "matching, guidance 2"
    np.testing.assert_array_equal(guided.draw(x, 2).z, model.draw(x, 2).z)  # q(z|X), of all


@pytest.mark.parametrize("weight", [-1.0, np.inf, np.nan])
def test_guidance_is_a_number_from_0_on(model, x, weight):
    with pytest.raises(UsageError, match="expected a number from 0 on"):
        model.draw(x, guidance=weight)


def test_other_rules_and_systems_refuse_guidance(fitted, x):
    plain = fitted(JNF, 3)
    with pytest.raises(UsageError, match="subset rule 'product' has no guidance: .*matching"):
        plain.generate({"m0": x["m0"]}, guidance=1.0)

    with pytest.raises(UsageError, match="has no guidance"):
        plain.with_guidance(1.0)


@pytest.mark.parametrize("given", [("m0",), ("m0", "m2")])
def test_few_draws_estimate_likelihoods_without_bias(plain, x, given):
    """The mean of many estimates of p(x_t|x_S) is the integral of q(z|x_S) p(x_t|z) on a grid."""
    axis = np.linspace(-7, 7, 61, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 1, 2)
    z = np.broadcast_to(grid, (len(grid), 2, 2))
    seen, scored = {n: x[n][:2] for n in given}, {"m1": x["m1"][:2]}
    log_p = plain.posterior_log_prob(z, seen) + plain.predictive(z, scored).log_prob["m1"]
    # smooth densities that vanish at both ends are summed exactly
    exact = np.exp(log_p).sum(0) * float(axis[1] - axis[0]) ** 2
    seen, scored = ({n: np.tile(v, (200, 1)) for n, v in of.items()} for of in (seen, scored))
    found = np.exp(plain.log_likelihood(scored, given=seen, n=8)).reshape(200, 2)
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(0) - exact) < 4 * error + 0.02 * exact).all()  # the solver's 0.02


def test_densities_are_solved_for_given_a_subset_alone(plain, x, fitted):
    assert plain.solves_densities({"m0": x["m0"]})
    assert not plain.solves_densities(x)  # q(z|X)
    assert not fitted(JNF, 3).solves_densities({"m0": x["m0"]})


def test_calibration_says_that_guided_draws_are_not_posterior_draws(small):
    plain = small.estimator(JNF, 2, subset=MATCHING)
    plain.fit(small.data(2)[0], seed=0)
    found = check_calibration(plain.with_guidance(1.5), rows=20)
    assert "guided (w = 1.5) are not posterior draws" in found.meaning
    failed = [s for s in found.subsets.values() if s.verdict != "good"]
    assert all("guidance makes them so" in s.advice for s in failed)
    assert "guided" not in check_calibration(plain, rows=20, subsets=[["m0"]]).meaning


def test_a_run_keeps_solver_averages_and_prior(model, x, tmp_path):
    model.save(tmp_path / "run")
    again = load(tmp_path / "run")
    np.testing.assert_array_equal(again.draw(None, 5).z, model.draw(None, 5).z)
    np.testing.assert_array_equal(again.draw({"m1": x["m1"]}).z, model.draw({"m1": x["m1"]}).z)
    assert int(again.system_.subset_module.steps) == int(model.system_.subset_module.steps)
