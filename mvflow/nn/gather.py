"""Gathering of rows over processes, for objectives that compare all rows of a batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather_rows"]


def gather_rows(x: Tensor) -> Tensor:
    """Rows of all processes (rows, ...), with gradients; of a single process, x itself.

    Examples:
        >>> gather_rows(torch.ones(2, 1)).shape
        torch.Size([2, 1])
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x))
