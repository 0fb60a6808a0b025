"""Factors of the learning rate and of beta as functions of progress alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvflow.systems.annealing import annealed
from mvflow.training.schedules import SCHEDULES


@given(st.sampled_from(sorted(SCHEDULES)), st.floats(0, 1))
def test_factors_lie_between_zero_and_one(name, progress):
    assert 0 <= SCHEDULES[name](progress) <= 1 + 1e-12


def test_each_schedule_at_its_landmarks():
    assert SCHEDULES["constant"](0.3) == 1
    np.testing.assert_allclose(
        [SCHEDULES["cosine"](p) for p in (0, 0.5, 1)], [1, 0.5, 0], atol=1e-15
    )
    one_cycle = [SCHEDULES["one-cycle"](p) for p in (0, 0.15, 0.3, 0.65, 1)]
    np.testing.assert_allclose(one_cycle, [0.04, 0.52, 1, 0.5, 0], atol=1e-15)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_have_no_jumps(name):
    values = [SCHEDULES[name](p) for p in np.linspace(0, 1, 1001)]
    assert np.abs(np.diff(values)).max() < 0.01


@given(st.floats(1.0, 100), st.floats(0.01, 1.0), st.floats(0.05, 0.95), st.floats(0, 1))
def test_annealing_is_linear_in_the_logarithm(start, end, share, progress):
    found = annealed(start, end, share, progress)
    expected = math.log(start) + (math.log(end) - math.log(start)) * min(progress / share, 1)
    assert math.log(found) == pytest.approx(expected, abs=1e-9)


@given(st.floats(0, 1))
def test_without_a_start_or_a_share_nothing_is_annealed(progress):
    assert annealed(None, 2.5, 0.5, progress) == 2.5
    assert annealed(20, 2.5, 0, progress) == 2.5
