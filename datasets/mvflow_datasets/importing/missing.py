"""What is missing in a file: refused by place, or absent rows or values, as the user says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from mvflow.core import DataError, UsageError, listed
from mvflow_datasets.importing.references import HINT, Raw, ReadOptions, missing_texts

__all__ = ["absent", "check_training_rows", "refuse_bad", "refuse_bad_sparse"]

_LARGEST = np.finfo(np.float32).max


def absent(raw: Raw, where: str, options: ReadOptions) -> Raw:
    """What was read, with the rows that lack the modality marked as the options say.

    A row without any value lacks the modality, too.

    Raises:
        UsageError: if single values of a sparse matrix are to be absent.

    Examples:
        >>> raw = Raw(np.array([[1.0, np.nan], [2.0, 3.0], [np.nan, np.nan]]))
        >>> absent(raw, "a.npy", ReadOptions(missing="row")).lacks.tolist()
        [True, False, True]
        >>> absent(raw, "a.npy", ReadOptions(missing="values")).lacks.tolist()
        [False, False, True]
    """
    if not options.takes_missing:
        return raw
    values = raw.values
    if issparse(values):
        if options.missing == "values":
            msg = (
                f"{where} is sparse, and what it does not hold is 0: single values cannot be "
                "absent, so say --missing row, or save it as a dense matrix"
            )
            raise UsageError(msg)
        is_missing = np.isnan(values.data) if values.dtype.kind == "f" else np.zeros(0, bool)
        rows = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
        lacks: Any = np.isin(np.arange(values.shape[0]), rows[np.flatnonzero(is_missing)])
        if lacks.any():
            values = values.copy()
            values.data[np.isnan(values.data)] = 0
    elif values.dtype.kind == "f":
        by_row = np.isnan(values).reshape(len(values), -1)
        lacks = by_row.any(1) if options.missing == "row" else by_row.all(1)
    else:
        lacks = missing_texts(values, options).reshape(len(values), -1).any(1)
    if raw.lacks is not None:
        lacks = lacks | raw.lacks
    return replace(raw, values=values, lacks=lacks if lacks.any() else None)


def check_training_rows(raws: Mapping[str, Raw], taken: Mapping[str, NDArray[np.int64]]) -> None:
    """Check that all modalities, and all their values, occur in the rows to train on.

    Args:
        raws: name -> what was read.
        taken: modality -> rows of its file that are trained on.

    Raises:
        DataError: naming the modalities or the values that do not.
    """
    more = "bring more rows, or choose other shares (--split) or another --seed"
    if nowhere := [name for name, rows in taken.items() if not len(rows)]:
        of = "any of the modalities" if nowhere[1:] else "modality"
        msg = f"no row to train on has {of} {listed(nowhere)}: {more}"
        raise DataError(msg)
    told = []
    for name, rows in taken.items():
        values = raws[name].values
        if issparse(values) or values.dtype.kind != "f":
            continue
        absent = np.isnan(values[rows]).all(0)
        if absent.any():
            places, columns = (
                [tuple(at) for at in np.argwhere(absent).tolist()],
                raws[name].columns,
            )
            named = [columns[at[0]] if columns and len(at) == 1 else at for at in places]
            told.append(f"modality {name!r}: no row to train on has a value of {listed(named)}")
    if told:
        msg = f"{'; '.join(told)}: leave out what no row has"
        raise DataError(msg)


def refuse_bad(
    values: NDArray[np.generic],
    where: str,
    columns: Sequence[str] = (),
    options: ReadOptions | None = None,
) -> None:
    """Refuse infinity, what float32 cannot hold, and NaN unless values may be missing.

    Raises:
        DataError: naming file, row (from 0) and column of the first.

    Examples:
        >>> refuse_bad(np.array([[0.0, 1.0], [2.0, np.nan]]), "a.npy", ("x", "y"))
        Traceback (most recent call last):
        mvflow.core.errors.DataError: a.npy, row 1, column 'y' is nan: expected finite numbers...
    """
    if values.dtype.kind != "f":
        return
    takes_missing = options is not None and options.takes_missing
    chunk = max(1, 2**24 // max(1, values[:1].size))  # bounded memory for mapped files
    for start in range(0, len(values), chunk):
        part = values[start : start + chunk]
        bad = _is_bad(part, takes_missing)
        if bad.any():
            row, *rest = (int(n) for n in np.argwhere(bad)[0])
            place = ""
            if len(rest) == 1:
                place = f", column {columns[rest[0]]!r}" if columns else f", column {rest[0]}"
            elif rest:
                place = f", position {tuple(rest)}"
            raise _refused(f"{where}, row {start + row}{place}", part[(row, *rest)])


def refuse_bad_sparse(
    matrix: Any, where: str, columns: Sequence[str] = (), options: ReadOptions | None = None
) -> None:
    """The same of a sparse matrix of compressed rows.

    Raises:
        DataError: naming file, row (from 0) and column.
    """
    if matrix.dtype.kind != "f":
        return
    bad = _is_bad(matrix.data, options is not None and options.takes_missing)
    if bad.any():
        place = int(np.argmax(bad))
        row = int(np.searchsorted(matrix.indptr, place, "right")) - 1
        column = int(matrix.indices[place])
        name = repr(columns[column]) if columns else column
        raise _refused(f"{where}, row {row}, column {name}", matrix.data[place])


def _is_bad(values: NDArray[Any], takes_missing: bool) -> NDArray[np.bool_]:
    with np.errstate(over="ignore", invalid="ignore"):
        bad = ~(np.abs(values) <= _LARGEST)
    return bad & ~np.isnan(values) if takes_missing else bad


def _refused(where: str, value: Any) -> DataError:
    cure = f"; {HINT}" if np.isnan(value) else ""
    return DataError(
        f"{where} is {value}: expected finite numbers; remove or impute such rows first{cure}"
    )
