"""One suite for all likelihoods: densities of rows, of what is present, and what rows may be."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent

from mvflow.core.parts import create, dump
from mvflow.core.registry import registry
from mvflow.likelihoods import LikelihoodModule
from mvflow.nn import seeded

SHAPE = (3, 2, 4)
ROWS = 6


SETTINGS = {
    "ordinal": {"classes": 4},
    "categorical-columns": {"classes": 3},
    "mixed": {
        "groups": [
            {"likelihood": {"kind": "normal", "scale": "learned"}, "columns": 2},
            {"likelihood": "bernoulli"},
            {"likelihood": "ordinal", "classes": 3, "columns": 2},
            {"likelihood": {"kind": "negative-binomial", "dispersion": "column"}, "columns": 2},
        ]
    },
}


@pytest.fixture(params=registry("likelihoods").names())
def likelihood(request):
    return create("likelihoods", {"kind": request.param, **SETTINGS.get(request.param, {})})


def module(likelihood):
    """With the shape of an image, of three classes for rows of one number, of mixed columns."""
    shape = (7,) if likelihood.kind == "mixed" else SHAPE
    shape = shape if likelihood.row_shape(shape) else (3,)
    return LikelihoodModule(likelihood, shape).double()


def drawn(p, *batch, seed=0):
    """Decoder outputs in float64, and rows that they may have generated, as they are stored."""
    with seeded(seed, "likelihood"):
        raw = torch.randn(*batch, *p.likelihood.outputs(p.shape), dtype=torch.float64)
        x = p(raw).sample()
    return raw, x.to(torch.int64 if p.likelihood.dtype is np.int64 else torch.float64)


def test_draws_are_valid_rows(likelihood):
    p = module(likelihood)
    _, x = drawn(p, ROWS)
    assert x.shape[1:] == likelihood.row_shape(p.shape)
    assert likelihood.is_valid(x.numpy().astype(likelihood.dtype), p.shape).all()
    assert likelihood.expects(p.shape)


def test_log_prob_is_that_of_the_distribution(likelihood):
    """Also where a kind has a faster way, and for several outputs for each row."""
    p = module(likelihood)
    raw, x = drawn(p, 5, ROWS)
    expected = p(raw).log_prob(x[2])
    assert expected.shape == (5, ROWS)
    torch.testing.assert_close(p.log_prob(raw, x[2]), expected, rtol=1e-12, atol=1e-12)


def test_an_absent_row_is_zero_and_never_read(likelihood):
    p = module(likelihood)
    raw, x = drawn(p, ROWS)
    present = torch.arange(ROWS) % 3 != 1
    broken = x.clone()
    broken[~present] = torch.nan if x.is_floating_point() else 99
    raw.requires_grad_()
    found = p.log_prob(raw, broken, present)
    (grad,) = torch.autograd.grad(found.sum(), raw)
    assert torch.equal(found, torch.where(present, p.log_prob(raw, x), 0))
    assert (grad[~present] == 0).all()
    assert (grad[present] != 0).any()
    assert grad.isfinite().all()


def test_absent_values_are_left_out_of_the_sum_and_never_read(likelihood):
    """What is present has the density of its own values, each of which is independent."""
    p = module(likelihood)
    raw, x = drawn(p, 5, ROWS)
    x = x[0]
    if x.ndim == 1:
        pytest.skip("rows are single numbers: present or not as a whole")
    with seeded(3, "present"):
        present = torch.rand(x.shape) < 0.6
    assert isinstance(p(raw), Independent)
    each = p(raw).base_dist.log_prob(x)
    expected = torch.stack([each[:, i][:, present[i]].sum(-1) for i in range(ROWS)], 1)
    broken = torch.where(present, x, torch.nan)
    raw.requires_grad_()
    found = p.log_prob(raw, broken, present)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.grad(found.sum(), raw)[0].isfinite().all()
    whole = p.log_prob(raw, x, torch.ones_like(present))
    torch.testing.assert_close(whole, p.log_prob(raw, x), rtol=1e-12, atol=1e-12)


def test_the_mean_is_the_mean_of_draws(likelihood):
    if likelihood.kind == "categorical-columns":
        pytest.skip("of classes without order the most probable one is given")
    p = module(likelihood)
    raw, _ = drawn(p, 1)
    mean = p.mean(p(raw))
    with seeded(5, "draws"):
        draws = p(raw).sample((4000,))
    if likelihood.dtype is np.int64:
        draws = torch.nn.functional.one_hot(draws, p.shape[0]).double()
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - mean).abs() < 5 * error + 1e-12).all()


@pytest.mark.parametrize("value", [-40.0, 40.0])
def test_extreme_outputs_have_finite_densities_and_gradients(likelihood, value):
    p = module(likelihood).float()
    _, x = drawn(p, ROWS)
    x = x.float() if x.is_floating_point() else x
    raw = torch.full((ROWS, *likelihood.outputs(p.shape)), value, requires_grad=True)
    found = p.log_prob(raw, x)
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), raw)[0].isfinite().all()


def test_bfloat16_outputs_are_summed_in_float32(likelihood):
    p = module(likelihood).float()
    raw, x = drawn(p, ROWS)
    raw = raw.bfloat16()
    x = x.float() if x.is_floating_point() else x
    found = p.log_prob(raw, x)
    assert found.dtype == torch.float32
    assert torch.equal(found, p.log_prob(raw.float(), x))


def test_flat_rows_are_vectors_of_the_width_that_is_said(likelihood):
    p = module(likelihood)
    _, x = drawn(p, ROWS)
    flat = likelihood.flat(p.shape)(x)
    assert flat.shape == (ROWS, likelihood.flat_features(p.shape))
    assert flat.is_floating_point()


def test_settings_survive_being_written(likelihood):
    assert create("likelihoods", dump(likelihood, "likelihoods")) == likelihood
