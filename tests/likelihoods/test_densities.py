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
    "student-t": ({"scale": 0.5, "df": 3.0}, lambda x, raw: stats.t.logpdf(x, 3.0, raw, 0.5)),
}


LEARNED = {
    "normal": lambda x, raw, scale: stats.norm.logpdf(x, raw, scale),
    "laplace": lambda x, raw, scale: stats.laplace.logpdf(x, raw, scale),
    "student-t": lambda x, raw, scale: stats.t.logpdf(x, 10.0, raw, scale),
}


def with_learned_scales(kind, shape, seed=0, **settings):
    """A module whose columns have spreads that were measured, and scales as if trained."""
    rng = np.random.default_rng(seed)
    p = LikelihoodModule(
        create("likelihoods", {"kind": kind, "scale": "learned", **settings}), shape
    )
    rows = rng.normal(size=(50, *shape)) * rng.uniform(0.1, 30, size=shape)
    p = p.double()
    p.measure(lambda: map(torch.from_numpy, np.split(rows, [7, 30])))
    columns = p.spread.shape
    p.learned["log_scale"].data = torch.from_numpy(rng.normal(size=columns))
    return p, rows, p.spread.numpy() * np.exp(7 * np.tanh(p.learned["log_scale"].data.numpy() / 7))


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_each_column_has_a_scale_that_is_learned(kind, shape):
    """The density is scipy's; a table's spreads are its columns' deviations, an image's is one."""
    settings = {"df": 10.0} if kind == "student-t" else {}
    p, rows, scale = with_learned_scales(kind, shape, **settings)
    expected = rows.std(0) if len(shape) == 1 else rows.std()
    np.testing.assert_allclose(p.spread, expected, rtol=1e-12)
    raw, x = rows[:7] + 0.1, rows[7:14]
    expected = LEARNED[kind](x, raw, scale).reshape(7, -1).sum(1)
    np.testing.assert_allclose(
        p.log_prob(torch.from_numpy(raw), torch.from_numpy(x)).detach(), expected, rtol=1e-12
    )


def test_degrees_of_freedom_begin_at_ten_and_are_learned():
    p = LikelihoodModule(create("likelihoods", {"kind": "student-t", "scale": 2.0}), (3,))
    raw, x = torch.zeros(1, 3), torch.tensor([[0.5, 3.0, 40.0]])
    found = p.log_prob(raw, x)
    expected = stats.t.logpdf(x.numpy(), 10.0, 0.0, 2.0).sum()
    np.testing.assert_allclose(found.detach(), [expected], rtol=1e-5)  # float32 gamma functions
    (grad,) = torch.autograd.grad(found.sum(), [p.learned["log_df"]])
    assert (
        grad.sign() == torch.tensor([1.0, 1.0, -1.0])
    ).all()  # an outlier asks for heavier tails


@pytest.mark.parametrize(
    ("kind", "optimum"),
    [("normal", lambda e: np.sqrt((e**2).mean(0))), ("laplace", lambda e: np.abs(e).mean(0))],
)
def test_learned_scales_are_best_at_what_decoders_leave_over(kind, optimum):
    """The closed form of Rybkin et al. (2021): there the gradient of the fit is zero."""
    p, rows, _ = with_learned_scales(kind, (5,))
    raw = torch.from_numpy(0.9 * rows)
    best = optimum(0.1 * rows)
    ratio = torch.from_numpy(best) / p.spread
    p.learned["log_scale"].data = 7 * torch.atanh(ratio.log() / 7)
    fit = p.log_prob(raw, torch.from_numpy(rows)).mean()
    (grad,) = torch.autograd.grad(fit, [p.learned["log_scale"]])
    np.testing.assert_allclose(grad, 0, atol=1e-12)


def test_absent_values_and_constant_columns_have_a_spread_too():
    p = LikelihoodModule(create("likelihoods", {"kind": "normal", "scale": "learned"}), (3,))
    rows = np.array([[1.0, np.nan, 5.0], [3.0, 2.0, 5.0], [np.nan, 6.0, 5.0]])
    p.measure(lambda: [torch.from_numpy(rows)])
    np.testing.assert_allclose(p.spread, [1.0, 2.0, 1.0])


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
        ("student-t", [-1e9, 0.0, 3.5], [True, True, True]),
        ("poisson", [-1.0, 0.0, 2.5, 7.0], [False, True, False, True]),
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
