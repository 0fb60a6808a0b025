"""Dual averaging of step sizes (Hoffman and Gelman 2014, Section 3.2), one step size a row."""

import math
from typing import NamedTuple

from jaxtyping import Float

from mvflow.core import Array, namespace

__all__ = ["DualAveraging", "dual_averaging_init", "dual_averaging_update"]

_LOG_RANGE = math.log(1e10)


class DualAveraging(NamedTuple):
    """State of dual averaging."""

    log_step: Float[Array, " rows"]
    """To be used in the next step of the warm-up."""
    log_step_avg: Float[Array, " rows"]
    """To be used once the warm-up is over."""
    shortfall: Float[Array, " rows"]
    """Weighted mean of target minus acceptance (H-bar of the paper)."""
    centre: Float[Array, " rows"]
    """Where `log_step` is drawn to: the log of ten times the first step size (mu)."""
    num_updates: int
    """Number of updates so far."""


def dual_averaging_init(step_size: Float[Array, " rows"]) -> DualAveraging:
    """State before the first update, for the given first step sizes.

    Examples:
        >>> import numpy as np
        >>> dual_averaging_init(np.array([1.0])).log_step_avg
        array([0.])
    """
    xp = namespace(step_size)
    log_step = xp.log(step_size)
    return DualAveraging(
        log_step=log_step,
        log_step_avg=log_step,
        shortfall=xp.zeros_like(log_step),
        centre=log_step + math.log(10.0),
        num_updates=0,
    )


def dual_averaging_update(
    state: DualAveraging,
    acceptance: Float[Array, " rows"],
    *,
    target: float = 0.8,
    gamma: float = 0.05,
    t0: float = 10.0,
    kappa: float = 0.75,
) -> DualAveraging:
    """Move each row's step size so that its acceptance nears `target` (Algorithm 5, Eq. 6).

    Args:
        state: from `dual_averaging_init` or from the previous update.
        acceptance: mean acceptance of the row's chains in the step just made.
        target: wanted acceptance.
        gamma: the smaller, the larger the moves.
        t0: the larger, the calmer the first moves.
        kappa: the larger, the faster the average forgets the first steps.

    Returns:
        The new state; step sizes stay within a factor 1e10 of the first one's tenfold, so
        that a row without any acceptable step does not underflow.

    Examples:
        >>> import numpy as np
        >>> state = dual_averaging_init(np.array([0.1, 0.1]))
        >>> state = dual_averaging_update(state, np.array([1.0, 0.0]))
        >>> np.exp(state.log_step).round(3)
        array([1.439, 0.234])
    """
    xp = namespace(acceptance)
    count = state.num_updates + 1
    share = 1.0 / (count + t0)
    shortfall = (1.0 - share) * state.shortfall + share * (target - acceptance)
    move = xp.clip(math.sqrt(count) / gamma * shortfall, -_LOG_RANGE, _LOG_RANGE)
    log_step = state.centre - move
    weight = count**-kappa
    log_step_avg = weight * log_step + (1.0 - weight) * state.log_step_avg
    return DualAveraging(log_step, log_step_avg, shortfall, state.centre, count)
