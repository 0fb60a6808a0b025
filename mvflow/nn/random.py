"""torch's random numbers from a seed that is passed; global generators stay as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mvflow.core import derive_seed

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int, *path: str | int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within this block, torch's random numbers depend on `seed` and `path` alone.

    Everything torch draws is covered: initial weights, noise, dropout, other people's modules.

    Examples:
        >>> with seeded(0, "noise"):
        ...     a = torch.randn(3)
        >>> with seeded(0, "noise"):
        ...     b = torch.randn(3)
        >>> bool((a == b).all())
        True
    """
    place = torch.device(device)
    devices = [] if place.type == "cpu" else [place]
    with torch.random.fork_rng(devices, device_type=place.type if devices else "cuda"):
        torch.manual_seed(derive_seed(seed, *path))
        yield
