"""Barlow Twins: known values, what it is invariant to, and its minimum over linear maps."""

from itertools import combinations

import numpy as np
import pytest
import torch

from mvflow.core.parts import create
from mvflow.functional import canonical_correlations
from mvflow.nn import seeded


def objective(dim, **settings):
    return create("projectors", {"kind": "barlow-twins", "dim": dim, **settings})


def uncorrelated(rows=64, dim=4):
    """Columns with sample correlations of exactly 0, in float64."""
    with seeded(0, "rows"):
        x = torch.randn(rows, 2 * dim, dtype=torch.float64)
    q, _ = torch.linalg.qr(x - x.mean(0))
    return q[:, :dim], q[:, dim:]


@pytest.mark.parametrize("weight", [0.0, 0.005, 1.0])
def test_known_values(weight):
    """None for equal features that do not repeat each other, one a feature for unrelated ones."""
    a, b = uncorrelated()
    loss = objective(4, redundancy_weight=weight).loss
    # sums of float64
    torch.testing.assert_close(float(loss({"a": a, "b": a})), 0.0, atol=1e-12, rtol=0)
    torch.testing.assert_close(float(loss({"a": a, "b": b})), 4.0, atol=1e-12, rtol=0)
    torch.testing.assert_close(float(loss({"a": a, "b": -a})), 16.0, atol=1e-12, rtol=0)
    repeated = a[:, :1].expand(-1, 4)  # all features are the same: 12 correlations of 1
    found = float(loss({"a": repeated, "b": repeated}))
    torch.testing.assert_close(found, 12 * weight, atol=1e-12, rtol=0)


def test_it_is_the_sum_over_pairs_of_numpys_correlations():
    with seeded(1, "rows"):
        x = {n: torch.randn(50, 3).double() @ torch.randn(3, 3).double() for n in "abc"}
    expected = 0.0
    for a, b in combinations("abc", 2):
        c = np.corrcoef(x[a].T, x[b].T)[:3, 3:]
        other = c[~np.eye(3, dtype=bool)]
        expected += ((1 - np.diag(c)) ** 2).sum() + 0.3 * (other**2).sum()
    found = objective(3, redundancy_weight=0.3).loss(x)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_neither_shift_nor_scale_of_a_feature_matters():
    with seeded(2, "rows"):
        x = {n: torch.randn(50, 3).double() for n in "ab"}
        shift, scale = 10 * torch.randn(3).double(), torch.rand(3).double() + 0.1
    loss = objective(3).loss
    moved = x | {"b": scale * x["b"] + shift}
    torch.testing.assert_close(loss(moved), loss(x), rtol=1e-12, atol=0)
    flipped = x | {"b": -x["b"]}  # the sign does: features have to agree
    assert not torch.isclose(loss(flipped), loss(x), rtol=1e-3)


def test_its_minimum_over_linear_maps_is_the_first_canonical_correlation():
    """One feature a modality: (1 - rho)^2 is least at the largest correlation that maps reach."""
    with seeded(3, "rows"):
        shared = torch.randn(400, 1).double()
        a, b = (0.7 * shared * torch.randn(1, d) + torch.randn(400, d).double() for d in (5, 4))
        maps = [torch.randn(d, 1, dtype=torch.float64).requires_grad_() for d in (5, 4)]
    optimiser = torch.optim.LBFGS(maps, max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        return objective(1).loss({"a": a @ maps[0], "b": b @ maps[1]})

    def closure():
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
    rho = float(canonical_correlations(a, b, ridge=1e-12)[0])
    assert 0.3 < rho < 0.95
    np.testing.assert_allclose(float(loss().detach()), (1 - rho) ** 2, rtol=1e-5)  # optimiser
