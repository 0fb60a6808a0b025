"""Locks of directories and files, which one process and thread at a time holds."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mvflow.core import DataError, LockedError
from mvflow.core.files import lock, open_append
from mvflow.runs.files import writing

__all__ = ["is_locked", "locked", "waiting_lock"]

_log = logging.getLogger(__name__)

_HELD: dict[Path, tuple[int, int]] = {}
"""Directory -> process and thread that hold its lock: a forked process does not."""

TRIES, PAUSE = 4, 0.05
"""How often a lock is tried, and seconds in between: `is_locked` of another takes it for less."""


@contextlib.contextmanager
def locked(path: Path, doing: str = "training") -> Iterator[bool]:
    """Hold a directory for writing; a second process is refused.

    The system releases it when this process ends, however it ends.

    Args:
        path: the directory.
        doing: what it is held for.

    Yields:
        Whether it is taken now: what this thread holds already, it may hold again.

    Raises:
        DataError: if the directory cannot be written.
        LockedError: if another process holds it.
    """
    resolved, holder = path.resolve(), (os.getpid(), threading.get_ident())
    if _HELD.get(resolved) == holder:
        yield False
        return
    with writing(path):
        file = open_append(path / ".lock")
    with file:
        try:
            with writing(path):
                _try_to_lock(file)
        except DataError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            msg = f"another process is {doing} in {path}: wait for it, or stop it first"
            raise LockedError(msg) from error
        _HELD[resolved] = holder
        try:
            yield True
        finally:
            del _HELD[resolved]


def is_locked(path: Path) -> bool:
    """Whether another process or thread holds a directory by `locked` now.

    Where that cannot be told, nobody does: who writes there is told why it cannot be.
    """
    place = path / ".lock"
    if not place.is_file():
        return False
    try:
        with open_append(place) as file:
            lock(file)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold the name of a file that is to be written; another process that does is waited for.

    Nothing is left beside the file.

    Raises:
        DataError: if its folder cannot be written.
    """
    place = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        with writing(path):
            while True:
                file = stack.enter_context(open_append(place))
                try:
                    lock(file)
                except BlockingIOError:
                    _log.warning("waiting for another process, which makes %s", path)
                    lock(file, wait=True)
                if _is_same_file(file, place):
                    break
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                place.unlink()


def _try_to_lock(file: IO[bytes]) -> None:
    for _ in range(TRIES - 1):
        with contextlib.suppress(BlockingIOError):
            lock(file)
            return
        time.sleep(PAUSE)
    lock(file)


def _is_same_file(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one of this name: who held it before has removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
