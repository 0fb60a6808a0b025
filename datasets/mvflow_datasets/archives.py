"""Files by name, wherever they are published: in a folder, in a zip or in a tar archive.

Nothing is unpacked beside the user's files, and memory holds the names, not the contents.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from mvflow.core import DataError
from mvflow.core.files import open_regular, reading
from mvflow.core.memory import check_memory

__all__ = ["ENDINGS", "Files", "check_zip", "open_files"]

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

MAX_RATIO = 100
"""How many times its own size a compressed archive may unpack to: pictures and sound reach 10."""

_SMALL = 1 << 26
_UNPACK: dict[bytes, Callable[[IO[bytes]], Any]] = {  # by the first bytes of the archive
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZ": bz2.BZ2File,
    b"\xfd7": lzma.LZMAFile,
}
_DAMAGE = (EOFError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


class Files(Protocol):
    """Files that are read by name."""

    place: Path

    @property
    def names(self) -> list[str]:
        """Paths of all files inside, with `/`, in no particular order."""
        ...

    def read(self, name: str) -> bytes:
        """Contents of one file.

        Raises:
            DataError: if it is damaged or cannot be read.
        """
        ...


def open_files(place: Path) -> Files:
    """Open a folder, a zip or a tar archive, compressed or not.

    Raises:
        DataError: if it is neither, is damaged, or cannot be read.

    Examples:
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_text("hello")
        >>> open_files(folder).read("a.txt")
        b'hello'
    """
    if place.is_dir():
        return _Folder(place)
    file = open_regular(place)
    try:
        with reading(place):
            return (_Zip if zipfile.is_zipfile(file) else _Tar)(place, file)
    except BaseException as error:
        file.close()
        if isinstance(error, _DAMAGE):
            raise _damaged(place, error) from error
        raise


def check_zip(archive: zipfile.ZipFile, name: str, what: str) -> None:
    """Refuse a file in a zip that would not fit into memory, before it is unpacked.

    Raises:
        DataError: if it would not.
    """
    check_memory(archive.getinfo(name).file_size, what)


class _Folder:
    def __init__(self, place: Path) -> None:
        self.place = place

    @property
    def names(self) -> list[str]:
        walk = os.walk(self.place)
        return [
            (Path(folder) / file).relative_to(self.place).as_posix()
            for folder, _, files in walk
            for file in files
        ]

    def read(self, name: str) -> bytes:
        with open_regular(self.place / name) as file, reading(self.place / name):
            return file.read()


class _Zip:
    def __init__(self, place: Path, file: IO[bytes]) -> None:
        self.place = place
        self._zip = zipfile.ZipFile(file)
        weakref.finalize(self, file.close)

    @property
    def names(self) -> list[str]:
        return [name for name in self._zip.namelist() if not name.endswith("/")]

    def read(self, name: str) -> bytes:
        check_zip(self._zip, name, str(self.place / name))
        try:
            return self._zip.read(name)
        except (*_DAMAGE, NotImplementedError, OSError, RuntimeError) as error:
            raise _damaged(self.place / name, error) from error


class _Tar:
    """A tar archive; where its files lie is noted in one pass, then each is read from there.

    A compressed one cannot be read at any place, so it is unpacked into a nameless temporary file.
    """

    def __init__(self, place: Path, file: IO[bytes]) -> None:
        self.place = place
        self._file = _unpacked(place, file)
        weakref.finalize(self, self._file.close)
        self._where = _listed(self._file)

    @property
    def names(self) -> list[str]:
        return list(self._where)

    def read(self, name: str) -> bytes:
        offset, size = self._where[name]
        check_memory(size, str(self.place / name))
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise _damaged(self.place / name, EOFError("unexpected end of data"))
        return data


def _unpacked(place: Path, packed: IO[bytes]) -> IO[bytes]:
    """The archive itself, or the nameless file into which it was unpacked."""
    packed.seek(0)
    unpack = _UNPACK.get(packed.read(2))
    packed.seek(0)
    if unpack is None:
        return packed
    limit = _SMALL + MAX_RATIO * os.fstat(packed.fileno()).st_size
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115, closed with the archive
    try:
        with packed, unpack(packed) as stream:
            while block := stream.read(1 << 20):
                if unpacked.tell() + len(block) > limit:
                    msg = (
                        f"{place} unpacks to more than {MAX_RATIO} times its size: it is not "
                        "what was published"
                    )
                    raise DataError(msg)
                unpacked.write(block)
        unpacked.seek(0)
    except BaseException:
        unpacked.close()
        raise
    return unpacked


def _listed(file: IO[bytes]) -> dict[str, tuple[int, int]]:
    """Name -> offset and size of each file in a tar archive."""
    where = {}
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            vars(archive)["members"].clear()  # else it keeps a large object per file
            if member.isreg() and not member.issparse():
                where[member.name] = (member.offset_data, member.size)
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # the mark of the end
            raise EOFError("unexpected end of data")
    return where


def _damaged(place: Path, error: Exception) -> DataError:
    return DataError(f"{place} is truncated or damaged ({error}): download it again")
