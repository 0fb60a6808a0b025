"""Memory of a device: what is free, what was used, and what to do when it runs out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mvflow.core import StageError
from mvflow.training.stage import Stage

__all__ = ["free_memory", "peak_memory", "watched_memory"]

SHARE = 0.5
"""Part of the free memory that rows may take; the rest is for weights and activations."""

UNKNOWN = 2**31
"""Bytes that rows may take where the system does not say what is free."""

SHORTAGES = ("can't allocate memory", "not enough memory")
"""What torch's allocator on the CPU says in a RuntimeError."""


def free_memory(device: torch.device | str) -> int:
    """Bytes that rows may take on a device: half of what is free there now."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo")
    if lines.is_file():
        words = dict(line.split(":") for line in lines.read_text().splitlines())
        return int(SHARE * 1024 * int(words["MemAvailable"].split()[0]))
    if not hasattr(os, "sysconf"):
        return UNKNOWN
    return int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2)


def peak_memory(device: torch.device) -> int:
    """Largest number of bytes allocated on a GPU, or resident of this process on the CPU.

    0 where the system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@contextmanager
def watched_memory(stage: Stage) -> Iterator[None]:
    """Measure the peak anew within this block, and report a shortage in one sentence.

    Raises:
        StageError: if memory runs out.
    """
    device = stage.train.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        is_shortage = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not is_shortage and not any(message in str(error) for message in SHORTAGES):
            raise
        size = min(stage.settings.batch_size, len(stage.train))
        msg = (
            f"stage {stage.name!r} ran out of memory on {device} with {size} rows a batch: "
            f"choose a smaller {stage.name}.batch_size, or free memory that others hold there"
        )
        raise StageError(msg) from error
