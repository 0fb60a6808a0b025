"""Files of tables: text tables and Parquet, opened by pandas; columns are read as asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mvflow.core import DataError, UsageError, unknown_name
from mvflow.core.memory import check_memory
from mvflow_datasets.importing.layout import (
    guess_layout,
    open_text,
    ragged,
    readable,
    record_at,
)
from mvflow_datasets.importing.references import MISSING, ReadOptions, key_texts

__all__ = ["Table", "open_table"]

_CASES = (str, str.lower, str.upper, str.title, str.capitalize)
_MISSING = sorted({case(text) for text in MISSING for case in _CASES} | {"NaN"})


class Table(Protocol):
    """A table in a file."""

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


def open_table(path: Path, options: ReadOptions) -> Table:
    """Open a `.parquet` or a text table.

    Raises:
        DataError: if it cannot be read.
        UsageError: if an option does not fit it.
    """
    is_parquet = path.suffix.lower() == ".parquet"
    return _ParquetTable(path, options) if is_parquet else _TextTable(path, options)


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
        expected, line, cells = map(int, numbers.groups())
        return ragged(self.path, line + self._layout.skip, cells, expected)


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
        index = options.index_of(frame.columns)
        if index is not None and index != "none":
            if index not in frame.columns:
                what = unknown_name("column", index, frame.columns)
                raise UsageError(f"--index: {path}: {what}")
            frame = frame.set_index(index)
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
        from pyarrow.parquet import read_metadata
        from pyarrow.parquet import read_table as read_arrow
    except ImportError as error:
        msg = (
            f"{path} is a Parquet file, and reading those needs pyarrow: "
            "pip install 'mvflow[parquet]', or save the table as .csv"
        )
        raise DataError(msg) from error
    try:
        about = read_metadata(path)
        check_memory(8 * about.num_rows * about.num_columns, str(path))
        table = read_arrow(path)
        frame = table.to_pandas(ignore_metadata=True)
        known = (table.schema.pandas_metadata or {}).get("index_columns", [])
        index = [name for name in known if isinstance(name, str) and name in frame.columns]
        return frame.set_index(index) if index else frame
    except DataError:
        raise
    except (ArrowException, OSError, ValueError) as error:
        msg = f"{path} is truncated, damaged or not a Parquet file"
        raise DataError(msg) from error
