"""Importance resampling from the experts: the law of the draws, and what is said of them."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from zuko.distributions import DiagNormal

from mvflow.core import UsageError
from mvflow.core.parts import create
from mvflow.functional import effective_sample_size, normal_poe
from mvflow.inference import SIR, HMCSampler, ProductOfExperts, draw
from mvflow.inference.diagnostics import MAX_ROWS, weighted
from mvflow.nn import seeded

LOCS = np.array([[[0.3, -0.2]], [[-0.1, 0.4]]])
SCALES = np.array([[[0.5, 0.8]], [[0.7, 0.6]]])


def product(locs=LOCS, scales=SCALES, radius=math.inf):
    return ProductOfExperts(
        [DiagNormal(*map(torch.from_numpy, pair)) for pair in zip(locs, scales, strict=True)],
        radius,
    )


def standard_error(found):
    """Of a mean of unit variance over resampled draws: theirs and that of the candidates."""
    return math.sqrt(1 / len(found.z) + 1 / found.diagnostics.ess[0])


def test_draws_have_the_moments_of_the_gaussian_product():
    loc, scale = normal_poe(LOCS, SCALES)
    with seeded(0, "sir"):
        found = SIR().sample(product(), 4000)
    u = ((found.z.numpy() - loc) / scale)[:, 0]
    error = standard_error(found)
    assert (np.abs(u.mean(0)) < 4 * error).all()
    assert (np.abs((u**2).mean(0) - 1) < 4 * math.sqrt(2) * error).all()
    assert abs((u[:, 0] * u[:, 1]).mean()) < 4 * error


def test_draws_follow_the_density_that_the_ball_cuts():
    """Uniform under the distribution function of |z|^2 of N(0, I) in 2-d, cut at radius 1."""
    zero, one = np.zeros((1, 1, 2)), np.ones((1, 1, 2))
    with seeded(0, "sir"):
        found = SIR(oversampling=100).sample(product(zero, one, 1.0), 500)
    u = (1 - np.exp(-found.z.square().sum(-1)[:, 0].numpy() / 2)) / (1 - math.exp(-0.5))
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert (found.z.norm(dim=-1) <= 1).all()
    outside, count = math.exp(-0.5), 100 * 500
    error = math.sqrt(outside * (1 - outside) / count)
    assert abs(found.diagnostics.contacts[0] - outside) < 4 * error


def test_candidates_of_all_rounds_are_chosen_in_proportion_to_their_weight():
    """In rounds of four candidates, moments are as in one round."""
    loc, scale = normal_poe(LOCS, SCALES)
    with seeded(0, "sir"):
        found = SIR(candidates=2, least=400).sample(product(), 500)
    u = ((found.z.numpy() - loc) / scale)[:, 0]
    assert (np.abs(u.mean(0)) < 4 * standard_error(found)).all()
    assert len(found.z.unique(dim=0)) > 250


def test_no_gradient_is_taken(monkeypatch):
    def forbidden(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(torch.autograd, "grad", forbidden)
    monkeypatch.setattr(ProductOfExperts, "value_and_grad", forbidden)
    assert SIR().sample(product(), 5).z.shape == (5, 1, 2)


def test_the_effective_size_is_that_of_the_weights():
    with seeded(0, "sir"):
        found = SIR(candidates=500, least=1).sample(product(), 3).diagnostics
    with seeded(0, "sir"):
        _, log_weights = product().candidates(500)
    expected = effective_sample_size(log_weights)
    np.testing.assert_allclose(found.ess, expected, rtol=1e-9)
    np.testing.assert_allclose(found.start_ess, expected / 1000, rtol=1e-9)
    assert found.method == "sir"


def test_pareto_k_is_the_shape_of_the_weights_tail():
    """Weights u^(-k) have it. The estimate scatters by .1 to .16; its mean over 50 rows by .03."""
    u = torch.rand(2000, 150, generator=torch.Generator().manual_seed(0)).double()
    k = torch.tensor([0.2, 0.5, 1.0]).repeat_interleave(50)
    found = weighted(-k * u.log(), contacts=torch.zeros(150))
    for value, rows in ((0.2, slice(50)), (0.5, slice(50, 100)), (1.0, slice(100, 150))):
        assert abs(found.khat[rows].mean() - value) < 0.08


def test_a_row_that_one_candidate_dominates_is_counted():
    log_weights = torch.zeros(1000, 4)
    log_weights[7, 1] = 20.0
    log_weights[7, 2] = math.log(998)  # just below half of the weight
    log_weights[:, 3] = -math.inf
    found = weighted(log_weights, contacts=torch.zeros(4))
    summary = found.summary()
    assert summary["rows_dominated"] == 2
    assert summary["ess_worst"] == 0
    np.testing.assert_allclose(found.ess[:2], [1000, 1], rtol=1e-3)
    assert np.isinf(found.khat[3])
    assert found.khat[0] == 0  # nor does the tail of the others tell of the one that dominates
    json.dumps(summary, allow_nan=False)


def test_experts_that_disagree_are_not_trusted():
    """In 32 dimensions, 12 standard deviations apart: none is drawn where the product lies."""
    locs = np.stack([np.zeros((2, 32)), np.zeros((2, 32))])
    locs[1, 1] = 6 / math.sqrt(32)
    with seeded(0, "sir"):
        found = SIR().sample(product(locs, np.full((2, 2, 32), 0.5)), 5).diagnostics
    assert found.khat[1] > 0.7
    assert found.ess[1] < 10 < found.ess[0]


def test_a_row_without_any_weight_is_finite_and_inside_and_known():
    locs = np.zeros((2, 3, 2))
    locs[:, 1] = 50.0
    with seeded(0, "sir"):
        found = SIR().sample(product(locs, np.full((2, 3, 2), 0.2), 2.0), 6)
    assert torch.isfinite(found.z).all()
    assert (found.z.norm(dim=-1) <= 2).all()
    assert found.diagnostics.ess[1] == 0
    assert found.diagnostics.largest_weight[1] == 1
    assert (found.diagnostics.ess[[0, 2]] > 100).all()


def test_only_the_first_rows_have_a_pareto_k():
    found = weighted(torch.randn(100, MAX_ROWS + 3), contacts=torch.zeros(MAX_ROWS + 3))
    assert len(found.khat) == MAX_ROWS
    assert len(found.ess) == MAX_ROWS + 3


def test_draws_say_by_which_method_they_were_made():
    assert create("samplers", {"kind": "sir", "candidates": 7}) == SIR(candidates=7)
    assert draw(product(), 3, SIR()).diagnostics.method == "sir"
    assert draw(product(), 3, HMCSampler(warmup=2, draws=5)).diagnostics.method == "mcmc"


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["candidates", "least", "oversampling"])
def test_settings_must_be_positive(name):
    with pytest.raises(UsageError, match=f"{name}: input should be greater than 0, got 0"):
        create("samplers", {"kind": "sir", name: 0})
