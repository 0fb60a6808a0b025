"""Tables: `.csv`, `.tsv` and, with pyarrow, `.parquet`; read by column, refused at the place."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError, unknown_name
from mvflow_datasets.importing.references import Raw, Reference, key_texts, refuse_bad

__all__ = ["read_table"]

MISSING = {"", "na", "n/a", "nan", "null", "<na>"}


class _Table(Protocol):
    names: tuple[str, ...]
    """Columns of values, without that of row names."""
    row_names: str | None
    """The column that names the rows, if one does."""

    def numbers(self, columns: Sequence[str]) -> NDArray[np.float64]:
        """(rows, columns)."""
        ...

    def texts(self, column: str) -> NDArray[Any]:
        """(rows,) texts, or numbers where the file has a type for them."""
        ...


def read_table(at: Reference, without: Collection[str] = (), *, facts: bool = False) -> Raw:
    """Columns of a table: numbers, or one column of texts.

    Args:
        at: the file, with `:column,column` where not all columns are wanted.
        without: columns that are left out where none are named: keys and labels.
        facts: whether exactly one column is wanted, as for labels and keys.

    Raises:
        DataError: if the file is ragged or damaged, a column is unknown, or a value is missing
            or no number; the message names line and column.
    """
    table = _open(at.path)
    chosen = _chosen(at, table, without)
    if facts and len(chosen) != 1:
        msg = f"{at.path} has the columns {_few(table.names)}: name one, as in {at.path}:COLUMN"
        raise DataError(msg)
    if len(chosen) == 1:
        values = _numbers_or_texts(at, table, chosen[0], facts)
    else:
        values = table.numbers(chosen)
    keys = None
    if table.row_names is not None:
        keys = key_texts(table.texts(table.row_names), f"{at.path}, row names")
        if _only_counts(keys):
            keys = None
    left_out = [c for c in without if c in table.names]
    note = f"without {_few(left_out)}" if left_out and not at.part else ""
    return Raw(values, tuple(chosen), keys, note)


def _open(path: Path) -> _Table:
    return _Parquet(path) if path.suffix.lower() == ".parquet" else _Csv(path)


def _chosen(at: Reference, table: _Table, without: Collection[str]) -> list[str]:
    known = [*table.names, *([table.row_names] if table.row_names is not None else [])]
    if not at.part:
        chosen = [name for name in table.names if name not in without]
        if not chosen:
            msg = f"{at.path} has no column of values"
            raise DataError(msg)
        return chosen
    chosen = [at.part] if at.part in known else at.part.split(",")
    for name in chosen:
        if name not in known:
            raise DataError(f"{at.path}: {_unknown_column(name, known)}")
    if len(set(chosen)) != len(chosen):
        msg = f"{at} names a column twice"
        raise DataError(msg)
    return chosen


def _unknown_column(name: str, known: Sequence[str]) -> str:
    if len(known) <= 20:
        return unknown_name("column", name, known)
    return f"unknown column {name!r}: the columns are {_few(known)}"


def _numbers_or_texts(at: Reference, table: _Table, column: str, facts: bool) -> NDArray[Any]:
    """One column: numbers if its first row is one, else texts; labels and keys stay texts."""
    texts = table.texts(column)
    if texts.dtype.kind != "U":
        return texts if facts else table.numbers([column])
    if not facts and (not len(texts) or _is_number(texts[0])):
        return table.numbers([column])
    for row, text in enumerate(texts):
        if text.lower() in MISSING:
            msg = f"{at.path}, row {row}, column {column!r} is missing: remove such rows first"
            raise DataError(msg)
    return texts


def _only_counts(keys: NDArray[np.str_]) -> bool:
    """Whether row names are 0, 1, 2... or 1, 2, 3..., which name nothing."""
    rows = np.arange(len(keys))
    return bool((keys == rows.astype(str)).all() or (keys == (rows + 1).astype(str)).all())


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(list(names)[:8])
    return f"{shown}... ({len(names):,} in all)" if len(names) > 8 else shown


class _Csv:
    """A text table. The first line names the columns unless all its cells are numbers.

    A first column without a name, as R and pandas write it, holds the names of the rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        first = self._first_line()
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        if self._delimiter == "," and ";" in first and "," not in first:
            self._delimiter = ";"
        header = next(csv.reader([first], delimiter=self._delimiter), [])
        header = [cell.strip() for cell in header]
        self._has_header = not all(_is_number(cell) for cell in header)
        if not self._has_header:
            header = [str(i) for i in range(len(header))]
        self._columns = header
        self.row_names = "" if header[0] == "" else None
        self.names = tuple(header[1:] if self.row_names is not None else header)
        if len(set(header)) < len(header):
            repeated = Counter(header).most_common(1)[0][0]
            msg = f"{path} has two columns named {repeated!r}"
            raise DataError(msg)

    def numbers(self, columns: Sequence[str]) -> NDArray[np.float64]:
        at = [self._columns.index(name) for name in columns]
        rows = []
        for line, cells in self._lines():
            try:
                row = np.array([float(cells[i]) for i in at])
            except ValueError:
                row = np.full(len(at), np.nan)
            if not np.isfinite(row).all():
                self._refuse(line, cells, at)
            rows.append(row)
        values = np.stack(rows) if rows else np.empty((0, len(at)))
        refuse_bad(values, str(self.path), tuple(columns))
        return values

    def texts(self, column: str) -> NDArray[np.str_]:
        at = self._columns.index(column)
        return np.array([cells[at].strip() for _, cells in self._lines()], np.str_)

    def _first_line(self) -> str:
        with self._file() as file, self._readable():
            first = next((line for line in file if line.strip()), "")
        if not first:
            msg = f"{self.path} is empty: expected a line of column names, then rows"
            raise DataError(msg)
        return first

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Line number in the file and cells of each row."""
        with self._file() as file, self._readable():
            reader = csv.reader(file, delimiter=self._delimiter)
            header_due = self._has_header
            for cells in reader:
                if not any(cell.strip() for cell in cells) and len(cells) <= 1:
                    continue
                if header_due:
                    header_due = False
                    continue
                if len(cells) != len(self._columns):
                    msg = (
                        f"{self.path}, line {reader.line_num} has {len(cells)} cells: "
                        f"expected {len(self._columns)}, as in the first line"
                    )
                    raise DataError(msg)
                yield reader.line_num, cells

    def _refuse(self, line: int, cells: Sequence[str], at: Sequence[int]) -> None:
        for i in at:
            text = cells[i].strip()
            name = self._columns[i]
            where = f"{self.path}, line {line}, column {name!r}"
            if text.lower() in MISSING or text.lower().lstrip("+-") in {"inf", "infinity"}:
                what = f"is {text}" if text else "is missing"
                msg = f"{where} {what}: expected finite numbers; remove or impute such rows first"
                raise DataError(msg)
            if not _is_number(text):
                msg = (
                    f"{where} is {text!r}: expected numbers; a column of names can be the key "
                    f"(--keys MODALITY={self.path}:{name}), or choose columns "
                    f"({self.path}:COLUMN,COLUMN)"
                )
                raise DataError(msg)

    def _file(self) -> Any:
        return self.path.open(encoding="utf-8-sig", newline="")

    def _readable(self) -> Any:
        return _Readable(self.path)


class _Readable:
    """Turns what can go wrong while text is read into one sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UnicodeDecodeError | csv.Error):
            reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            msg = f"{self.path} cannot be read as a table: {reason}"
            raise DataError(msg) from error


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False


