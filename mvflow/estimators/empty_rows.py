"""Rows of which nothing is given: left out of what is computed, and NaN in what is returned."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Observed, UnreliableDrawsWarning, UsageError, listed

__all__ = ["check_any_given", "in_place", "observed_rows", "rows_of", "warn_of_empty"]

Mask = NDArray[np.bool_]


def observed_rows(observed: Observed) -> Mask:
    """Rows of which something is observed, bool (rows,).

    Raises:
        UsageError: if nothing is observed of any row.
    """
    masks = [observed.is_present(name) for name in observed.x]
    if not masks or any(mask is None for mask in masks):
        return np.ones(observed.rows, np.bool_)
    has = np.logical_or.reduce([mask.cpu().numpy() for mask in masks if mask is not None])
    check_any_given(has, observed.x)
    return np.asarray(has, np.bool_)


def check_any_given(has: Mask, names: Iterable[str]) -> None:
    """Check that something is given of some row.

    Raises:
        UsageError: if not.
    """
    if not has.any():
        msg = f"none of {len(has):,} rows has {', '.join(sorted(names))}: give rows that do"
        raise UsageError(msg)


def warn_of_empty(has: Mask, names: Iterable[str]) -> None:
    """Warn of rows of which nothing is given, and name them."""
    empty = np.flatnonzero(~has).tolist()
    rows = f"rows {listed(empty)} have" if empty[1:] else f"row {empty[0]} has"
    given = ", ".join(sorted(name for name in names if "/" not in name))
    msg = f"{rows} none of {given}: the answer is NaN there"
    warnings.warn(msg, UnreliableDrawsWarning, stacklevel=4)


def rows_of(columns: Mapping[str, Any], has: Mask) -> dict[str, Any]:
    """Some rows of arrays, tensors, frames or lists; what is one value for all stays.

    Examples:
        >>> rows_of({"a": [[1], [2]], "batch": "A"}, np.array([True, False]))
        {'a': array([[1]]), 'batch': 'A'}
    """
    return {
        name: x if np.ndim(x) == 0 else (x if hasattr(x, "shape") else np.asarray(x))[has]
        for name, x in columns.items()
    }


def in_place(values: NDArray[Any], has: Mask, axis: int = 0) -> NDArray[Any]:
    """Values of some rows among all; those of the others are NaN, or -1 where they are classes.

    Examples:
        >>> in_place(np.array([[1.0]]), np.array([False, True])).tolist()
        [[nan], [1.0]]
    """
    shape = (*values.shape[:axis], len(has), *values.shape[axis + 1 :])
    out = np.full(shape, np.nan if values.dtype.kind == "f" else -1, values.dtype)
    out[(slice(None),) * axis + (has,)] = values
    return out
