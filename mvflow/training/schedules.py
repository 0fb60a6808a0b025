"""Schedules of the learning rate as functions of the training progress in [0, 1]."""

from __future__ import annotations

import math

from mvflow.config import Training

__all__ = ["SCHEDULES", "rate_at"]


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


def rate_at(settings: Training, progress: float) -> float:
    """Learning rate at a given progress.

    Examples:
        >>> rate_at(Training(learning_rate=0.1, schedule="cosine"), 0.5)
        0.05
    """
    return settings.learning_rate * SCHEDULES[settings.schedule](progress)
