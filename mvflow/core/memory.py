"""How much memory there is, asked before it is taken."""

from __future__ import annotations

import sys
from pathlib import Path

from mvflow.core.errors import DataError

__all__ = ["available_memory", "check_memory"]

_SMALL = 1 << 24  # not worth to ask
_GROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def available_memory() -> int:
    """Bytes that this process can still take: of the machine, its container and its own limit.

    Examples:
        >>> available_memory() > 0
        True
    """
    return max(0, min(n for n in (_free(), _container(), _limit()) if n is not None))


def check_memory(nbytes: int, what: str) -> None:
    """Refuse what would not fit into memory, before it is allocated.

    Args:
        nbytes: what it would take.
        what: names it in the message, as in "array 'x' of a.npz".

    Raises:
        DataError: if there is less.

    Examples:
        >>> check_memory(8, "a number")
    """
    if nbytes <= _SMALL:
        return
    available = available_memory()
    if nbytes > available:
        msg = (
            f"{what} takes {nbytes / 2**20:,.0f} MiB of memory, and "
            f"{available / 2**20:,.0f} MiB are available: use a smaller one, "
            "or a machine with more memory"
        )
        raise DataError(msg)


def _free() -> int | None:
    """What the machine has to give."""
    try:
        words = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        return 1024 * int(words["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return sys.maxsize  # elsewhere than on Linux: the system itself says no


def _container() -> int | None:
    """What is left of a limit that a container or a batch system has set."""
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None
        taken = int((_GROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return int(limit) - max(0, taken - _file_cache())


def _file_cache() -> int:
    """Bytes of files that the system keeps in memory until somebody needs it."""
    try:
        stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
        return int(stat["active_file"]) + int(stat["inactive_file"])
    except (OSError, KeyError, ValueError):
        return 0


def _limit() -> int | None:
    """What is left of `ulimit -v`."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        pages = 0
    return soft - pages * resource.getpagesize()
