"""Annealing of a weight over a stage, as a function of progress alone."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

__all__ = ["annealed"]


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
