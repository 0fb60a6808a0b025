"""Where imported data lie and how they are read: a file or folder, a part of it, and options."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError

__all__ = [
    "MISSING",
    "Raw",
    "ReadOptions",
    "Reference",
    "key_texts",
    "refuse_bad",
    "refuse_bad_sparse",
    "refuse_missing",
    "split_names",
]

MISSING = ("", "na", "n/a", "nan", "null", "<na>")
"""Texts, whatever their case, that stand for a missing value."""


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
        """Read `PATH` or `PATH:PART`; both may have colons, and the longest existing path counts.

        Where nothing exists, the path ends at the first colon behind a suffix.
        """
        if os.path.exists(text):  # noqa: PTH110 (Path.exists raises for names that are too long)
            return cls(Path(text))
        cuts = [i for i, letter in enumerate(text) if letter == ":" and 0 < i < len(text) - 1]
        existing = [i for i in cuts if os.path.exists(text[:i])]  # noqa: PTH110
        named = [i for i in cuts if Path(text[:i]).suffix]
        for at in (*existing[-1:], *named[:1]):
            return cls(Path(text[:at]), text[at + 1 :])
        return cls(Path(text))

    def __str__(self) -> str:
        return f"{self.path}:{self.part}" if self.part else str(self.path)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the user says of a file where a guess would be made.

    Args:
        header: line of the column names in a text table, from 1; 0 if there is none.
        separator: of the cells of a text table.
        index: column that names the rows; `none` if no column does.
        na_tokens: texts that stand for missing values, in place of `MISSING`; an empty cell is
            missing anyway.
    """

    header: int | None = None
    separator: str | None = None
    index: str | None = None
    na_tokens: tuple[str, ...] | None = None

    def is_missing(self, text: str) -> bool:
        """Whether a text stands for a missing value.

        Examples:
            >>> ReadOptions().is_missing("NaN"), ReadOptions(na_tokens=("-",)).is_missing("NaN")
            (True, False)
        """
        stripped = text.strip()
        if self.na_tokens is None:
            return stripped.lower() in MISSING
        return stripped in {"", *self.na_tokens}

    def to_dict(self) -> dict[str, Any]:
        """What was said, as JSON."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ReadOptions:
        """From JSON that `to_dict` gave."""
        tokens = raw.get("na_tokens")
        return cls(**{**raw, "na_tokens": None if tokens is None else tuple(tokens)})


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """Values as a file has them, before anything is decided about them.

    Args:
        values: (rows, ...) numbers, or (rows,) texts of one column, or a sparse matrix (CSR).
        columns: names of the values of a row, where the file has them.
        keys: (rows,) texts that name the rows, where the file has them.
        levels: column of texts -> its classes, by the positions that stand in `values`.
        note: a phrase for the line of the modality in the report, such as channels moved.
        guesses: a sentence for each guess that was made while reading.
        warnings: a sentence for each thing that the user should look at.
    """

    values: Any
    columns: tuple[str, ...] = ()
    keys: NDArray[np.str_] | None = None
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""
    guesses: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def split_names(part: str, known: Collection[str]) -> list[str]:
    """Names of columns in the part of a reference: one, or several with commas between them.

    Examples:
        >>> split_names('age,"length, cm"', ["age", "length, cm"])
        ['age', 'length, cm']
    """
    return [part] if part in known else next(csv.reader([part]))


def key_texts(
    values: NDArray[np.generic], where: str, options: ReadOptions | None = None
) -> NDArray[np.str_]:
    """Keys as text: numbers without their zero decimals, texts without space around them.

    Raises:
        DataError: if they are not one text or whole number per row, or one is missing.

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
        is_whole = np.isfinite(values) & (values == np.floor(values))
        if not is_whole.all():
            at = int(np.argmin(is_whole))
            msg = f"{where}, row {at}: {values[at]} is no key: expected texts or whole numbers"
            raise DataError(msg)
        values = values.astype(np.int64)
    if values.dtype.kind not in "iuSU":
        msg = f"{where} has values of type {values.dtype}: expected texts or whole numbers"
        raise DataError(msg)
    texts = np.char.strip(values.astype(np.str_))
    refuse_missing(texts, where, options)
    return texts


def refuse_missing(
    values: NDArray[np.generic], where: str, options: ReadOptions | None = None
) -> None:
    """Refuse texts that stand for a missing value, with the first place.

    Raises:
        DataError: naming place and row (from 0).

    Examples:
        >>> refuse_missing(np.array(["a", "NaN"]), "l.npy")
        Traceback (most recent call last):
        mvflow.core.errors.DataError: l.npy, row 1 is missing ('NaN'): remove such rows first...
    """
    if values.dtype.kind not in "SU":
        return
    rules = options or ReadOptions()
    texts, inverse = np.unique(values.astype(np.str_), return_inverse=True)
    missing = np.array([rules.is_missing(text) for text in texts], bool)[inverse]
    if missing.any():
        row = int(np.argmax(missing))
        text = str(values.astype(np.str_).reshape(-1)[row])
        shown = f" ({text!r})" if text else ""
        msg = (
            f"{where}, row {row} is missing{shown}: remove such rows first, "
            "or say which texts are missing (--na-token)"
        )
        raise DataError(msg)


def refuse_bad(values: NDArray[np.generic], where: str, columns: Sequence[str] = ()) -> None:
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


def refuse_bad_sparse(matrix: Any, where: str, columns: Sequence[str] = ()) -> None:
    """The same of a sparse matrix of compressed rows.

    Raises:
        DataError: naming file, row (from 0) and column.
    """
    if matrix.dtype.kind != "f":
        return
    with np.errstate(invalid="ignore"):
        is_bad = ~(np.abs(matrix.data) <= np.finfo(np.float32).max)
    if is_bad.any():
        place = int(np.argmax(is_bad))
        row = int(np.searchsorted(matrix.indptr, place, "right")) - 1
        column = int(matrix.indices[place])
        name = repr(columns[column]) if columns else column
        msg = (
            f"{where}, row {row}, column {name} is {matrix.data[place]}: "
            "expected finite numbers; remove or impute such rows first"
        )
        raise DataError(msg)
