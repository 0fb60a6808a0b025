"""Tables: `.csv`, `.tsv` and `.parquet`, read by pandas; bad values are refused by place."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mvflow.core import DataError, unknown_name
from mvflow_datasets.importing.layout import is_number
from mvflow_datasets.importing.references import (
    HINT,
    Raw,
    ReadOptions,
    Reference,
    missing_texts,
    split_names,
)
from mvflow_datasets.importing.table_files import Table, open_table

__all__ = ["read_column", "read_table"]

MAX_CLASSES = 20
LABEL_NAMES = {"class", "classes", "label", "labels", "target", "y", "diagnosis", "cluster"}
INDEX_NAMES = {"id", "index", "idx", "row", "rownames", "sample", "sample_id", "unnamed"}


def read_table(
    at: Reference,
    without: Collection[str] = (),
    options: ReadOptions | None = None,
    columns: Sequence[str] | None = None,
    levels: Mapping[str, tuple[str, ...]] | None = None,
) -> Raw:
    """Columns of a table: numbers, or one column of texts.

    Among several columns, one of at most 20 different texts becomes the positions of its classes.

    Args:
        at: the file, with `:column,column` where not all columns are wanted.
        without: columns that are left out where none are named: keys and labels.
        options: what the user says of the file.
        columns: those to read, where the reference names none and all of them are there.
        levels: column -> its classes, where they are known already.

    Raises:
        DataError: if the file is ragged or damaged, a column is unknown, or a value is missing
            or no number; the message names line and column.
    """
    options = options or ReadOptions()
    table = open_table(at.path, options)
    chosen = _chosen(at, table, without)
    if columns and not at.part and set(columns) <= set(table.names):
        chosen = list(columns)
    frame = table.frame(chosen)
    is_text = len(chosen) == 1 and not _numeric(frame.iloc[:, 0]).notna().any()
    classes: dict[str, tuple[str, ...]] = {}
    if is_text and len(chosen) == 1 and not levels:
        values = _texts(table, frame, options)
    else:
        coded, classes = _coded(table, frame, options, levels or {})
        values = _numbers(table, coded, options)
    left_out = [name for name in without if name in table.names]
    note = f"without {_few(left_out)}" if left_out and not at.part else ""
    warnings = (*table.warnings, *_suspects(at, values, chosen))
    row_names = table.row_names()
    others = [name for name in table.names if name not in chosen]
    if columns and others and not at.part:
        index = f"; rows are numbered (--index {others[0]!r} names them)"
        note = f"without {_few(others)}{index if row_names is None else ''}"
    return Raw(values, tuple(chosen), row_names, classes, note, table.guesses, warnings)


def read_column(at: Reference, options: ReadOptions | None = None) -> Raw:
    """One column of a table, its texts as they stand in the file: labels, groups or keys.

    Raises:
        DataError: as `read_table`, or if not exactly one column is named.
    """
    options = options or ReadOptions()
    table = open_table(at.path, options)
    chosen = _chosen(at, table, ())
    if len(chosen) != 1:
        msg = f"{at.path} has the columns {_few(table.names)}: name one, as in {at.path}:COLUMN"
        raise DataError(msg)
    frame = table.frame(chosen, as_texts=True)
    return Raw(_texts(table, frame, options), tuple(chosen), table.row_names())


def _chosen(at: Reference, table: Table, without: Collection[str]) -> list[str]:
    if not at.part:
        chosen = [name for name in table.names if name not in without]
        if not chosen:
            msg = f"{at.path} has no column of values"
            raise DataError(msg)
        return chosen
    chosen = split_names(at.part, table.known)
    for name in chosen:
        if name not in table.known:
            known = [each for each in table.known if each]  # a first column may have none
            what = unknown_name("column", name, known)
            if len(known) > 20:
                what = f"unknown column {name!r}: the columns are {_few(known)}"
            raise DataError(f"{at.path}: {what}")
    if len(set(chosen)) != len(chosen):
        msg = f"{at} names a column twice"
        raise DataError(msg)
    return chosen


def _texts(table: Table, frame: pd.DataFrame, options: ReadOptions) -> NDArray[Any]:
    """One column as texts without space around them, or as numbers where the file has a type."""
    column = frame.iloc[:, 0]
    if column.dtype.kind in "biuf" and not column.isna().any():
        return np.asarray(column)
    if column.dtype.kind in "biuf" and options.takes_missing:
        return column.to_numpy(np.float64, na_value=np.nan)
    plain = column.astype(object).where(column.notna(), "").astype(str)
    texts = plain.str.strip().to_numpy(np.str_)
    missing = missing_texts(texts, options)
    if missing.any() and not options.takes_missing:
        raise _refused(table, int(np.argmax(missing)), frame.columns[0], options)
    return texts.astype(np.str_)


def _coded(
    table: Table,
    frame: pd.DataFrame,
    options: ReadOptions,
    known: Mapping[str, tuple[str, ...]],
) -> tuple[pd.DataFrame, dict[str, tuple[str, ...]]]:
    """Columns of texts as the positions of their classes, and these classes."""
    codes, levels = {}, {}
    for name in frame.columns:
        column = frame[name]
        is_bool = column.dtype.kind == "b"
        if name not in known and column.dtype.kind in "iuf":
            continue
        if name not in known and not is_bool and column.map(_looks_like_number).any():
            continue  # a number among texts: refused, as they are
        given = column.astype(str).to_frame() if is_bool else frame[[name]]
        texts = _texts(table, given, options).astype(np.str_)
        missing = missing_texts(texts, options)
        distinct = known.get(name) or tuple(np.unique(texts[~missing]).tolist())
        if name not in known and len(distinct) > min(MAX_CLASSES, max(2, len(texts) // 2)):
            continue  # names, not classes
        positions = {text: i for i, text in enumerate(distinct)}
        positions |= dict.fromkeys(texts[missing].tolist(), np.nan)
        try:
            codes[name] = [positions[text] for text in texts.tolist()]
        except KeyError as error:
            what = unknown_name("class", str(error.args[0]), distinct)
            raise DataError(f"{table.path}, column {name!r}: {what}") from error
        levels[name] = distinct
    return frame.assign(**codes) if codes else frame, levels


def _numbers(table: Table, frame: pd.DataFrame, options: ReadOptions) -> NDArray[np.float64]:
    numbers = frame
    if any(dtype.kind not in "biuf" for dtype in frame.dtypes):
        numbers = frame.apply(_numeric)
    values = numbers.to_numpy(np.float64, na_value=np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        is_bad = ~(np.abs(values) <= np.finfo(np.float32).max)
    if options.takes_missing and is_bad.any():
        is_text = np.array([frame.dtypes.iloc[j].kind == "O" for j in range(frame.shape[1])])
        is_bad &= ~frame.isna().to_numpy()
        for j in np.flatnonzero(is_text & is_bad.any(0)).tolist():
            rows = np.flatnonzero(is_bad[:, j])
            cells = frame.iloc[rows, j]
            is_bad[rows, j] = [not (isinstance(c, str) and options.is_missing(c)) for c in cells]
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


def _looks_like_number(value: Any) -> bool:
    return isinstance(value, str) and is_number(value)


def _refused(table: Table, row: int, column: str, options: ReadOptions) -> DataError:
    """The error of a value that is missing, infinite or no number."""
    where, text = table.place(row, column)
    cure = "remove or impute such rows first (--na-token says which texts are missing)"
    if options.is_missing(text):
        shown = f" ({text!r})" if text else ""
        return DataError(f"{where} is missing{shown}: {cure}; {HINT}")
    if is_number(text) or text.lower().lstrip("+-") in {"inf", "infinity"}:
        return DataError(f"{where} is {text}: expected finite numbers; {cure}")
    return DataError(
        f"{where} is {text!r}: expected numbers; a column of names can name the rows "
        f"(--index {column!r}; of one of several tables --index MODALITY={column}), be the key "
        f"(--keys MODALITY={table.path}:{column}), or be left out "
        f"by choosing columns ({table.path}:COLUMN,COLUMN)"
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
        is_last = j == len(names) - 1 and j > 0
        is_last = is_last and (is_whole[:-1].mean() < 0.5 or bool((np.diff(column) >= 0).all()))
        if (plain in LABEL_NAMES or is_last) and 1 < distinct <= min(MAX_CLASSES, len(rows) // 2):
            out.append(
                f"{at.path}: column {name!r} has {distinct} different values and looks "
                f"like a label: --labels {at.path}:{name} takes it out"
            )
    return out


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(list(names)[:8])
    return f"{shown}... ({len(names):,} in all)" if len(names) > 8 else shown
