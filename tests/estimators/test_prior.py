"""The fitted prior behind the face of every estimator: what it changes, and what it does not."""

import numpy as np
import pytest

from mvflow import JNF, JNFShared, load
from mvflow.core import NotFittedError, UsageError
from mvflow.runs import RunDirectory

PRIOR = {"kind": "mixture", "components": 3, "rows": 300}


@pytest.fixture(scope="module", params=[JNF, JNFShared])
def fitted(request, small):
    return small.estimator(request.param, 2, prior=PRIOR).fit(small.data(2)[0], seed=0)


def test_draws_without_an_observation_have_the_moments_of_the_latents(fitted, small):
    loc, scale = fitted.encode(small.data(2)[0])
    z = fitted.sample_latent(n=20_000, seed=1)[:, 0]
    spread = np.sqrt(loc.var(0) + (scale**2).mean(0))
    # the mixture saw 300 of the rows: five standard errors of their mean, and of the deviation
    assert (np.abs(z.mean(0) - loc.mean(0)) < 5 * spread / 300**0.5).all()
    assert (np.abs(z.std(0) / spread - 1) < 5 / 600**0.5).all()


def test_the_standard_prior_can_be_asked_for(fitted):
    z = fitted.sample_latent(n=20_000, seed=1, prior="standard")[:, 0]
    assert np.abs(z.mean(0)).max() < 5 / 20_000**0.5
    assert np.abs(z.std(0) - 1).max() < 5 / 40_000**0.5
    with pytest.raises(UsageError, match="unknown prior 'gaussian'"):
        fitted.draw(prior="gaussian")


def test_conditional_draws_and_likelihoods_do_not_know_it(fitted, small):
    x = {n: v[:3] for n, v in small.data(2)[0].items()}
    plain = small.estimator(type(fitted), 2).fit(small.data(2)[0], seed=0)
    for given in ({"m0": x["m0"]}, x):
        ours, theirs = (e.sample_latent(given, 4, seed=2) for e in (fitted, plain))
        np.testing.assert_array_equal(ours, theirs)
    ours, theirs = (e.log_likelihood(x, n=20) for e in (fitted, plain))
    np.testing.assert_array_equal(ours, theirs)


def test_it_may_come_later_and_falls_with_the_joint_stage(small, tmp_path):
    data = small.data(2)[0]
    plain = small.estimator(JNF, 2)
    run = RunDirectory.create(tmp_path / "run", plain.config)
    plain.fit(data, run=run)
    with pytest.raises(UsageError, match="unknown prior 'mixture'"):
        plain.draw(prior="mixture")
    late = plain.with_settings(prior=PRIOR)
    assert late.trained_ == plain.trained_
    with pytest.raises(NotFittedError, match="missing: prior"):
        late.draw()
    run.write_config(late.config)
    late.fit(data, stages=["prior"], run=run)
    found = late.system_.state_dict()
    for name, value in plain.system_.state_dict().items():
        assert (found[name] == value).all(), name
    assert (late.priors(), plain.priors()) == (["standard", "mixture"], ["standard"])
    again = load(run.path)
    np.testing.assert_array_equal(again.sample_latent(n=5), late.sample_latent(n=5))
    assert set(load(run.path, prior="standard").trained_) == {"joint", "flows"}
    again.fit(data, stages=["joint"])
    assert again.trained_ == ("joint",)


def test_it_follows_from_the_seed(fitted, small):
    again = small.estimator(type(fitted), 2, prior=PRIOR).fit(small.data(2)[0], seed=0)
    np.testing.assert_array_equal(again.sample_latent(n=5), fitted.sample_latent(n=5))