class _Parquet:
    """A Parquet table, read by pyarrow; the index that pandas stores holds the row names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open_parquet(path)
        names = [str(n) for n in self._file.schema_arrow.names]
        indexes = [n for n in names if n.startswith("__index_level_")]
        self.row_names = indexes[0] if indexes else None
        self.names = tuple(n for n in names if n not in indexes)

    def numbers(self, columns: Sequence[str]) -> NDArray[np.float64]:
        values = np.empty((self._file.metadata.num_rows, len(columns)))
        for j, name in enumerate(columns):
            column = self._column(name)
            if column.dtype.kind not in "biuf":
                msg = (
                    f"{self.path}, column {name!r} holds no numbers: use it as the key "
                    f"(--keys MODALITY={self.path}:{name}), or choose columns "
                    f"({self.path}:COLUMN,COLUMN)"
                )
                raise DataError(msg)
            values[:, j] = column
        refuse_bad(values, str(self.path), tuple(columns))
        return values

    def texts(self, column: str) -> NDArray[Any]:
        return self._column(column)

    def _column(self, name: str) -> NDArray[Any]:
        try:
            column = self._file.read([name]).column(name).combine_chunks()
            if column.null_count:
                row = int(np.argmax(np.asarray(column.is_null())))
                msg = (
                    f"{self.path}, row {row}, column {name!r} is missing: "
                    "remove or impute such rows first"
                )
                raise DataError(msg)
            values = column.to_pylist()
        except DataError:
            raise
        except (OSError, ValueError, KeyError) as error:
            msg = f"{self.path} is truncated or damaged: {' '.join(str(error).split())}"
            raise DataError(msg) from error
        found = np.array(values)
        return found if found.dtype.kind in "biufU" else np.array([str(v) for v in values])


def _open_parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        msg = (
            f"{path} is a Parquet file, and reading those needs pyarrow: "
            "pip install 'mvflow[parquet]', or save the table as .csv"
        )
        raise DataError(msg) from error
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        msg = f"{path} is truncated or not a Parquet file"
        raise DataError(msg) from error
