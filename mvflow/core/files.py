"""Files that are read and written with care: whole or not there, and nothing but files.

What is written grows under an unpredictable name beside its place and is renamed when it is
complete. Links are not followed when writing; folders, devices and pipes are neither replaced
nor waited for. Whatever the system says of a failure becomes one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mvflow.core.errors import DataError

__all__ = [
    "MissingFileError",
    "append_line",
    "check_depth",
    "check_shape",
    "json_text",
    "lock",
    "open_append",
    "open_regular",
    "parse_json",
    "read_bytes",
    "read_json",
    "reading",
    "replacing",
    "fsync",
    "write_atomically",
    "write_json",
    "writing",
]

MAX_TEXT = 1 << 26
"""Bytes that a JSON file of ours may have: 64 MiB are far more than any has."""

MAX_DEPTH = 64
"""Levels that objects and lists in a file of ours may have; Python's recursion ends at 1000."""

_TEMPORARY = tempfile.gettempprefix()  # hidden names of ours begin with a dot, then this
_KINDS = (
    (stat.S_ISDIR, "it is a folder"),
    (stat.S_ISFIFO, "it is a named pipe"),
    (stat.S_ISSOCK, "it is a socket"),
    (stat.S_ISLNK, "it is a symbolic link"),
)
_FULL = {errno.ENOSPC, errno.EDQUOT}


class MissingFileError(DataError):
    """There is no such file."""


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a file for reading, and nothing but a file: a pipe or a device is not waited for.

    Raises:
        MissingFileError: if there is nothing.
        DataError: if it is no file, or cannot be opened.

    Examples:
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> _ = path.write_text("hello")
        >>> with open_regular(path) as file:
        ...     file.read()
        b'hello'
    """
    with reading(path):
        flags = os.O_RDONLY | _flag("O_NONBLOCK") | _flag("O_BINARY")
        handle = os.open(path, flags)
        if stat.S_ISREG(mode := os.fstat(handle).st_mode):
            return os.fdopen(handle, "rb")
    os.close(handle)
    msg = f"cannot read {path}: {_kind(mode)}, expected a file"
    raise DataError(msg)


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Within this block, what the system says of a failed read of `path` is a sentence.

    Raises:
        MissingFileError: if there is nothing.
        DataError: if it cannot be read.
    """
    try:
        _check_name(path)
        yield
    except FileNotFoundError as error:
        msg = f"there is no file {path}"
        raise MissingFileError(msg) from error
    except OSError as error:
        msg = f"cannot read {path}: {_reason(error)}"
        raise DataError(msg) from error


def read_bytes(path: str | Path, limit: int) -> bytes:
    """All bytes of a file that has at most `limit` of them.

    Raises:
        MissingFileError: if there is nothing.
        DataError: if it is larger, is no file, or cannot be read.
    """
    with open_regular(path) as file, reading(path):
        data = file.read(limit + 1)
    if len(data) > limit:
        msg = f"{path} has more than {limit:,} bytes: it is not such a file"
        raise DataError(msg)
    return data


@contextlib.contextmanager
def replacing(path: Path, *, previous: Path | None = None) -> Iterator[Path]:
    """Yield an empty file's name that becomes `path` if the block ends well, and vanishes if not.

    Whatever happens in between, a file at `path` is the old one or the new one, whole; after a
    power cut too, since the file is on the disk before it gets its name. A new file has the
    rights that the process gives to new files, one that replaces another has those of the other.

    Args:
        path: of the file. A symbolic link there is replaced, not what it leads to.
        previous: where the old file is kept. Between two renamings there is none at `path`.

    Raises:
        DataError: if the disk is full, the folder cannot be written, or what is at `path` is no
            file.
    """
    with writing(path):
        mode = _mode_of(path)
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    try:  # before there is a file, so that an interruption leaves none
        with writing(path):
            _create(temporary, mode)
            yield temporary
            fsync(temporary)
            if previous is not None and path.exists():
                path.replace(previous)
            temporary.replace(path)
            fsync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(
    path: Path, write: Callable[[Path], object], *, previous: Path | None = None
) -> None:
    """Let `write` fill a file under a temporary name beside `path`: see `replacing`.

    Args:
        path: of the file.
        write: given the temporary name.
        previous: where the old file is kept.

    Raises:
        DataError: if it cannot be written.

    Examples:
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> write_atomically(path, lambda p: p.write_text("whole"))
        >>> path.read_text()
        'whole'
    """
    with replacing(path, previous=previous) as temporary:
        write(temporary)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within this block, what the system says of a failed write to `path` is a sentence.

    Raises:
        DataError: if the disk is full or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        msg = f"cannot write {path}: {_reason(error)}"
        raise DataError(msg) from error


