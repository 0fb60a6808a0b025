"""Stores made from others: splits with generated values in place of what rows lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix, issparse, vstack

from mvflow.core import DataError, check_rows
from mvflow.core.memory import check_memory
from mvflow_datasets.split_data import Blocks, SplitData
from mvflow_datasets.store import Store
from mvflow_datasets.writing import write_store

__all__ = ["Generated", "only_rows", "rewrite_store", "with_generated"]

Generated = Mapping[str, tuple[NDArray[np.integer[Any]], NDArray[Any]]]
"""Modality -> rows that lack it, and a value (rows, *shape) for each of them; images in [0, 1]."""


def with_generated(data: SplitData, generated: Generated) -> SplitData:
    """A split whose rows have generated values of the modalities that they lacked.

    Args:
        data: the split, with `pairs`.
        generated: rows and values by modality. Images of a store of bytes are rounded to these.

    Raises:
        DataError: if a row has the modality already.

    Examples:
        >>> data = SplitData({"a": [[1.0]]}, pairs={"a": np.array([-1, 0])})
        >>> more = with_generated(data, {"a": (np.array([0]), np.array([[5.0]]))})
        >>> more.arrays["a"].tolist(), more.pairs["a"].tolist()
        ([[1.0], [5.0]], [1, 0])
    """
    arrays, pairs = dict(data.arrays), {n: np.array(i) for n, i in (data.pairs or {}).items()}
    present = dict(data.present)
    for name, (rows, values) in generated.items():
        if not len(rows):
            continue
        if name not in pairs or (has := pairs[name][rows] >= 0).any():
            row = rows[int(np.argmax(has))] if name in pairs else rows[0]
            msg = f"row {row} has modality {name!r} already: only what is absent is generated"
            raise DataError(msg)
        old = arrays[name] if issparse(arrays[name]) else np.asarray(arrays[name])
        pairs[name][rows] = old.shape[0] + np.arange(len(rows))
        if issparse(old):
            arrays[name] = csr_matrix(vstack([old, csr_matrix(values)]))
        else:
            if old.dtype == np.uint8 and values.dtype.kind == "f":
                values = np.rint(255 * values.clip(0, 1))
            check_memory(old.nbytes + old[:1].nbytes * len(rows), f"modality {name!r}")
            arrays[name] = np.concatenate([old, values.astype(old.dtype)])
        if name in present:
            given = np.asarray(present[name])
            present[name] = np.concatenate([given, np.ones((len(rows), *given.shape[1:]), bool)])
    return replace(data, arrays=arrays, pairs=pairs, present=present)


def only_rows(data: SplitData, rows: ArrayLike) -> SplitData:
    """Some rows of a split, without the values that none of them has.

    Raises:
        DataError: if a row is not there, or a modality is made while it is written.
        UsageError: if `rows` is not a list of whole numbers.

    Examples:
        >>> data = SplitData({"a": np.eye(3)}, labels=[0, 1, 2])
        >>> few = only_rows(data, [2, 0])
        >>> few.labels.tolist(), few.arrays["a"][few.pairs["a"]].tolist()
        ([2, 0], [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    """
    count = min(x.shape[0] for x in map(_with_length, (data.pairs or data.arrays).values()))
    at = check_rows(np.asarray(rows, None if np.size(rows) else np.int64), count, "the split")
    arrays, pairs, present = {}, {}, {}
    for name, values in data.arrays.items():
        if isinstance(values, Blocks):
            msg = f"modality {name!r} is made while it is written: its rows cannot be chosen"
            raise DataError(msg)
        index: NDArray[Any] = at if data.pairs is None else np.asarray(data.pairs[name])[at]
        used, places = np.unique(index, return_inverse=True)
        lacking = int(used[:1].size and used[0] < 0)
        kept = _with_length(values)[used[lacking:]]
        arrays[name], pairs[name] = kept, places.reshape(-1) - lacking
        if name in data.present:
            present[name] = np.asarray(data.present[name])[used[lacking:]]
    return SplitData(
        arrays,
        labels=None if data.labels is None else np.asarray(data.labels)[at],
        pairs=pairs,
        factors={n: np.asarray(x)[at] for n, x in data.factors.items()},
        covariates={n: np.asarray(x)[at] for n, x in data.covariates.items()},
        present=present,
    )


def _with_length(values: Any) -> Any:
    """Values that know their shape: as they are, or as an array."""
    return values if hasattr(values, "shape") else np.asarray(values)


def rewrite_store(
    path: str | Path,
    store: Store,
    splits: Mapping[str, SplitData],
    *,
    note: str = "",
    builder: Mapping[str, Any] | None = None,
    row_names: Mapping[str, ArrayLike] | None = None,
) -> Path:
    """Write a store anew with other data in some splits; all else is as in the old one.

    Args:
        path: the file to write.
        store: the old one, which stays as it is.
        splits: name -> data, of the splits that change.
        note: added to the old note.
        builder: what made the data, in place of the old one's.
        row_names: split -> names of its rows, where other rows are in it than were.

    Raises:
        DataError: as `write_store`, or if `path` is the file of the old one.
        UsageError: if there is no such split.
    """
    for split in (*splits, *(row_names or {})):
        _ = store[split]
    if Path(path).exists() and Path(path).samefile(store.path):
        msg = f"{path} is the store that is read: write the new one to another file"
        raise DataError(msg)
    about = {key: x for key in store.about_keys if (x := store.about(key)) is not None}
    for split, names in (row_names or {}).items():
        about[f"rows/{split}"] = np.asarray(names)
    return write_store(
        path,
        name=store.name,
        modalities=store.modalities,
        splits={s: splits.get(s) or store[s].data() for s in store.splits},
        builder=store.builder if builder is None else builder,
        sources=store.sources,
        note="; ".join(filter(None, (store.note, note))),
        about=about,
        covariates=store.covariates.values(),
    )
