import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvflow.samplers import dual_averaging_init, dual_averaging_update


def reference(first, acceptances, target):
    """Algorithm 5 of Hoffman and Gelman (2014), one number at a time."""
    mu, shortfall, log_avg = math.log(10 * first), 0.0, 0.0
    for m, acceptance in enumerate(acceptances, start=1):
        shortfall = (1 - 1 / (m + 10)) * shortfall + (target - acceptance) / (m + 10)
        log_step = mu - math.sqrt(m) / 0.05 * shortfall
        log_avg = m**-0.75 * log_step + (1 - m**-0.75) * log_avg
    return log_step, log_avg


def test_equals_algorithm_5_in_each_row(xp):
    acceptances = np.random.default_rng(0).uniform(0.5, 1, size=(30, 3))
    first = np.array([0.01, 0.1, 2.0])
    state = dual_averaging_init(xp.asarray(first))
    for acceptance in acceptances:
        state = dual_averaging_update(state, xp.asarray(acceptance), target=0.7)
    expected = [reference(first[i], acceptances[:, i], 0.7) for i in range(3)]
    np.testing.assert_allclose(np.asarray(state.log_step), [e[0] for e in expected], rtol=1e-12)
    np.testing.assert_allclose(
        np.asarray(state.log_step_avg), [e[1] for e in expected], rtol=1e-12
    )
    assert state.num_updates == 30


def test_without_updates_the_first_step_size_holds(xp):
    state = dual_averaging_init(xp.asarray(np.array([0.3])))
    np.testing.assert_allclose(np.exp(np.asarray(state.log_step_avg)), 0.3, rtol=1e-15)


@settings(max_examples=30)
@given(st.floats(1e-3, 1e3), st.floats(0.3, 0.95))
def test_finds_the_step_size_with_the_wanted_acceptance(scale, target):
    """Where acceptance is exp(-step / scale), the answer is -scale * log(target)."""
    state = dual_averaging_init(np.array([0.1]))
    for _ in range(1000):
        acceptance = np.exp(-np.exp(state.log_step) / scale)
        state = dual_averaging_update(state, acceptance, target=target)
    reached = np.exp(-np.exp(state.log_step_avg) / scale)
    np.testing.assert_allclose(reached, target, atol=0.02)  # no noise: the rest of the transient


@pytest.mark.parametrize("acceptance", [0.0, 1.0])
def test_hopeless_rows_neither_underflow_nor_overflow(acceptance):
    state = dual_averaging_init(np.array([0.1], np.float32))
    for _ in range(3000):
        state = dual_averaging_update(state, np.array([acceptance], np.float32))
    step = np.exp(state.log_step)
    assert step.dtype == np.float32
    assert np.isfinite(step)
    assert step > 0
