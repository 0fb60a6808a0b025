"""Counts: scipy's density, its limits in float32, and that a model of them learns their means."""

import mpmath  # comes with torch
import numpy as np
import pytest
import torch
from scipy import stats

from mvflow import JNF, Modality
from mvflow.core import DataError, check_batch
from mvflow.core.parts import create
from mvflow.likelihoods import LikelihoodModule
from mvflow.nn import seeded

NB = create("likelihoods", "negative-binomial")


def reference(x, raw):
    """Scipy's log density, of outputs (rows, 2, ...) in float64."""
    log_mean, log_dispersion = np.moveaxis(20 * np.tanh(raw / 20), 1, 0)
    mean, r = np.exp(log_mean), np.exp(log_dispersion)
    return stats.nbinom.logpmf(x, r, r / (r + mean))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_rows_have_the_density_of_scipy(shape):
    """The first half of a row's outputs are log means, the second log dispersions."""
    rng = np.random.default_rng(0)
    raw = rng.normal(1, 1.5, size=(7, 2, *shape))
    x = rng.poisson(3.0, size=(7, *shape)).astype(float)
    expected = reference(x, raw).reshape(7, -1).sum(1)
    p = LikelihoodModule(NB, shape)
    outputs = torch.from_numpy(raw.reshape(7, 2 * shape[0], *shape[1:]))
    np.testing.assert_allclose(p.log_prob(outputs, torch.from_numpy(x)), expected, rtol=1e-12)
    found = p(outputs).variance
    mean, r = np.exp(20 * np.tanh(np.moveaxis(raw, 1, 0) / 20))
    np.testing.assert_allclose(found, mean + mean**2 / r, rtol=1e-12)


def in_fifty_digits(x, log_mean, log_dispersion):
    """The log density of one count."""
    with mpmath.workdps(50):
        m, r = (
            mpmath.exp(20 * mpmath.tanh(mpmath.mpf(v) / 20)) for v in (log_mean, log_dispersion)
        )
        ways = mpmath.loggamma(x + r) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
        return float(ways + r * mpmath.log(r / (r + m)) + x * mpmath.log(m / (r + m)))


@pytest.mark.parametrize("log_mean", [-30.0, -8.0, 0.0, 8.0, 14.0])
@pytest.mark.parametrize("log_dispersion", [-8.0, 0.0, 8.0, 30.0])
def test_float32_is_exact_for_large_counts_and_tiny_means(log_mean, log_dispersion):
    """At quantiles up to 1e7, none of them improbable, and at 0 and 1.

    Gamma functions of 1e6 would be off by 0.1 in float32; in float64 those of a dispersion of
    1e8 are by 1e-6. The rest is rounding of the result.
    """
    m, r = np.exp(20 * np.tanh(np.array([log_mean, log_dispersion]) / 20))
    x = stats.nbinom.ppf([0.02, 0.3, 0.5, 0.98], r, r / (r + m))
    x = np.concatenate([[0.0, 1.0], x.astype(np.float32)])
    expected = [in_fifty_digits(v, log_mean, log_dispersion) for v in x.tolist()]
    outputs = torch.tensor([[log_mean, log_dispersion]], requires_grad=True)
    found = LikelihoodModule(NB, (1,)).log_prob(outputs, torch.from_numpy(x).float()[:, None])
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-6, atol=2e-6)
    (grad,) = torch.autograd.grad(found.sum(), outputs)
    assert grad.isfinite().all()


