"""All-gather of rows over processes, for losses that compare all rows of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, distributed

__all__ = ["all_gather", "sharded"]

_is_sharded: ContextVar[bool] = ContextVar("_is_sharded", default=False)


@contextmanager
def sharded() -> Iterator[None]:
    """Within this block, the rows of a batch are divided among processes."""
    token = _is_sharded.set(True)
    try:
        yield
    finally:
        _is_sharded.reset(token)


def all_gather(x: Tensor) -> Tensor:
    """All-gather along the batch dimension, with gradients.

    In a loss that needs all rows of the global batch at once, such as InfoNCE. The rows come in
    the order of the processes; with one process they are `x` itself.

    Examples:
        >>> all_gather(torch.ones(2, 1)).shape
        torch.Size([2, 1])
    """
    return _AllGather.apply(x) if _is_sharded.get() else x


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)  # DDP divides by the number of processes later
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]
