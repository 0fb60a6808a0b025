"""Numbers that tell good draws from bad ones."""

import json
import math

import numpy as np
import pytest
import torch

from mvflow.inference.diagnostics import (
    MAX_ROWS,
    chain_diagnostics,
    exact,
    merged_rows,
    weighted,
)


def found(positions, rows):
    nothing = torch.zeros(rows)
    return chain_diagnostics(
        positions,
        acceptance=nothing + 0.8,
        divergences=nothing.int(),
        contacts=nothing,
        start_ess=nothing + 0.5,
    )


def independent(draws=200, chains=4, rows=3, latent=2):
    return torch.randn(draws, chains, rows, latent, generator=torch.Generator().manual_seed(0))


def test_independent_draws_have_rhat_one_and_full_effective_size():
    got = found(independent(), 3)
    assert (np.abs(got.rhat - 1) < 0.02).all()
    # bulk ESS of independent draws scatters by about a tenth around draws x chains
    assert (got.ess > 0.7 * 800).all()


def test_chains_that_disagree_have_a_large_rhat():
    apart = independent() + 5 * torch.arange(4)[:, None, None]
    got = found(apart, 3)
    assert (got.rhat > 2).all()
    assert (got.ess < 20).all()


def test_one_bad_dimension_of_one_row_is_seen():
    z = independent()
    z[:, 1, 2, 1] += 10
    got = found(z, 3)
    assert got.rhat[2] > 1.5
    assert (got.rhat[:2] < 1.05).all()


def test_stuck_chains_are_infinitely_bad():
    z = independent()
    z[:, :, 1] = torch.arange(4.0)[:, None]
    z[:, :, 2] = 1.0
    got = found(z, 3)
    assert got.rhat[0] < 1.05
    assert (got.rhat[1:] >= 1e3).all()
    assert np.isfinite(got.ess).all()


def test_chains_too_short_to_tell_count_as_one_draw():
    assert found(independent(3), 3).ess.tolist() == [1.0] * 3


def test_autocorrelation_lowers_the_effective_size_as_theory_says():
    """An AR(1) chain with coefficient r has draws (1 - r) / (1 + r) effective ones."""
    r, noise = 0.8, independent(2000, rows=1, latent=1)
    z = torch.zeros_like(noise)
    z[0] = noise[0]
    for t in range(1, len(z)):
        z[t] = r * z[t - 1] + math.sqrt(1 - r * r) * noise[t]
    expected = 8000 * (1 - r) / (1 + r)
    assert abs(found(z, 1).ess[0] / expected - 1) < 0.2  # the estimator's scatter at this length


def test_only_the_first_rows_are_examined():
    rows = MAX_ROWS + 5
    got = found(independent(8, 2, rows), rows)
    assert len(got.rhat) == len(got.ess) == MAX_ROWS
    assert len(got.acceptance) == rows


@pytest.mark.parametrize("share", [None, torch.tensor([0.0, 0.5])])
def test_exact_draws_need_no_chain(share):
    got = exact(share)
    summary = got.summary()
    assert summary["method"] == "exact"
    assert ("ball_contacts" in summary) == (share is not None)
    json.dumps(summary, allow_nan=False)


def test_the_summary_names_the_worst_row():
    z = independent()
    z[:, 1, 2, 1] += 10
    got = found(z, 3)
    summary = got.summary()
    assert summary["rhat_worst"] == got.rhat.max()
    assert summary["rows_above_1.05"] == pytest.approx(1 / 3)
    assert summary["ess_worst"] == got.ess.min()
    json.dumps(summary, allow_nan=False)
    near = got._replace(rhat=np.array([1.04, 1.05, 1.06, 1.3])).summary()
    assert (near["rows_above_1.05"], near["rhat_worst"]) == (0.5, 1.3)


def test_rows_drawn_exactly_have_ideal_numbers_beside_those_of_chains():
    sampled = found(independent(rows=2), 2)
    sampled = sampled._replace(improper=np.array([True, False]), divergences=np.array([4, 0]))
    exactly = exact(torch.tensor([0.25, 0.5]), torch.tensor([0.0, 0.125]))
    got = merged_rows(exactly, sampled, np.array([True, False, True, False]))
    assert got.improper.tolist() == [False, True, False, False]
    assert got.divergences.tolist() == [0, 4, 0, 0]
    assert got.acceptance.tolist() == [1, sampled.acceptance[0], 1, sampled.acceptance[1]]
    assert got.start_ess.tolist() == [1, 0.5, 1, 0.5]
    assert got.contacts.tolist() == [0.25, 0, 0.5, 0]
    assert got.moved.tolist() == [0, 0, 0.125, 0]
    assert got.largest_weight.size == 0  # chains have none
    np.testing.assert_array_equal(got.rhat, sampled.rhat)


def test_the_summary_of_resampled_draws_counts_heavy_tails_and_lone_candidates():
    got = weighted(torch.zeros(100, 4), contacts=torch.zeros(4))
    assert got.summary()["rows_khat_above_0.7"] == got.summary()["rows_dominated"] == 0
    got = got._replace(
        khat=np.array([0.2, 0.7, 0.71, np.inf]), largest_weight=np.array([0.1, 0.5, 0.6, 0.2])
    )
    summary = got.summary()
    assert (summary["rows_khat_above_0.7"], summary["khat_worst"]) == (0.5, 1e3)
    assert summary["rows_dominated"] == 1
    assert summary["ess_worst"] == summary["ess_median"] == pytest.approx(100)
    heavy = got._replace(khat=np.array([0.2, 0.3, 0.7, 0.8]))
    assert heavy.doubts() == "Pareto k of weights from 0.7 (1 rows)"
    json.dumps(summary, allow_nan=False)


def test_the_shape_of_the_tail_is_that_of_pareto_weights():
    """Weights u^-k have the tail index k, whatever factor they have."""
    u = torch.from_numpy(np.random.default_rng(0).random((4000, 1)))
    for k in (0.3, 0.9):
        for log_factor in (0.0, -1000.0):
            got = weighted(-k * u.log() + log_factor, contacts=torch.zeros(1))
            assert abs(got.khat[0] - k) < 0.15  # three standard errors of 190 weights in the tail
