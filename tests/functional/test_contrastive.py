from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvflow.functional import info_nce, pairwise_info_nce

a, b, c = np.random.default_rng(0).normal(size=(3, 7, 4))


def reference(x1, x2, temperature):
    """Eq. B.2 to B.4, sample by sample, as printed (mean in place of the sum over the batch)."""

    def sim(u, v):
        return np.exp(u @ v / np.linalg.norm(u) / np.linalg.norm(v) / temperature)

    total = 0.0
    for i in range(len(x1)):
        total -= np.log(sim(x1[i], x2[i]) / sum(sim(x1[i], v) for v in x2))
        total -= np.log(sim(x2[i], x1[i]) / sum(sim(x2[i], u) for u in x1))
    return total / len(x1)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_equals_the_printed_formula(xp, temperature):
    got = float(info_nce(xp.asarray(a), xp.asarray(b), temperature))
    np.testing.assert_allclose(got, reference(a, b, temperature), rtol=1e-12)


def test_rows_that_do_not_count_are_as_if_they_were_not_there(xp):
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 12, 3))
    here = np.arange(12) % 3 > 0
    expected = info_nce(xp.asarray(a[here]), xp.asarray(b[here]), 0.4)
    got = info_nce(xp.asarray(a), xp.asarray(b), 0.4, xp.asarray(here))
    np.testing.assert_allclose(float(got), float(expected), rtol=1e-12)
    nothing = info_nce(xp.asarray(a), xp.asarray(b), 0.4, xp.asarray(here & ~here))
    assert float(nothing) == 0


def test_pairs_are_summed_in_any_order(xp):
    expected = reference(a, b, 0.1) + reference(a, c, 0.1) + reference(b, c, 0.1)
    for order in permutations([a, b, c]):
        got = float(pairwise_info_nce([xp.asarray(x) for x in order]))
        np.testing.assert_allclose(got, expected, rtol=1e-12)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(0.01, 10))
def test_lengths_do_not_matter_and_the_loss_is_bounded_below(seed, factor, temperature):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 5, 3))
    loss = info_nce(x, y, temperature)
    lengths = factor * rng.uniform(0.5, 2, size=(5, 1))
    np.testing.assert_allclose(info_nce(x * lengths, y, temperature), loss, rtol=1e-9)
    # cosines lie in [-1, 1]: at best one positive at 1 against four negatives at -1
    assert loss >= 2 * np.log1p(4 * np.exp(-2 / temperature)) - 1e-12


def test_opposite_pairs_attain_the_bound(xp):
    x = np.array([[2.0], [-3.0]])
    expected = 2 * np.log1p(np.exp(-2 / 0.5))
    np.testing.assert_allclose(float(info_nce(xp.asarray(x), xp.asarray(x), 0.5)), expected)


def test_zero_vectors_are_neutral():
    x = torch.tensor(a)
    x[2] = 0
    x.requires_grad_()
    loss = info_nce(x, torch.tensor(b))
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()
    both = torch.zeros(3, 2, requires_grad=True)
    loss = info_nce(both, both)
    loss.backward()
    np.testing.assert_allclose(loss.item(), 2 * np.log(3), rtol=1e-6)  # float32
    assert both.grad.isfinite().all()


def test_torch_gradients():
    x, y = (torch.tensor(v, requires_grad=True) for v in (a, b))
    assert torch.autograd.gradcheck(info_nce, (x, y))
