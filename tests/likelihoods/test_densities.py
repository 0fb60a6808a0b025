"""Each likelihood against scipy's density in float64, and which values it takes."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from mvflow.core.parts import create
from mvflow.likelihoods import LikelihoodModule


def bernoulli(x, raw):
    """Values may be any probabilities, of which the cross-entropy is taken."""
    p = special.expit(raw)
    return x * np.log(p) + (1 - x) * np.log1p(-p)


REFERENCES = {
    "normal": ({"scale": 0.3}, lambda x, raw: stats.norm.logpdf(x, raw, 0.3)),
    "laplace": ({"scale": 0.75}, lambda x, raw: stats.laplace.logpdf(x, raw, 0.75)),
    "bernoulli": ({}, bernoulli),
}


@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_rows_have_the_density_of_scipy(kind, shape):
    settings, reference = REFERENCES[kind]
    p = LikelihoodModule(create("likelihoods", {"kind": kind, **settings}), shape)
    rng = np.random.default_rng(0)
    x, raw = rng.random((7, *shape)), rng.normal(size=(7, *shape))
    expected = reference(x, raw).reshape(7, -1).sum(1)
    tensors = torch.from_numpy(raw), torch.from_numpy(x)
    np.testing.assert_allclose(p.log_prob(*tensors), expected, rtol=1e-12)
    np.testing.assert_allclose(p(tensors[0]).log_prob(tensors[1]), expected, rtol=1e-12)


def test_bernoulli_of_zeros_and_ones_is_scipys():
    x, raw = np.array([[0.0, 1.0, 1.0]]), np.array([[0.3, -2.0, 1.0]])
    p = LikelihoodModule(create("likelihoods", "bernoulli"), (3,))
    expected = stats.bernoulli.logpmf(x, special.expit(raw)).sum()
    np.testing.assert_allclose(p.log_prob(*map(torch.from_numpy, (raw, x))), expected, rtol=1e-12)


def test_categorical_is_scipys():
    rng = np.random.default_rng(0)
    raw, x = rng.normal(size=(7, 4)), rng.integers(4, size=7)
    p = LikelihoodModule(create("likelihoods", "categorical"), (4,))
    one_hot = np.eye(4, dtype=int)[x]
    expected = stats.multinomial.logpmf(one_hot, 1, special.softmax(raw, -1))
    np.testing.assert_allclose(p.log_prob(*map(torch.from_numpy, (raw, x))), expected, rtol=1e-12)
    probabilities = p.mean(p(torch.from_numpy(raw)))
    np.testing.assert_allclose(probabilities, special.softmax(raw, -1), rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "values", "valid"),
    [
        ("normal", [-1e9, 0.0, 3.5], [True, True, True]),
        ("laplace", [-1e9, 0.0, 3.5], [True, True, True]),
        ("bernoulli", [-1e-6, 0.0, 0.5, 1.0, 1.001], [False, True, True, True, False]),
        ("categorical", [-1, 0, 2, 3, 1.5], [False, True, True, False, False]),
    ],
)
def test_which_values_are_valid(kind, values, valid):
    found = create("likelihoods", kind).is_valid(np.array(values), (3,))
    assert found.tolist() == valid


def test_what_is_said_of_values_that_are_not():
    assert create("likelihoods", "categorical").expects((3,)) == "expected a class from 0 to 2"
    assert "[0, 1]" in create("likelihoods", "bernoulli").expects((3,))
