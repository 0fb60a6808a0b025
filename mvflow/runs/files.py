"""Arrays of rows as files with a checksum; what else a run writes is in `mvflow.core.files`."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError
from mvflow.core.files import (
    append_line,
    fsync,
    open_regular,
    read_json,
    write_atomically,
    write_json,
    writing,
)

__all__ = [
    "append_line",
    "read_array",
    "read_json",
    "fsync",
    "write_array",
    "write_atomically",
    "write_json",
    "writing",
]

CHECKSUM = 4
"""Bytes of a CRC-32 at the end of a file of rows."""

READ = 1 << 24
"""Bytes that are read at once to check it."""


def write_array(path: Path, blocks: Iterable[NDArray[Any]], rows: int) -> None:
    """Write float32 rows, given in blocks, as an .npy file with a CRC-32 behind it, atomically.

    They are written as they come, so they need not all be in memory. (Not through a memory map:
    where the disk is full, that ends the process.)

    Args:
        path: of the file.
        blocks: (rows, ...) each.
        rows: of all blocks together.

    Raises:
        DataError: if the disk is full or the directory cannot be written.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.npy"
        >>> write_array(path, [np.zeros((2, 3)), np.ones((1, 3))], 3)
        >>> read_array(path).shape
        (3, 3)
    """

    def write(temporary: Path) -> None:
        checksum, count = 0, 0
        with temporary.open("wb") as file:
            for block in blocks:
                plain = np.ascontiguousarray(block, "<f4")
                if count == 0:
                    head = io.BytesIO()
                    about = {"descr": "<f4", "fortran_order": False}
                    shape = (rows, *plain.shape[1:])
                    np.lib.format.write_array_header_1_0(head, {**about, "shape": shape})
                    checksum = zlib.crc32(head.getvalue())
                    file.write(head.getvalue())
                checksum = zlib.crc32(plain.data, checksum)
                file.write(plain.data)
                count += len(plain)
            file.write(checksum.to_bytes(CHECKSUM, "little"))
        assert count == rows

    write_atomically(path, write)


def read_array(path: Path) -> NDArray[np.float32]:
    """What `write_array` wrote, as a memory map; the file is read through once to check it.

    Raises:
        DataError: if the file is missing or damaged.
    """
    try:
        with open_regular(path) as file:
            remaining, checksum = path.stat().st_size - CHECKSUM, 0
            while remaining > 0 and (block := file.read(min(remaining, READ))):
                checksum, remaining = zlib.crc32(block, checksum), remaining - len(block)
            if checksum.to_bytes(CHECKSUM, "little") != file.read():
                msg = "its content does not fit its checksum"
                raise ValueError(msg)
        # Copy on write, for torch warns of what it may not write; nobody writes.
        array: NDArray[np.float32] = np.lib.format.open_memmap(path, "c")
    except (OSError, ValueError) as error:  # also our own DataError
        msg = f"{path} is missing or damaged ({error})"
        raise DataError(msg) from error
    return array
