import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from mvflow.functional import (
    effective_sample_size,
    importance_log_likelihood,
    importance_weights,
    log_mean_exp,
    log_sum_exp,
    mixture_log_prob,
)

logs = 400 * np.random.default_rng(0).normal(size=(6, 4))
logs[0, 0] = -np.inf
logs[:, 1] = -np.inf


def test_log_sum_exp_equals_scipy(xp):
    for axis in (0, 1, -1):
        expected = special.logsumexp(logs, axis=axis)
        np.testing.assert_allclose(
            np.asarray(log_sum_exp(xp.asarray(logs), axis)), expected, rtol=1e-13
        )
        kept = log_sum_exp(xp.asarray(logs), axis, keepdims=True)
        assert kept.shape == np.sum(logs, axis=axis, keepdims=True).shape
        np.testing.assert_allclose(
            np.asarray(log_mean_exp(xp.asarray(logs), axis)),
            expected - np.log(logs.shape[axis]),
            rtol=1e-13,
        )


def test_log_sum_exp_keeps_infinity_and_nan(xp):
    x = np.array([[np.inf, 0.0], [np.nan, 0.0], [-np.inf, -np.inf]])
    got = np.asarray(log_sum_exp(xp.asarray(x), axis=1))
    np.testing.assert_array_equal(got, [np.inf, np.nan, -np.inf])


def test_log_sum_exp_gradient_is_softmax_also_at_ties_and_empty_sums():
    x = torch.tensor([[1.0, 1.0, 0.0], [-np.inf, 0.0, 0.0]], dtype=torch.float64)
    x.requires_grad_()
    log_sum_exp(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.softmax(x.detach(), -1), rtol=1e-12, atol=1e-12)


def test_mixture_equals_scipy_and_is_normalised(xp):
    z = np.linspace(-20, 20, 4001)
    components = np.stack([stats.norm(m, s).logpdf(z) for m, s in [(-3, 0.5), (0, 1), (4, 2)]])
    got = np.asarray(mixture_log_prob(xp.asarray(components)))
    np.testing.assert_allclose(got, np.log(np.exp(components).mean(0)), rtol=1e-10)
    np.testing.assert_allclose(np.exp(got).sum() * (z[1] - z[0]), 1, rtol=1e-12)


def test_importance_estimate_is_the_evidence_of_a_known_model(xp):
    """x = z + noise with z ~ N(0, 1): p(x) = N(0, 2); proposal N(x/2, 1) is wider than needed."""
    rng = np.random.default_rng(0)
    x, proposal = 1.3, stats.norm(0.65, 1.0)
    z = proposal.rvs(size=(20_000, 1), random_state=rng)
    log_weights = stats.norm.logpdf(z) + stats.norm.logpdf(x, z) - proposal.logpdf(z)
    got = float(importance_log_likelihood(xp.asarray(log_weights))[0])
    weights = np.exp(log_weights)
    error = weights.std() / weights.mean() / np.sqrt(len(z))  # delta method
    assert abs(got - stats.norm.logpdf(x, scale=np.sqrt(2))) < 4 * error
    exact = stats.norm.logpdf(z) + stats.norm.logpdf(x, z) - stats.norm.logpdf(z, x / 2, 0.5**0.5)
    np.testing.assert_allclose(
        importance_log_likelihood(exact), stats.norm.logpdf(x, scale=np.sqrt(2)), rtol=1e-12
    )


def test_effective_sample_size_at_its_ends(xp):
    weights = np.array([[5.0, -np.inf, -800.0], [5.0, 2.0, 0.0], [5.0, -np.inf, -np.inf]])
    got = np.asarray(effective_sample_size(xp.asarray(weights)))
    np.testing.assert_allclose(got, [3, 1, 1], rtol=1e-12)
    empty = effective_sample_size(xp.asarray(np.full((3, 1), -np.inf)))
    np.testing.assert_array_equal(np.asarray(empty), [0])
    assert np.isnan(np.asarray(effective_sample_size(xp.asarray(np.array([[np.nan], [0.0]])))))


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=20), st.floats(-1e3, 1e3))
def test_effective_sample_size_is_bounded_and_ignores_scale(log_weights, constant):
    x = np.array(log_weights)
    ess = effective_sample_size(x)
    assert 1 - 1e-9 <= ess <= len(x) + 1e-9
    # adding the constant rounds log weights of size 1e3 to 1e-13
    np.testing.assert_allclose(effective_sample_size(x + constant), ess, rtol=1e-11)


def test_a_mixture_of_those_present_leaves_the_others_out(xp):
    present = np.array([[True, True], [False, True], [True, False]])
    values = np.log(np.array([[0.2, 1.0], [9.0, 3.0], [0.4, 7.0]]))
    found = mixture_log_prob(xp.asarray(values), xp.asarray(present))
    np.testing.assert_allclose(np.asarray(found), np.log([0.3, 2.0]), rtol=1e-14)
    everyone = mixture_log_prob(xp.asarray(values), xp.asarray(np.ones_like(present)))
    np.testing.assert_allclose(np.asarray(everyone), np.log(np.exp(values).mean(0)), rtol=1e-13)


def test_weights_are_the_gradient_of_the_bound_and_zero_without_mass(xp):
    found = np.asarray(importance_weights(xp.asarray(logs)))
    expected = special.softmax(logs[:, [0, 2, 3]], 0)
    np.testing.assert_allclose(found[:, [0, 2, 3]], expected, rtol=1e-12, atol=1e-300)
    assert (found[:, 1] == 0).all()
    x = torch.from_numpy(logs[:, [0, 2, 3]]).requires_grad_()
    importance_log_likelihood(x).sum().backward()
    np.testing.assert_allclose(x.grad, found[:, [0, 2, 3]], rtol=1e-12, atol=1e-300)
