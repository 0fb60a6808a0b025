"""Tables: `.csv`, `.tsv` and `.parquet`, read by pandas; bad values are refused by place."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mvflow.core import DataError, UsageError, unknown_name
from mvflow_datasets.importing.layout import (
    guess_layout,
    is_number,
    open_text,
    ragged,
    readable,
    record_at,
)
from mvflow_datasets.importing.references import (
    MISSING,
    Raw,
    ReadOptions,
    Reference,
    key_texts,
    split_names,
)

__all__ = ["read_column", "read_table"]

MAX_CLASSES = 20
LABEL_NAMES = {"class", "classes", "label", "labels", "target", "y", "diagnosis", "cluster"}
INDEX_NAMES = {"id", "index", "idx", "row", "rownames", "sample", "sample_id", "unnamed"}


_CASES = (str, str.lower, str.upper, str.title, str.capitalize)
_MISSING = sorted({case(text) for text in MISSING for case in _CASES} | {"NaN"})


class _Table(Protocol):
    path: Path
    names: tuple[str, ...]
    """Columns of values, without that of the row names."""
    known: tuple[str, ...]
    """All columns."""
    guesses: tuple[str, ...]
    warnings: tuple[str, ...]

    def frame(self, columns: Sequence[str], *, as_texts: bool = False) -> pd.DataFrame:
        """The named columns, in this order; texts as they stand in the file, or numbers."""
        ...

    def row_names(self) -> NDArray[np.str_] | None:
        """(rows,) names of the rows, if there are any."""
        ...

    def place(self, row: int, column: str) -> tuple[str, str]:
        """Where a value stands, for messages, and its text."""
        ...


def read_table(
    at: Reference,
    without: Collection[str] = (),
    options: ReadOptions | None = None,
    columns: Sequence[str] | None = None,
) -> Raw:
    """Columns of a table: numbers, or one column of texts.

    Args:
        at: the file, with `:column,column` where not all columns are wanted.
        without: columns that are left out where none are named: keys and labels.
        options: what the user says of the file.
        columns: those to read, where the reference names none and all of them are there.

    Raises:
        DataError: if the file is ragged or damaged, a column is unknown, or a value is missing
            or no number; the message names line and column.
    """
    options = options or ReadOptions()
    table = _open(at.path, options)
    chosen = _chosen(at, table, without)
    if columns and not at.part and set(columns) <= set(table.names):
        chosen = list(columns)
    frame = table.frame(chosen)
    is_text = len(chosen) == 1 and not _numeric(frame.iloc[:, 0]).notna().any()
    values = _texts(table, frame, options) if is_text else _numbers(table, frame, options)
    left_out = [name for name in without if name in table.names]
    note = f"without {_few(left_out)}" if left_out and not at.part else ""
    warnings = (*table.warnings, *_suspects(at, values, chosen))
    return Raw(values, tuple(chosen), table.row_names(), note, table.guesses, warnings)


def read_column(at: Reference, options: ReadOptions | None = None) -> Raw:
    """One column of a table, its texts as they stand in the file: labels, groups or keys.

    Raises:
        DataError: as `read_table`, or if not exactly one column is named.
    """
    options = options or ReadOptions()
    table = _open(at.path, options)
    chosen = _chosen(at, table, ())
    if len(chosen) != 1:
        msg = f"{at.path} has the columns {_few(table.names)}: name one, as in {at.path}:COLUMN"
        raise DataError(msg)
    frame = table.frame(chosen, as_texts=True)
    return Raw(_texts(table, frame, options), tuple(chosen), table.row_names())


def _open(path: Path, options: ReadOptions) -> _Table:
    is_parquet = path.suffix.lower() == ".parquet"
    return _ParquetTable(path, options) if is_parquet else _TextTable(path, options)


def _chosen(at: Reference, table: _Table, without: Collection[str]) -> list[str]:
    if not at.part:
        chosen = [name for name in table.names if name not in without]
        if not chosen:
            msg = f"{at.path} has no column of values"
            raise DataError(msg)
        return chosen
    chosen = split_names(at.part, table.known)
    for name in chosen:
        if name not in table.known:
            known = table.known
            what = unknown_name("column", name, known)
            if len(known) > 20:
                what = f"unknown column {name!r}: the columns are {_few(known)}"
            raise DataError(f"{at.path}: {what}")
    if len(set(chosen)) != len(chosen):
        msg = f"{at} names a column twice"
        raise DataError(msg)
    return chosen


def _texts(table: _Table, frame: pd.DataFrame, options: ReadOptions) -> NDArray[Any]:
    """One column as texts without space around them, or as numbers where the file has a type."""
    column = frame.iloc[:, 0]
    if column.dtype.kind in "biuf" and not column.isna().any():
        return np.asarray(column)
    plain = column.astype(object).where(column.notna(), "").astype(str)
    texts = plain.str.strip().to_numpy(np.str_)
    distinct, inverse = np.unique(texts, return_inverse=True)
    missing = np.array([options.is_missing(text) for text in distinct], bool)[inverse]
    if missing.any():
        raise _refused(table, int(np.argmax(missing)), frame.columns[0], options)
    return texts.astype(np.str_)


def _numbers(table: _Table, frame: pd.DataFrame, options: ReadOptions) -> NDArray[np.float64]:
    if any(dtype.kind not in "biuf" for dtype in frame.dtypes):
        frame = frame.apply(_numeric)
    values = frame.to_numpy(np.float64, na_value=np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        is_bad = ~(np.abs(values) <= np.finfo(np.float32).max)
    if is_bad.any():
        row, column = (int(n) for n in np.argwhere(is_bad)[0])
        raise _refused(table, row, frame.columns[column], options)
    return values


def _numeric(column: pd.Series) -> pd.Series:
    """Numbers of a column; NaN where it has none."""
    if column.dtype.kind in "biuf":
        return column
    is_text = column.map(lambda v: isinstance(v, str))
    is_bad = is_text & ~column.map(lambda v: isinstance(v, str) and is_number(v))
    return pd.to_numeric(column.mask(is_bad), errors="coerce").astype(np.float64)


def _refused(table: _Table, row: int, column: str, options: ReadOptions) -> DataError:
    """The error of a value that is missing, infinite or no number."""
    where, text = table.place(row, column)
    cure = "remove or impute such rows first (--na-token says which texts are missing)"
    if options.is_missing(text):
        shown = f" ({text!r})" if text else ""
        return DataError(f"{where} is missing{shown}: {cure}")
    if is_number(text) or text.lower().lstrip("+-") in {"inf", "infinity"}:
        return DataError(f"{where} is {text}: expected finite numbers; {cure}")
    return DataError(
        f"{where} is {text!r}: expected numbers; a column of names can name the rows "
        f"(--index {column!r}), be the key (--keys MODALITY={table.path}:{column}), or be left "
        f"out by choosing columns ({table.path}:COLUMN,COLUMN)"
    )


def _suspects(at: Reference, values: NDArray[Any], names: Sequence[str]) -> list[str]:
    """Columns that look as if they were no values: row numbers and labels."""
    if at.part or values.ndim != 2 or len(values) < 3:
        return []
    out, rows = [], np.arange(len(values))
    is_whole = (values == np.floor(values)).all(0)
    for j in np.flatnonzero(is_whole).tolist():
        column, name = values[:, j], names[j]
        plain = re.sub(r"\.\d+$|:.*", "", name.lower())
        counts = bool((column == rows).all() or (column == rows + 1).all())
        distinct = len(np.unique(column))
        if counts or (plain in INDEX_NAMES and distinct == len(rows)):
            why = "counts the rows" if counts else "looks like the names of the rows"
            out.append(f"{at.path}: column {name!r} {why}: --index {name!r} takes it out")
            continue
        is_last = j == len(names) - 1 and j > 0 and is_whole[:-1].mean() < 0.5
        if (plain in LABEL_NAMES or is_last) and 1 < distinct <= min(MAX_CLASSES, len(rows) // 2):
            out.append(
                f"{at.path}: column {name!r} has {distinct} different whole numbers and looks "
                f"like a label: --labels {at.path}:{name} takes it out"
            )
    return out


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(list(names)[:8])
    return f"{shown}... ({len(names):,} in all)" if len(names) > 8 else shown


def _named_rows(values: NDArray[Any], where: str, options: ReadOptions) -> NDArray[np.str_] | None:
    """Names of rows; None for 0, 1, 2... and 1, 2, 3..., which name nothing."""
    keys = key_texts(values, where, options)
    rows = np.arange(len(keys))
    are_counts = any(np.array_equal(keys, (rows + start).astype(str)) for start in (0, 1))
    return None if are_counts else keys


class _TextTable:
    """A text table."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.path, self._options = path, options
        self._layout = guess_layout(path, options)
        self.known = self._layout.columns
        self.names = tuple(n for n in self.known if n != self._layout.row_names)
        self.guesses, self.warnings = self._layout.guesses, self._layout.warnings

    def frame(self, columns: Sequence[str], *, as_texts: bool = False) -> pd.DataFrame:
        layout, tokens = self._layout, self._options.na_tokens
        with open_text(self.path) as file, readable(self.path):
            for _ in range(layout.skip):
                file.readline()
            try:
                frame = pd.read_csv(
                    file,
                    sep=r"\s+" if layout.separator == " " else layout.separator,
                    header=None,
                    names=list(self.known),
                    index_col=False,
                    dtype=dict.fromkeys(columns, str) if as_texts else None,
                    na_values=[] if as_texts else (_MISSING if tokens is None else [*tokens, ""]),
                    keep_default_na=False,
                    skipinitialspace=True,
                    float_precision="round_trip",
                    decimal=layout.decimal,
                    low_memory=False,
                )
            except pd.errors.EmptyDataError:
                frame = pd.DataFrame(columns=list(self.known), dtype=np.float64)
            except pd.errors.ParserError as error:
                raise self._unreadable(error) from error
        return frame[list(columns)]

    def row_names(self) -> NDArray[np.str_] | None:
        name = self._layout.row_names
        if name is None:
            return None
        texts = self.frame([name], as_texts=True)[name].fillna("").to_numpy(np.str_)
        return _named_rows(texts, f"{self.path}, row names", self._options)

    def place(self, row: int, column: str) -> tuple[str, str]:
        line, cells = record_at(self.path, self._layout, row)
        text = cells[self.known.index(column)].strip()
        return f"{self.path}, line {line}, column {column!r}", text

    def _unreadable(self, error: Exception) -> DataError:
        numbers = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", str(error))
        if numbers is None:
            return DataError(
                f"{self.path} cannot be read as a table: {' '.join(str(error).split())}"
            )
        expected, line, found = map(int, numbers.groups())
        return ragged(self.path, line + self._layout.skip, found, expected)


