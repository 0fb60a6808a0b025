"""Schedules of the learning rate and of beta, as functions of the training progress in [0, 1]."""

from __future__ import annotations

import math
from typing import overload

import torch
from torch import Tensor

from mvflow.config import Training

__all__ = ["SCHEDULES", "annealed", "rate_at"]


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


@overload
def annealed(start: float | None, end: float, share: float, progress: float) -> float: ...


@overload
def annealed(
    start: float | None, end: float, share: float, progress: Tensor
) -> float | Tensor: ...


def annealed(
    start: float | None, end: float, share: float, progress: float | Tensor
) -> float | Tensor:
    """Geometric interpolation from `start` to `end` over the first `share` of training.

    A tensor `progress` gives a tensor of torch's default dtype, without a host-device
    synchronisation, so that it can be part of a captured step.

    Examples:
        >>> [round(annealed(20, 1, 0.5, p), 2) for p in (0, 0.25, 0.5, 1)]
        [20.0, 4.47, 1.0, 1]
        >>> annealed(20, 1, 0.5, torch.tensor(0.25, dtype=torch.float64))
        tensor(4.4721)
    """
    if start is None or share == 0:
        return end
    if isinstance(progress, Tensor):
        value: Tensor = start * (end / start) ** (progress / share)
        return value.masked_fill(progress > share, end).to(torch.get_default_dtype())
    return end if progress > share else start * (end / start) ** (progress / share)
