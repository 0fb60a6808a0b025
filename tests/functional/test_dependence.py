"""Squared correlations against NumPy, on NumPy and torch."""

import numpy as np
import pytest
import torch

from mvflow.functional import squared_correlations


def test_it_is_the_sum_of_numpys_correlations():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 2))
    y[:, 0] += x[:, 1]
    expected = (np.corrcoef(x.T, y.T)[:3, 3:] ** 2).sum()
    assert squared_correlations(x, y) == pytest.approx(expected, rel=1e-9)
    found = squared_correlations(torch.from_numpy(x), torch.from_numpy(y))
    assert float(found) == pytest.approx(expected, rel=1e-9)
    assert squared_correlations(5 * x - 3, y + 1) == pytest.approx(expected, rel=1e-9)


def test_constant_columns_have_none_and_finite_gradients():
    x = torch.zeros(5, 2, requires_grad=True)
    found = squared_correlations(x, torch.ones(5, 1))
    assert found.item() == 0
    assert torch.autograd.grad(found, x)[0].isfinite().all()
