"""Priors scored on held-out rows, and the best of them."""

import numpy as np
import pytest
from scipy import stats

from mvflow import JNF
from mvflow.core import UsageError
from mvflow.tuning import best_prior, score_priors
from mvflow.tuning.priors import _halves


@pytest.fixture(scope="module")
def grouped(small):
    """A model whose latents fill their prior badly: few nats of divergence count."""
    joint = {"epochs": 40, "batch_size": 32, "learning_rate": 1e-2, "beta": 0.05, "merge": [8]}
    return small.estimator(JNF, 2, joint=joint).fit(small.data(2)[0], seed=0)


def test_the_density_of_a_prior_is_that_of_its_distribution(linear_gaussian):
    model = linear_gaussian().estimator()
    z = np.random.default_rng(0).normal(size=(3, 5, 2))
    expected = stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(model.prior_log_prob(z), expected, rtol=1e-5)


def test_scores_are_of_held_out_latents_and_the_best_is_chosen(grouped, small):
    x, _ = small.data(2)
    before = grouped.sample_latent(n=3)
    found = score_priors(grouped, grouped.as_source(x), ["standard", "mixture", "flow"])
    assert best_prior(found) != "standard"
    assert all(score.difference.mean > 0.1 for score in found[1:])
    standard, mixture = found[:2]
    assert mixture.difference.mean > 2 * mixture.difference.standard_error
    assert standard.difference.mean == 0
    _, held = _halves(np.arange(160), seed=0)
    z = grouped.draw({n: v[held] for n, v in x.items()}, 1, seed=0).z[0]
    expected = stats.norm.logpdf(z).sum(-1)
    assert standard.log_density.mean == pytest.approx(expected.mean(), rel=1e-5)
    assert standard.log_density.standard_error == pytest.approx(
        expected.std(ddof=1) / len(z) ** 0.5, rel=1e-5
    )
    np.testing.assert_array_equal(grouped.sample_latent(n=3), before)


def test_no_group_is_on_both_sides():
    groups = np.random.default_rng(0).integers(50, size=1000)
    fit, held = _halves(groups, seed=1)
    assert not set(groups[fit]) & set(groups[held])
    assert sorted([*fit, *held]) == list(range(1000))


@pytest.mark.bad_input
def test_unknown_kinds_are_refused(fitted, small):
    model, (x, _) = fitted(JNF, 2), small.data(2)
    with pytest.raises(UsageError, match="unknown prior 'mixtur'"):
        score_priors(model, model.as_source(x), ["mixtur"])
