"""Files that are either whole or not there: written to a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mvflow.core import DataError

__all__ = ["append_line", "read_json", "settle", "write_atomically", "write_json", "writing"]


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


def _reason(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write {path}: the disk is full; nothing that was there is lost"
    return f"cannot write {path}: {(error.strerror or str(error)).lower()}"
