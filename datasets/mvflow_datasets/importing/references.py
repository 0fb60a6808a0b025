"""Where imported data lie: a file or folder, and which part of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError

__all__ = ["Raw", "Reference", "key_texts", "refuse_bad"]


@dataclass(frozen=True, slots=True)
class Reference:
    """A file or folder, and a part of it: columns, an array, a place in an HDF5 file.

    Examples:
        >>> Reference.parse("clinical.csv:age,weight")
        Reference(path=PosixPath('clinical.csv'), part='age,weight')
    """

    path: Path
    part: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `PATH` or `PATH:PART`; a colon in the name of an existing file is left alone."""
        head, colon, part = text.rpartition(":")
        if colon and part and not Path(text).exists() and (Path(head).suffix or _exists(head)):
            return cls(Path(head), part)
        return cls(Path(text))

    def __str__(self) -> str:
        return f"{self.path}:{self.part}" if self.part else str(self.path)


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """Values as they were found, before anything is decided about them.

    Args:
        values: (rows, ...) numbers, or (rows,) texts of one column.
        columns: names of the values of a row, where the file has them.
        keys: (rows,) texts that name the rows, where the file has them.
        note: what a reader of the report must know, such as channels that were moved.
    """

    values: NDArray[np.generic]
    columns: tuple[str, ...] = ()
    keys: NDArray[np.str_] | None = None
    note: str = ""


def _exists(head: str) -> bool:
    return bool(head) and Path(head).exists()


def key_texts(values: NDArray[np.generic], where: str) -> NDArray[np.str_]:
    """Keys as text: numbers without their zero decimals, texts without space around them.

    Raises:
        DataError: if they are not one text or whole number per row.

    Examples:
        >>> key_texts(np.array([7.0, 12.0]), "ids.npy").tolist()
        ['7', '12']
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        msg = f"{where} has shape {values.shape}: expected one key for each row"
        raise DataError(msg)
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.floor(values))
        if not whole.all():
            at = int(np.argmin(whole))
            msg = f"{where}, row {at}: {values[at]} is no key: expected texts or whole numbers"
            raise DataError(msg)
        values = values.astype(np.int64)
    if values.dtype.kind not in "iuSU":
        msg = f"{where} has values of type {values.dtype}: expected texts or whole numbers"
        raise DataError(msg)
    texts = np.char.strip(values.astype(np.str_))
    if (texts == "").any():
        msg = f"{where}, row {int(np.argmax(texts == ''))}: the key is empty"
        raise DataError(msg)
    return texts


def refuse_bad(values: NDArray[np.generic], where: str, columns: tuple[str, ...] = ()) -> None:
    """Refuse NaN, infinity and what float32 cannot hold, with the first place.

    Raises:
        DataError: naming file, row (from 0) and column.

    Examples:
        >>> refuse_bad(np.array([[0.0, 1.0], [2.0, np.nan]]), "a.npy", ("x", "y"))
        Traceback (most recent call last):
        mvflow.core.errors.DataError: a.npy, row 1, column 'y' is nan: expected finite numbers...
    """
    if values.dtype.kind != "f":
        return
    chunk = max(1, 2**24 // max(1, values[:1].size))  # bounded memory for mapped files
    for start in range(0, len(values), chunk):
        part = values[start : start + chunk]
        bad = ~(np.abs(part) <= np.finfo(np.float32).max)
        if bad.any():
            row, *rest = (int(n) for n in np.argwhere(bad)[0])
            place = ""
            if len(rest) == 1:
                place = f", column {columns[rest[0]]!r}" if columns else f", column {rest[0]}"
            elif rest:
                place = f", position {tuple(rest)}"
            msg = (
                f"{where}, row {start + row}{place} is {part[(row, *rest)]}: "
                "expected finite numbers; remove or impute such rows first"
            )
            raise DataError(msg)