def append_line(path: Path, line: str) -> None:
    """Add one line to a text file. It may be lost in a power cut until `fsync(path)`.

    Raises:
        DataError: if the disk is full, the folder cannot be written, or there is a link, a pipe
            or a device in place of a file.
    """
    with writing(path), open_append(path) as file:
        file.write(f"{line}\n".encode())


def open_append(path: Path) -> IO[bytes]:
    """Open a file to add to its end; it is made if there is none.

    Raises:
        OSError: if there is a link, a pipe or a device in its place, or it cannot be written.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | _flag("O_NOFOLLOW") | _flag("O_NONBLOCK")
    _mode_of(path, links=False)
    return os.fdopen(os.open(path, flags | _flag("O_BINARY"), 0o666), "ab", buffering=0)


def lock(file: IO[bytes], *, wait: bool = False) -> None:
    """Keep other processes from a file until it is closed; without such locks, do nothing.

    Args:
        file: an open file.
        wait: until no other process has it.

    Raises:
        BlockingIOError: if another process has it.
    """
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some systems sync files only
            raise
    finally:
        os.close(handle)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object as `json_text` has it, its keys sorted."""
    text = json_text(value, sort_keys=True) + "\n"
    write_atomically(path, lambda p: p.write_text(text, "utf-8"))


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """JSON with a line for each row or cell: an object of plain values, or of lists of them.

    Examples:
        >>> print(json_text({"rows": [{"seed": 0, "values": [1, 2]}, {"seed": 1}]}))
        {
          "rows": [
            {"seed": 0, "values": [1, 2]},
            {"seed": 1}
          ]
        }
    """
    return _indented(json.loads(json.dumps(value, sort_keys=sort_keys)), "\n")


def _indented(value: Any, newline: str) -> str:
    if _is_row(value):
        return json.dumps(value)
    inner = f"{newline}  "
    if isinstance(value, dict):
        parts = [f"{json.dumps(k)}: {_indented(v, inner)}" for k, v in value.items()]
        return f"{{{inner}{f',{inner}'.join(parts)}{newline}}}"
    return f"[{inner}{f',{inner}'.join(_indented(v, inner) for v in value)}{newline}]"


def _is_row(value: Any) -> bool:
    """Whether it is a plain value, a list of them (if long, of numbers), or an object of these."""
    if isinstance(value, dict):
        return not any(isinstance(v, dict) or not _is_row(v) for v in value.values())
    long = isinstance(value, list) and len(json.dumps(value)) > 80
    parts = (dict, list, str) if long else (dict, list)
    return not isinstance(value, list) or not any(isinstance(v, parts) for v in value)


def read_json(path: Path, shape: Any = dict) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: of the file.
        shape: what is expected in it: see `check_shape`.

    Raises:
        DataError: if the file cannot be read, is damaged, or has another shape.
    """
    value: dict[str, Any] = parse_json(read_bytes(path, MAX_TEXT), str(path), shape)
    return value


def parse_json(data: bytes | str, what: str, shape: Any = dict) -> Any:
    """Parse JSON and compare it with the shape that it should have.

    Raises:
        DataError: if it is damaged or has another shape; the message begins with `what`.

    Examples:
        >>> parse_json("[1, 2]", "a line", [int])
        [1, 2]
    """
    try:
        value = json.loads(data)
        check_depth(value)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        msg = f"{what} is damaged and cannot be read ({reason})"
        raise DataError(msg) from error
    check_shape(value, shape, what)
    return value


def check_depth(value: Any) -> None:
    """Check that objects and lists lie in each other no deeper than in any file of ours.

    Raises:
        RecursionError: if they do, as the parsers raise for what is deeper still.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        nodes = (x.values() if isinstance(x, dict) else x for x in level)
        if not (level := [x for node in nodes for x in node if isinstance(x, dict | list)]):
            return
    msg = "it is nested too deeply"
    raise RecursionError(msg)


