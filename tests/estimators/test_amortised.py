"""The amortised posterior behind the same face: which stages, which draws, which densities."""

import numpy as np
import pytest
import torch

from mvflow import JNF, JNFShared, load
from mvflow.core import NotFittedError, UsageError
from mvflow.posteriors import NSF
from mvflow.runs import RunDirectory


@pytest.fixture(scope="module", params=[JNF, JNFShared])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def fitted_amortised(small, kind):
    return small.estimator(kind, 3, subset=small.amortised).fit(small.data(3)[0], seed=0)


@pytest.fixture(scope="module")
def x(small):
    return {n: v[:4] for n, v in small.data(3)[0].items()}


def test_its_stage_takes_the_place_of_the_flows(fitted_amortised):
    assert fitted_amortised.trained_[-1] == "amortised"
    assert "flows" not in fitted_amortised.trained_


def test_every_subset_is_drawn_without_a_chain(fitted_amortised, x):
    for given in (["m0"], ["m0", "m2"], ["m0", "m1", "m2"]):
        found = fitted_amortised.draw({n: x[n] for n in given}, 5, seed=1, combine=True)
        assert found.z.shape == (5, 4, 2)
        assert found.diagnostics.method == "exact"


def test_densities_are_normalised_and_those_of_the_draws(fitted_amortised, x):
    """Mean of exp(log q - log N(z; moments of the draws)) under that Gaussian is 1."""
    given = {n: x[n] for n in ("m0", "m2")}
    z = fitted_amortised.sample_latent(given, 2000, seed=2)
    loc, scale = z.mean(0), 1.5 * z.std(0)
    rng = np.random.default_rng(0)
    u = (loc + scale * rng.standard_normal((4000, *loc.shape))).astype(np.float32)
    log_base = (-0.5 * ((u - loc) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))).sum(-1)
    weights = np.exp(fitted_amortised.posterior_log_prob(u, given) - log_base)
    error = weights.std(0) / np.sqrt(len(weights))
    # some mass of a flow's tails, and what lies outside the ball, is beyond the Gaussian's reach
    assert (np.abs(weights.mean(0) - 1) < 5 * error + 0.05).all()


def test_both_rules_live_in_one_run(small, kind, x, tmp_path):
    data = small.data(3)[0]
    plain = small.estimator(kind, 3)
    run = RunDirectory.create(tmp_path / "run", plain.config)
    plain.fit(data, seed=0, run=run)
    given = {n: x[n] for n in ("m0", "m1")}
    expected = plain.generate(given, seed=3)["m2"]
    other = plain.with_settings(subset=small.amortised)
    shared = tuple(n for n in plain.trained_ if n != "flows")
    assert other.trained_ == shared  # it took over all that does not depend on the rule
    with pytest.raises(NotFittedError, match="missing: amortised"):
        other.draw({"m0": x["m0"]})
    run.write_config(other.config)
    other.fit(data, stages=["amortised"], run=run)
    again = load(run.path)
    assert again.trained_ == (*shared, "amortised")
    assert again.draw(given).diagnostics.method == "exact"
    back = load(run.path, subset="product")
    assert back.trained_ == plain.trained_
    assert back.draw(given).diagnostics.method == "mcmc"
    np.testing.assert_array_equal(back.generate(given, seed=3)["m2"], expected)
    assert run.records().keys() == {*shared, "flows", "amortised"}


def test_another_rule_is_an_estimator_of_its_own(small, kind, x):
    made = small.estimator(kind, 3).fit(small.data(3)[0], seed=0)
    prior = made.with_settings(subset={"kind": "product", "divisor": "prior"})
    assert prior.trained_ == made.trained_  # no stage depends on what is divided out
    given = {n: x[n] for n in ("m0", "m1")}
    z = np.zeros((4, 2))
    ours, theirs = (e.posterior_log_prob(z, given) for e in (made, prior))
    assert not np.array_equal(ours, theirs)
    assert made.with_parts(subset="product").config == made.config
    other = made.with_parts(subset={"kind": "product", "divisor": "prior"})
    assert (
        other.config == made.with_settings(subset={"kind": "product", "divisor": "prior"}).config
    )
    assert other.with_parts(posterior=NSF(bins=3)).config.posterior == NSF(bins=3)


def test_training_what_it_rests_on_drops_it(small, kind):
    data = small.data(3)[0]
    made = small.estimator(kind, 3, subset=small.amortised).fit(data, seed=0)
    before = {k: v.clone() for k, v in made.system_.subset_module.state_dict().items()}
    made.fit(data, seed=0, stages=["joint"])
    assert "amortised" not in made.trained_
    made.fit(data, seed=0, stages=["amortised"])
    after = made.system_.subset_module.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_an_unknown_rule_is_given_the_nearest(fitted_amortised):
    with pytest.raises(UsageError, match="unknown subset rule 'amortized': did you mean 'amorti"):
        fitted_amortised.with_parts(subset="amortized")


def test_likelihoods_agree_between_both_kinds(small, fitted_amortised, kind, x):
    """log p(X) does not depend on which posterior proposes; 1,000 draws and a short training."""
    product = small.estimator(kind, 3).fit(small.data(3)[0], seed=0)
    np.testing.assert_allclose(
        fitted_amortised.log_likelihood(x, n=2000), product.log_likelihood(x, n=2000), atol=0.5
    )
