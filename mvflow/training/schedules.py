"""Learning rate and beta as functions of progress alone, from 0 at the start to 1 at the end."""

from __future__ import annotations

import math

__all__ = ["SCHEDULES", "annealed"]


def _constant(progress: float) -> float:
    return 1.0


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _one_cycle(progress: float) -> float:
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * (1 - _cosine(progress / 0.3))
    return _cosine((progress - 0.3) / 0.7)


SCHEDULES = {"constant": _constant, "cosine": _cosine, "one-cycle": _one_cycle}
"""Name -> factor of the learning rate at a given progress."""


def annealed(start: float | None, end: float, share: float, progress: float) -> float:
    """Value that falls linearly in its logarithm from `start` to `end` over the first `share`.

    Examples:
        >>> [round(annealed(20, 1, 0.5, p), 2) for p in (0, 0.25, 0.5, 1)]
        [20.0, 4.47, 1.0, 1]
    """
    if start is None or share == 0 or progress > share:
        return end
    return start * (end / start) ** (progress / share)
