"""Names of devices."""

from __future__ import annotations

import torch

from mvflow.core import UsageError

__all__ = ["check_device"]


def check_device(word: str | torch.device) -> str:
    """Name of an available device; "auto" is a GPU where there is one, else the CPU.

    Raises:
        UsageError: if torch knows no such device, or it is not on this machine.

    Examples:
        >>> check_device("cpu")
        'cpu'
    """
    if word == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(word)
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        number = torch.cuda.device_count()
        available = ", ".join(["cpu", *(f"cuda:{i}" for i in range(number))])
        msg = f"device {word!r} cannot be used: expected 'auto' or one of {available}"
        raise UsageError(msg) from error
    return str(device)
