"""Ordinary differential equations, solved on a grid of times that is given."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from mvflow.core import Array

__all__ = ["heun"]


def heun(velocity: Callable[[float, Any], Any], start: Array, times: Sequence[float]) -> Array:
    """Solve dy/dt = velocity(t, y) from times[0] to times[-1] by Heun's method, of order two.

    The steps are those of the grid, whatever y is: no entry of y changes how another is solved,
    as it would where steps adapt to all of them.

    Args:
        velocity: (t, y) -> dy/dt, of the shape of y.
        start: y at times[0].
        times: rising or falling, two or more.

    Returns:
        y at times[-1].

    Examples:
        >>> import numpy as np
        >>> y = heun(lambda t, y: -y, np.ones(1), np.linspace(0, 1, 101).tolist())
        >>> y.round(4), round(float(np.exp(-1)), 4)
        (array([0.3679]), 0.3679)
    """
    y = start
    for now, then in pairwise(times):
        step = then - now
        slope = velocity(now, y)
        y = y + 0.5 * step * (slope + velocity(then, y + step * slope))
    return y
