"""Files that are either whole or not there: written to a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mvflow.core import DataError

__all__ = ["read_json", "write_atomically", "write_json"]


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name beside `path`, then rename it to `path`.

    Whatever happens in between, a file at `path` is the old one or the new one, whole.

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
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise DataError(_reason(path, error)) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


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
    if error.errno == errno.ENOSPC:
        return f"cannot write {path}: the disk is full; nothing that was there is lost"
    return f"cannot write {path}: {(error.strerror or str(error)).lower()}"
