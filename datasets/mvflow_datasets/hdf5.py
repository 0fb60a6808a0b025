"""HDF5 files that are written with care: a full disk is an error of Python's, not a crash."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py

from mvflow.core import UsageError
from mvflow.core.files import replacing

__all__ = ["check_hdf5_name", "create_hdf5", "writing_hdf5"]

OTHER_FORMATS = {
    *(".csv", ".tsv", ".txt", ".parquet", ".json", ".toml", ".npy", ".npz", ".pt", ".safetensors"),
    *(".h5ad", ".h5mu", ".zip", ".png", ".jpg", ".svg", ".tif", ".tiff", ".html", ".md", ".pdf"),
}


def check_hdf5_name(path: Path, what: str) -> None:
    """Check that the name of an HDF5 file does not promise another format.

    Raises:
        UsageError: with a name that it could have.

    Examples:
        >>> check_hdf5_name(Path("a.csv"), "it is")
        Traceback (most recent call last):
        mvflow.core.errors.UsageError: a.csv ends in '.csv', but it is an HDF5 file: name it a.h5
    """
    if path.suffix.lower() in OTHER_FORMATS:
        msg = (
            f"{path} ends in {path.suffix!r}, but {what} an HDF5 file: "
            f"name it {path.with_suffix('.h5')}"
        )
        raise UsageError(msg)


@contextmanager
def create_hdf5(path: Path) -> Iterator[h5py.File]:
    """Write an HDF5 file, whole or not at all: see `mvflow.core.files.replacing`.

    Raises:
        DataError: if it cannot be written; then nothing is left, and an older one as it was.

    Examples:
        >>> from tempfile import mkdtemp
        >>> with create_hdf5(Path(mkdtemp()) / "a.h5") as file:
        ...     file["x"] = [1, 2, 3]
    """
    with (
        replacing(path) as temporary,
        temporary.open("r+b", buffering=0) as raw,
        writing_hdf5(raw) as file,
    ):
        yield file


@contextmanager
def writing_hdf5(raw: IO[bytes], **options: Any) -> Iterator[h5py.File]:
    """An HDF5 file that is written into an open file.

    HDF5 ends the process if a write fails once it closes a file. So it never hears of a failure:
    the first one is kept, and raised when the block has ended.

    Raises:
        OSError: if something could not be written.
    """
    quiet = _Quiet(raw)
    try:
        with h5py.File(quiet, "w", **options) as file:
            yield file
    finally:
        if quiet.error is not None:
            raise quiet.error


class _Quiet:
    """A file that keeps its first failure to itself and takes no writes from then on."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.error: OSError | None = None
        self.read, self.seek, self.tell, self.flush = raw.read, raw.seek, raw.tell, raw.flush
        self.readinto = raw.readinto  # type: ignore[attr-defined]

    def write(self, data: memoryview) -> int:
        rest = memoryview(data).cast("B")
        try:
            while rest and self.error is None:
                rest = rest[self._raw.write(rest) :]
        except OSError as error:
            self.error = error
        return memoryview(data).nbytes

    def truncate(self, size: int) -> int:
        try:
            if self.error is None:
                self._raw.truncate(size)
        except OSError as error:
            self.error = error
        return size
