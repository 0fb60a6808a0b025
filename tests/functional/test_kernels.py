"""Kernel regression: scikit-learn's, leaving out by hand, and errors of the predicted size."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.kernel_ridge import KernelRidge

from mvflow.functional import kernel_regression


def kernel(a, b):
    return np.exp(-0.5 * ((a[:, None] - b) ** 2).sum(-1))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(60, 2)), rng.normal(size=(15, 2))
    y = np.stack([np.sin(2 * x[:, 0]), rng.normal(size=60)], 1)
    return x, new, y


def test_the_mean_is_that_of_kernel_ridge_regression(data):
    x, new, y = data
    fitted = kernel_regression(kernel(x, x), y, 0 * y)
    mean, _ = fitted.predict(kernel(new, x))
    for i, penalty in enumerate(fitted.penalty):
        ridge = KernelRidge(alpha=penalty, kernel="rbf", gamma=0.5).fit(x, y[:, i])
        # eigenvalues below a thousandth of the smallest penalty are dropped
        np.testing.assert_allclose(mean[:, i], ridge.predict(new), atol=2e-2)


def test_the_deviation_is_that_of_a_gaussian_process(data):
    x, new, y = data
    fitted = kernel_regression(kernel(x, x), y, 0 * y, [0.1])
    _, scale = fitted.predict(kernel(new, x))
    prior = RBF(1.0) + WhiteKernel(0.1)
    process = GaussianProcessRegressor(prior, optimizer=None).fit(x, y[:, 0])
    _, expected = process.predict(new, return_std=True)
    # in units of the errors of rows left out; what is dropped is a thousandth
    np.testing.assert_allclose(scale[:, 0] / np.sqrt(fitted.error[0]), expected, rtol=1e-3)


def test_where_only_the_outputs_are_uncertain_their_noise_is_the_deviation(data):
    """As in dimensions of z that no column uses: nothing to predict, and all of the prior left."""
    x, new, y = data
    fitted = kernel_regression(kernel(x, x), 0 * y, 0 * y + 4.0)
    mean, scale = fitted.predict(kernel(new, x))
    np.testing.assert_allclose(mean, 0)
    np.testing.assert_allclose(scale, 2)
    np.testing.assert_allclose(fitted.factor, np.eye(2), atol=1e-6)


def test_penalty_and_covariance_are_those_of_rows_left_out_by_hand(data):
    x, _, y = data
    grid = [0.01, 0.3, 10.0]
    fitted = kernel_regression(kernel(x, x), y, 0 * y, grid)
    errors, scales = [], []
    for penalty in grid:
        left_out, deviations = [], []
        for i in range(len(x)):
            rest = np.arange(len(x)) != i
            k = kernel(x[i : i + 1], x[rest])
            inverse = np.linalg.inv(kernel(x[rest], x[rest]) + penalty * np.eye(len(x) - 1))
            left_out.append(y[i] - (k @ inverse @ y[rest])[0])
            deviations.append(np.sqrt(1 + penalty - (k @ inverse @ k.T)[0, 0]))
        errors.append(np.array(left_out))
        scales.append(np.array(deviations))
    best = np.argmin([(e**2).sum(0) for e in errors], 0)
    np.testing.assert_allclose(fitted.penalty, np.array(grid)[best])
    unit = np.stack([errors[b][:, i] / scales[b] for i, b in enumerate(best)], 1)
    np.testing.assert_allclose(fitted.error, (unit**2).mean(0))
    unit = unit / np.sqrt((unit**2).mean(0))
    covariance = fitted.factor @ fitted.factor.T
    np.testing.assert_allclose(covariance, unit.T @ unit / len(x), rtol=1e-6)


def test_torch_gives_the_same(data):
    x, new, y = data
    noise = np.full_like(y, 0.2)
    expected = kernel_regression(kernel(x, x), y, noise)
    found = kernel_regression(*map(torch.from_numpy, (kernel(x, x), y, noise)))
    np.testing.assert_allclose(found.factor, expected.factor, rtol=1e-6)
    for a, b in zip(
        found.predict(torch.from_numpy(kernel(new, x))),
        expected.predict(kernel(new, x)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)