def test_the_mean_is_where_the_density_is_stationary():
    """The score of log m has expectation 0, and vanishes at x = m whatever the dispersion."""
    raw = torch.tensor([[2.0, -1.0], [2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    p = LikelihoodModule(NB, (1,))
    (grad,) = torch.autograd.grad(p.log_prob(raw, p(raw).mean.detach()).sum(), raw)
    np.testing.assert_allclose(grad[:, 0], 0, atol=1e-12)


def test_a_large_dispersion_is_poisson():
    x = np.arange(12.0)[:, None]
    raw = torch.tensor([[1.0, 30.0]], dtype=torch.float64)
    expected = stats.poisson.logpmf(x[:, 0], np.exp(20 * np.tanh(1 / 20)))
    found = LikelihoodModule(NB, (1,)).log_prob(raw, torch.from_numpy(x))
    # m^2 / r is 2e-7 of the variance; gamma functions of 1e8 have an error of 1e-7 in float64
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_draws_have_scipys_variance():
    raw = torch.tensor([[1.5, 0.5], [4.0, -1.0]])
    p = LikelihoodModule(NB, (1,))(raw)
    with seeded(0, "draws"):
        draws = p.sample((40_000,)).double()[..., 0]
    squares = (draws - p.mean[..., 0]) ** 2
    error = squares.std(0) / len(squares) ** 0.5
    assert ((squares.mean(0) - p.variance[:, 0]).abs() < 4 * error).all()


def test_counts_are_stored_as_float32_and_bytes_are_no_intensities():
    m = Modality("rna", (2,), "negative-binomial")
    x = check_batch({"rna": np.array([[0, 255]], np.uint8)}, [m])["rna"]
    assert x.dtype == np.float32
    assert x.tolist() == [[0.0, 255.0]]


@pytest.mark.bad_input
@pytest.mark.parametrize("value", [-1.0, 0.5, 1e4 + 0.01])
def test_values_that_are_no_counts_are_located(value):
    m = Modality("rna", (2,), "negative-binomial")
    with pytest.raises(DataError, match="'rna', row 1 contains .*: expected counts, whole num"):
        check_batch({"rna": [[0.0, 3.0], [1.0, value]]}, [m])


@pytest.mark.parametrize("kind", ["mlp", "layers"])
def test_encoders_see_logarithms(kind):
    m, x = Modality("rna", (3,), "negative-binomial"), torch.tensor([[0.0, 5.0, 1e6]])
    encoder = create("networks", {"kind": kind, "hidden": ()}).encoder(m, 4)
    linear = [each for each in encoder.modules() if isinstance(each, torch.nn.Linear)][0]
    torch.testing.assert_close(encoder(x), linear(torch.log1p(x)))


def simulated(rows, seed):
    """Counts (r = 2) of two tables of 8 genes that share z, and their true means."""
    genes = np.random.default_rng(0)
    slope, level = genes.normal(size=(2, 2, 8)), genes.uniform(0, 5, size=(2, 8))
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, 2))
    means = {n: np.exp(level[i] + 0.7 * z @ slope[i]) for i, n in enumerate("ab")}
    return {n: rng.negative_binomial(2, 2 / (2 + m)) for n, m in means.items()}, means


def test_a_model_of_counts_finds_their_means_better_than_a_normal_one():
    """By the held-out log score in nats per row, and by the means of one table given the other.

    The normal likelihood has the best scale that one number can be: that of the noise. It is so
    wide that its density at a count is the probability of the unit interval around it.
    """
    (train, means), (test, truth) = simulated(600, 1), simulated(100, 2)
    scale = float(np.sqrt(np.mean([m + m**2 / 2 for m in means.values()])))
    fitting, mlp = {"epochs": 30, "batch_size": 64, "learning_rate": 5e-3}, {"kind": "mlp"}
    found = []
    for likelihood in ("negative-binomial", {"kind": "normal", "scale": scale}):
        model = JNF(
            [Modality(n, (8,), likelihood) for n in "ab"],
            2,
            networks={n: {"encoder": mlp, "decoder": mlp} for n in "ab"},
            joint=fitting | {"merge": [16]},
            flows=fitting,
            posterior="gaussian",
        ).fit(train, seed=0)
        made = model.generate({"a": test["a"]}, 50)["b"].mean(0)
        error = np.abs(np.log1p(made.clip(0)) - np.log1p(truth["b"])).mean()
        found.append((model.log_likelihood(test, n=200).mean(), error))
    (counts, counts_error), (normal, normal_error) = found
    assert counts > normal + 10
    assert counts_error < 0.8 * normal_error