def check_shape(value: Any, shape: Any, what: str, key: str = "") -> None:
    """Compare a value that was read from a file with what is expected there.

    Args:
        value: parsed JSON or TOML.
        shape: a type; `{"key": shape}` for an object that has these keys (others are let pass),
            `{str: shape}` for one with any keys, `[shape]` for a list, a tuple of shapes for any
            of them. A float may be written as a whole number; `object` is anything.
        what: names the file in the message.
        key: where in the file the value lies.

    Raises:
        DataError: if it differs, with the file and the key.

    Examples:
        >>> check_shape({"stages": {"joint": 5}}, {"stages": {str: {"key": str}}}, "manifest.json")
        Traceback (most recent call last):
        mvflow.core.errors.DataError: manifest.json is damaged: 'stages.joint' is 5, expected an \
object
    """
    if isinstance(shape, tuple):
        if not any(_fits(value, each) for each in shape):
            raise _another(value, shape, what, key)
        shape = next(each for each in shape if _fits(value, each))
    elif not _fits(value, shape):
        raise _another(value, (shape,), what, key)
    if isinstance(shape, list):
        for i, each in enumerate(value):
            check_shape(each, shape[0], what, f"{key}[{i}]")
    if isinstance(shape, dict):
        wanted = dict.fromkeys(value, shape[str]) if str in shape else shape
        for name, each in wanted.items():
            inner = f"{key}.{name}" if key else str(name)
            if name not in value:
                msg = f"{what} is damaged: {inner!r} is missing"
                raise DataError(msg)
            check_shape(value[name], each, what, inner)


_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
}


def _fits(value: Any, shape: Any) -> bool:
    kind = shape if isinstance(shape, type) else type(shape)
    if kind is object:
        return True
    return type(value) is kind or (kind is float and type(value) is int)


def _another(value: Any, shapes: tuple[Any, ...], what: str, key: str) -> DataError:
    kinds = [shape if isinstance(shape, type) else type(shape) for shape in shapes]
    expected = " or ".join(_NAMES.get(kind, kind.__name__) for kind in kinds)
    shown = _NAMES[type(value)] if isinstance(value, dict | list) else repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    return DataError(
        f"{what} is damaged: {repr(key) if key else 'it'} is {shown}, expected {expected}"
    )


def _mode_of(path: Path, *, links: bool = True) -> int | None:
    """Rights of a file that is to be replaced, None if there is none.

    Raises:
        OSError: if it is no file.
    """
    _check_name(path)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if links and stat.S_ISLNK(mode):
        return None
    if not stat.S_ISREG(mode):
        reason = f"{_kind(mode)}, expected a file or nothing"
        raise OSError(reason)
    return stat.S_IMODE(mode) & 0o777


def _check_name(path: str | Path) -> None:
    if "\0" in str(path):
        msg = "its name has a zero byte"
        raise OSError(msg)


def _temporary_name(path: Path) -> Path:
    """Of a file beside `path`; nobody can know it."""
    short = path.name.encode()[:180].decode(errors="ignore")  # names have at most 255 bytes
    return path.with_name(f".{short}.{_TEMPORARY}{secrets.token_hex(8)}")


def _create(path: Path, mode: int | None) -> None:
    """Make an empty file where there is nothing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flag("O_NOFOLLOW")
    handle = os.open(path, flags, 0o666 if mode is None else mode)
    try:
        if mode is not None and hasattr(os, "fchmod"):
            os.fchmod(handle, mode)
    finally:
        os.close(handle)


def _kind(mode: int) -> str:
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "it is a device")


def _flag(name: str) -> int:
    """A flag of `os.open` that not all systems have."""
    return int(getattr(os, name, 0))


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in _FULL:
        return "the disk is full; nothing that was there is lost"
    text = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return str(text[:1].lower() + text[1:])
