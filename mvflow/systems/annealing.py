"""Annealing of a weight over a stage, as a function of progress alone."""

from __future__ import annotations

from typing import Any, overload

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
