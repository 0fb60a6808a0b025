"""Where numbers of 16 bits end: losses and log-determinants are sums over many terms."""

from __future__ import annotations

from torch import Tensor

__all__ = ["upcast_to_float32"]


def upcast_to_float32(x: Tensor) -> Tensor:
    """The same numbers in float32 where they are held in fewer bits; all else stays.

    Examples:
        >>> import torch
        >>> upcast_to_float32(torch.ones(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x.float() if x.is_floating_point() and x.itemsize < 4 else x
