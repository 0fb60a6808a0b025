"""Where imported data lie and how they are read: a file or folder, a part of it, and options."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError, UsageError, unknown_name

__all__ = [
    "HINT",
    "MEANINGS",
    "MISSING",
    "Raw",
    "ReadOptions",
    "Reference",
    "key_texts",
    "missing_texts",
    "refuse_missing",
    "split_names",
]

MISSING = ("", "na", "n/a", "nan", "null", "<na>")
"""Texts, whatever their case, that stand for a missing value."""
MEANINGS = ("refuse", "row", "values")
"""What a missing value can mean, see `ReadOptions.missing`."""
HINT = (
    "--missing row says that such rows lack the modality, --missing values that only such values "
    "are absent"
)


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
        usual_index: column that names the rows where there is one of this name and `index` does
            not say otherwise.
        na_tokens: texts that stand for missing values, in place of `MISSING`; an empty cell is
            missing anyway.
        missing: what a missing value (an empty cell, NaN, an empty image file) means: `refuse`
            it, the `row` lacks the modality, or these `values` alone are absent. None: refuse.
    """

    header: int | None = None
    separator: str | None = None
    index: str | None = None
    na_tokens: tuple[str, ...] | None = None
    missing: str | None = None
    usual_index: str | None = None

    def __post_init__(self) -> None:
        if self.missing not in {None, *MEANINGS}:
            raise UsageError(
                unknown_name("meaning of missing values", str(self.missing), MEANINGS)
            )

    def index_of(self, columns: Collection[str]) -> str | None:
        """The column of a table that is said to name its rows, if any is.

        Examples:
            >>> options = ReadOptions(usual_index="id")
            >>> options.index_of(["age", "id"]), options.index_of(["age"])
            ('id', None)
        """
        if self.index is None and self.usual_index in {*columns, "none"}:
            return self.usual_index
        return self.index

    @property
    def takes_missing(self) -> bool:
        """Whether values may be missing."""
        return self.missing in MEANINGS[1:]

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
        values: (rows, ...) numbers, or (rows,) texts of one column, or a sparse matrix (CSR);
            NaN where a value is absent.
        columns: names of the values of a row, where the file has them.
        keys: (rows,) texts that name the rows, where the file has them.
        levels: column of texts -> its classes, by the positions that stand in `values`.
        note: a phrase for the line of the modality in the report, such as channels moved.
        guesses: a sentence for each guess that was made while reading.
        warnings: a sentence for each thing that the user should look at.
        lacks: (rows,) which rows lack the modality, where some do; their values are not read.
    """

    values: Any
    columns: tuple[str, ...] = ()
    keys: NDArray[np.str_] | None = None
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""
    guesses: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    lacks: NDArray[np.bool_] | None = None


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
    values: NDArray[np.generic], where: str, options: ReadOptions | None = None, hint: str = ""
) -> None:
    """Refuse texts that stand for a missing value, with the first place.

    Raises:
        DataError: naming place and row (from 0).

    Examples:
        >>> refuse_missing(np.array(["a", "NaN"]), "l.npy")
        Traceback (most recent call last):
        mvflow.core.errors.DataError: l.npy, row 1 is missing ('NaN'): remove such rows first...
    """
    missing = missing_texts(values, options or ReadOptions())
    if missing.any():
        row = int(np.argmax(missing))
        text = str(values.astype(np.str_).reshape(-1)[row])
        shown = f" ({text!r})" if text else ""
        msg = (
            f"{where}, row {row} is missing{shown}: remove such rows first, "
            f"or say which texts are missing (--na-token){hint}"
        )
        raise DataError(msg)


def missing_texts(values: NDArray[np.generic], options: ReadOptions) -> NDArray[np.bool_]:
    """Which texts stand for a missing value; of numbers none do.

    Examples:
        >>> missing_texts(np.array(["a", "NaN", ""]), ReadOptions()).tolist()
        [False, True, True]
    """
    if values.dtype.kind not in "SU":
        return np.zeros(values.shape, np.bool_)
    texts, inverse = np.unique(values.astype(np.str_), return_inverse=True)
    missing = np.array([options.is_missing(text) for text in texts.tolist()], np.bool_)
    return missing[inverse.reshape(values.shape)]
