"""Files that are either whole or not there: written to a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError

__all__ = [
    "append_line",
    "read_array",
    "read_json",
    "settle",
    "write_array",
    "write_atomically",
    "write_json",
    "writing",
]

CHECKSUM = 4
"""Bytes of a CRC-32 at the end of a file of rows."""

READ = 1 << 24
"""Bytes that are read at once to check it."""


def write_atomically(
    path: Path, write: Callable[[Path], object], *, previous: Path | None = None
) -> None:
    """Let `write` make a file under a temporary name beside `path`, then rename it to `path`.

    Whatever happens in between, a file at `path` is the old one or the new one, whole; after a
    power cut too, since the file is on the disk before it gets its name.

    Args:
        path: of the file.
        write: given the temporary name.
        previous: where the old file is kept. Between two renamings there is none at `path`.

    Raises:
        DataError: if the disk is full or the directory cannot be written.

    Examples:
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> write_atomically(path, lambda p: p.write_text("whole"))
        >>> path.read_text()
        'whole'
    """
    temporary = None
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            os.close(handle)
            temporary = Path(name)
            write(temporary)
            temporary.chmod(0o644)
            settle(temporary)
            if previous is not None and path.exists():
                path.replace(previous)
            temporary.replace(path)
            temporary = None
            settle(path.parent)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within this block, what the system says of a failed write to `path` is a sentence.

    Raises:
        DataError: if the disk is full or the directory cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise DataError(_reason(path, error)) from error


def append_line(path: Path, line: str) -> None:
    """Add one line to a text file. It may be lost in a power cut until `settle(path)`.

    Raises:
        DataError: if the disk is full or the directory cannot be written.
    """
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def settle(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some systems sync files only
            raise
    finally:
        os.close(handle)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, readably."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    write_atomically(path, lambda p: p.write_text(text, "utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: if the file is damaged.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} is damaged and cannot be read ({error})"
        raise DataError(msg) from error
    if not isinstance(value, dict):
        msg = f"{path} is damaged: expected a JSON object"
        raise DataError(msg)
    return value


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
        >>> path = Path(tempfile.mkdtemp()) / "a.npy"
        >>> write_array(path, [np.zeros((2, 3)), np.ones((1, 3))], 3)
        >>> read_array(path).shape
        (3, 3)
    """

    def write(temporary: Path) -> None:
        found, count = 0, 0
        with temporary.open("wb") as file:
            for block in blocks:
                plain = np.ascontiguousarray(block, "<f4")
                if count == 0:
                    head = io.BytesIO()
                    about = {"descr": "<f4", "fortran_order": False}
                    shape = (rows, *plain.shape[1:])
                    np.lib.format.write_array_header_1_0(head, {**about, "shape": shape})
                    found = zlib.crc32(head.getvalue())
                    file.write(head.getvalue())
                found = zlib.crc32(plain.data, found)
                file.write(plain.data)
                count += len(plain)
            file.write(found.to_bytes(CHECKSUM, "little"))
        assert count == rows

    write_atomically(path, write)


def read_array(path: Path) -> NDArray[np.float32]:
    """What `write_array` wrote, as a memory map; the file is read through once to check it.

    Raises:
        DataError: if the file is missing or damaged.
    """
    try:
        with path.open("rb") as file:
            left, found = path.stat().st_size - CHECKSUM, 0
            while left > 0 and (block := file.read(min(left, READ))):
                found, left = zlib.crc32(block, found), left - len(block)
            if found.to_bytes(CHECKSUM, "little") != file.read():
                msg = "its content does not fit its checksum"
                raise ValueError(msg)
        # Copy on write, for torch warns of what it may not write; nobody writes.
        array: NDArray[np.float32] = np.lib.format.open_memmap(path, "c")
    except (OSError, ValueError) as error:
        msg = f"{path} is missing or damaged ({error})"
        raise DataError(msg) from error
    return array


def _reason(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write {path}: the disk is full; nothing that was there is lost"
    return f"cannot write {path}: {(error.strerror or str(error)).lower()}"
