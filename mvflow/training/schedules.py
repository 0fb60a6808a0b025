"""Learning rate and beta as functions of progress alone, from 0 at the start to 1 at the end."""

from __future__ import annotations

import math
from typing import Any, overload

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
    """The learning rate of a step.

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
    """Value that falls linearly in its logarithm from `start` to `end` over the first `share`.

    Where `progress` is a tensor, so is what depends on it, in torch's default precision, and no
    value is read on the host: a captured step computes it anew.

    Examples:
        >>> [round(annealed(20, 1, 0.5, p), 2) for p in (0, 0.25, 0.5, 1)]
        [20.0, 4.47, 1.0, 1]
        >>> annealed(20, 1, 0.5, torch.tensor(0.25, dtype=torch.float64))
        tensor(4.4721)
    """
    if start is None or share == 0:
        return end
    if isinstance(progress, Tensor):
        falling: Tensor = start * (end / start) ** (progress / share)
        last: Any = end  # of several variants, a tensor, which `masked_fill` would not batch
        is_many, is_over = isinstance(last, Tensor), progress > share
        found = (
            torch.where(is_over, last, falling) if is_many else falling.masked_fill(is_over, end)
        )
        return found.to(torch.get_default_dtype())
    return end if progress > share else start * (end / start) ** (progress / share)
