import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from mvflow.functional import (
    bernoulli_log_prob,
    categorical_log_prob,
    laplace_log_prob,
    normal_log_prob,
    standard_normal_log_prob,
)

RTOL = 1e-12  # algebra in float64

x, loc = np.random.default_rng(0).normal(size=(2, 5, 3))
scale = np.random.default_rng(1).uniform(0.1, 3, size=(5, 3))


@pytest.mark.parametrize(
    ("log_prob", "reference"),
    [(normal_log_prob, stats.norm), (laplace_log_prob, stats.laplace)],
)
def test_location_scale_families_equal_scipy(xp, log_prob, reference):
    got = log_prob(xp.asarray(x), xp.asarray(loc), xp.asarray(scale))
    np.testing.assert_allclose(np.asarray(got), reference.logpdf(x, loc, scale), rtol=RTOL)
    got = log_prob(xp.asarray(x), 0.5, 0.75)
    np.testing.assert_allclose(np.asarray(got), reference.logpdf(x, 0.5, 0.75), rtol=RTOL)


def test_bernoulli_is_negative_cross_entropy(xp):
    values = special.expit(x)
    expected = values * np.log(special.expit(loc)) + (1 - values) * np.log(special.expit(-loc))
    got = bernoulli_log_prob(xp.asarray(values), xp.asarray(loc))
    np.testing.assert_allclose(np.asarray(got), expected, rtol=RTOL)


@given(logit=st.floats(-1e4, 1e4))
def test_bernoulli_is_stable_and_symmetric(logit):
    one, logits = np.ones(1), np.array([logit])
    success = bernoulli_log_prob(one, logits)
    assert np.isfinite(success)
    # the logit is added and taken away again: absolute rounding of its size
    rounding = 4e-16 * max(1, abs(logit))
    np.testing.assert_allclose(success, special.log_expit(logits), rtol=0, atol=rounding)
    failure = bernoulli_log_prob(0 * one, -logits)
    np.testing.assert_allclose(success, failure, rtol=0, atol=rounding)


def test_categorical_equals_log_softmax_and_normalises(xp):
    logits = 300 * x  # far beyond what exp can hold without care
    classes = np.tile(np.arange(3), (5, 1))
    got = [categorical_log_prob(xp.asarray(classes[:, k]), xp.asarray(logits)) for k in range(3)]
    got = np.stack([np.asarray(g) for g in got], axis=1)
    np.testing.assert_allclose(got, special.log_softmax(logits, axis=1), rtol=RTOL, atol=1e-13)
    np.testing.assert_allclose(np.exp(got).sum(1), 1, rtol=RTOL)


def test_standard_normal_sums_over_the_last_axis(xp):
    got = standard_normal_log_prob(xp.asarray(x))
    expected = stats.multivariate_normal.logpdf(x, np.zeros(3))
    np.testing.assert_allclose(np.asarray(got), expected, rtol=RTOL)


def test_float32_stays_float32():
    z = torch.zeros(2, 3)
    labels = torch.zeros(2, dtype=torch.int64)
    for out in (
        normal_log_prob(z, 0.0, 0.5),
        laplace_log_prob(z, 0.0, 0.5),
        bernoulli_log_prob(z, z),
        categorical_log_prob(labels, z),
        standard_normal_log_prob(z),
    ):
        assert out.dtype == torch.float32


def test_torch_gradients():
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    labels = torch.tensor([0, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda z: normal_log_prob(z, 0.3, z.exp()), z)
    assert torch.autograd.gradcheck(lambda z: bernoulli_log_prob(z.sigmoid(), z), z)
    assert torch.autograd.gradcheck(lambda z: categorical_log_prob(labels, z), z)
