"""A file that is read at any place, and that must stay as it was when it was opened."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError
from mvflow.core.files import open_regular, reading

__all__ = ["OpenedFile"]


class OpenedFile:
    """Reads bytes of a file, also from many threads; it is closed with its last reader.

    Not by memory map: a map of a file that somebody truncates ends the process.

    Args:
        path: of the file.

    Raises:
        MissingFileError: if there is none.
        DataError: if it cannot be read, or is no file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = open_regular(path)
        weakref.finalize(self, file.close)
        self._file = file
        self._lock = threading.Lock()
        self._state = self._now()
        self.size = self._state[0]

    def read(self, start: int, stop: int) -> bytes:
        """Bytes of the file.

        Raises:
            DataError: as `read_into`.
        """
        out = np.empty(stop - start, np.uint8)
        self.read_into(out, [(0, len(out), start)])
        return out.tobytes()

    def read_into(self, out: NDArray[Any], pieces: Iterable[tuple[int, int, int]]) -> None:
        """Fill parts of a contiguous array.

        Args:
            out: the array.
            pieces: from which to which byte of it, and from which place of the file on.

        Raises:
            DataError: if the file was changed since it was opened, or cannot be read.
        """
        data, handle = out.reshape(-1).view(np.uint8).data, self._file.fileno()
        read_at = getattr(os, "preadv", self._read_at)
        with reading(self.path):
            for start, stop, place in pieces:
                at = start
                while at < stop:
                    if not (count := read_at(handle, [data[at:stop]], place + at - start)):
                        self._changed("truncated")
                    at += count
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Check that nobody has written to the file since it was opened.

        Raises:
            DataError: if somebody has.
        """
        if self._now() != self._state:
            self._changed("changed")

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def _changed(self, how: str) -> None:
        msg = (
            f"{self.path} was {how} while it was being read: "
            "put it back, or run this again with the new one"
        )
        raise DataError(msg)

    def _read_at(self, handle: int, buffers: list[memoryview], place: int) -> int:
        """What `os.preadv` does, where there is none."""
        with self._lock:
            os.lseek(handle, place, os.SEEK_SET)
            data = os.read(handle, len(buffers[0]))
        buffers[0][: len(data)] = data
        return len(data)
