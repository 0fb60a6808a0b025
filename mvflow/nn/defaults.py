"""torch as it is when a process starts, whatever was set since."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["torch_defaults"]

_lock = threading.Lock()
_inside: list[torch.dtype] = []  # one for each block that some thread is in


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Within this block: float32 by default, gradients on, no inference mode.

    Examples:
        >>> with torch.inference_mode(), torch_defaults():
        ...     x = torch.ones(2, requires_grad=True)
        >>> x.is_inference(), x.dtype
        (False, torch.float32)
    """
    with _lock:  # the default is the process's: the last thread to leave puts it back
        _inside.append(_inside[0] if _inside else torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        with _lock:
            dtype = _inside.pop()
            if not _inside:
                torch.set_default_dtype(dtype)
