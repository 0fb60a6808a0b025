"""Locks of directories, which one process and thread at a time holds."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from mvflow.core import DataError, StageError
from mvflow.core.files import lock, open_append
from mvflow.runs.files import writing

__all__ = ["locked"]

_HELD: dict[Path, tuple[int, int]] = {}
"""Directory -> process and thread that hold its lock: a forked process does not."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold a directory for writing; a second process is refused.

    The system releases it when this process ends, however it ends.

    Yields:
        Whether it is taken now: what this thread holds already, it may hold again.

    Raises:
        DataError: if the directory cannot be written.
        StageError: if another process holds it.
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
                lock(file)
        except DataError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            msg = f"another process is training in {path}: wait for it, or stop it first"
            raise StageError(msg) from error
        _HELD[resolved] = holder
        try:
            yield True
        finally:
            del _HELD[resolved]
