"""Heun's method: exact where it must be, of order two, and no entry changes another."""

import numpy as np
import pytest
import torch

from mvflow.functional import heun


def test_a_velocity_linear_in_time_is_solved_exactly():
    """The trapezoidal rule has no error where the velocity is a line in t alone."""
    times = [0.0, 0.1, 0.7, 1.0]
    y = heun(lambda t, y: 3 - 4 * t + 0 * y, np.array([1.0, -2.0]), times)
    np.testing.assert_allclose(y, [2.0, -1.0], rtol=1e-14)  # + 3 - 2


@pytest.mark.parametrize("backwards", [False, True])
def test_the_error_falls_as_the_square_of_the_step(backwards):
    """dy/dt = y cos t has the solution exp(sin t), here on a grid that is not even."""

    def error(steps):
        times = [2 * (1 - (1 - k / steps) ** 2) for k in range(steps + 1)]
        times = times[::-1] if backwards else times
        y = heun(lambda t, y: y * np.cos(t), np.exp(np.sin(times[0])) * np.ones(1), times)
        return abs(y[0] - np.exp(np.sin(times[-1])))

    ratios = [error(n) / error(2 * n) for n in (32, 64, 128)]
    np.testing.assert_allclose(ratios, 4, rtol=0.1)  # 4 but for terms of the third order


def test_entries_do_not_see_each_other():
    start = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    times = np.linspace(0, 1, 9).tolist()
    together = heun(lambda t, y: -t * y**3, start, times)
    one = heun(lambda t, y: -t * y**3, start[3:4], times)
    assert torch.equal(together[3:4], one)
