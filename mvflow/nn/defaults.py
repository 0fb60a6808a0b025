"""torch as it is when a process starts, whatever was set since."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["torch_defaults"]


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Within this block: float32 by default, gradients on, no inference mode.

    Examples:
        >>> with torch.inference_mode(), torch_defaults():
        ...     found = torch.ones(2, requires_grad=True)
        >>> found.is_inference(), found.dtype
        (False, torch.float32)
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(before)