class _ParquetTable:
    """A Parquet table; the index that pandas stores holds the row names."""

    guesses: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.path, self._options = path, options
        frame = _read_parquet(path)
        if isinstance(frame.index, pd.MultiIndex):
            frame = frame.reset_index()
        frame.columns = frame.columns.map(str)
        if options.index not in {None, "none"}:
            if options.index not in frame.columns:
                what = unknown_name("column", str(options.index), frame.columns)
                raise UsageError(f"--index: {path}: {what}")
            frame = frame.set_index(options.index)
        is_counted = isinstance(frame.index, pd.RangeIndex) or options.index == "none"
        self._index = None if is_counted else frame.index
        self.names = tuple(frame.columns)
        named = self._index is not None and self._index.name not in {None, *self.names}
        self.known = (*self.names, str(frame.index.name)) if named else self.names
        self._frame = frame.assign(**{str(frame.index.name): frame.index}) if named else frame
        if self._index is not None and options.index is None:
            self.guesses = (f"{path}: its index {self._index.name!r} names the rows (--index)",)

    def frame(self, columns: Sequence[str], *, as_texts: bool = False) -> pd.DataFrame:
        frame = self._frame[list(columns)]
        is_category = [isinstance(dtype, pd.CategoricalDtype) for dtype in frame.dtypes]
        return frame.astype(dict.fromkeys(frame.columns[is_category], object))

    def row_names(self) -> NDArray[np.str_] | None:
        if self._index is None:
            return None
        values = np.asarray(self._index)
        values = values.astype(np.str_) if values.dtype.kind not in "iuf" else values
        return _named_rows(values, f"{self.path}, row names", self._options)

    def place(self, row: int, column: str) -> tuple[str, str]:
        value = self._frame[column].iloc[row]
        text = "" if pd.isna(value) else str(value)
        return f"{self.path}, row {row}, column {column!r}", text


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table as read_arrow
    except ImportError as error:
        msg = (
            f"{path} is a Parquet file, and reading those needs pyarrow: "
            "pip install 'mvflow[parquet]', or save the table as .csv"
        )
        raise DataError(msg) from error
    try:
        table = read_arrow(path)
        frame = table.to_pandas(ignore_metadata=True)
        known = (table.schema.pandas_metadata or {}).get("index_columns", [])
        index = [name for name in known if isinstance(name, str) and name in frame.columns]
        return frame.set_index(index) if index else frame
    except (ArrowException, OSError, ValueError) as error:
        msg = f"{path} is truncated, damaged or not a Parquet file"
        raise DataError(msg) from error
