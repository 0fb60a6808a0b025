"""Embeddings of rows, written into the annotated file (`.h5ad`, `.h5mu`) that they are from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import DataError, UsageError
from mvflow.core.files import replacing

__all__ = ["write_embedding"]

SUFFIXES = (".h5ad", ".h5mu")


def write_embedding(
    path: Path, arrays: Mapping[str, ArrayLike], row_names: Sequence[str] | None = None
) -> None:
    """Add arrays to `obsm` of an annotated file; all else in it stays as it is, byte for byte.

    The file is replaced whole or not at all.

    Args:
        path: an AnnData or MuData file.
        arrays: key of `obsm` -> (rows, width).
        row_names: of the rows; they are brought into the order of the file. Without them, rows
            are taken to be in that order.

    Raises:
        DataError: if the file cannot be read, or holds other rows.
        UsageError: if it is none of these files, has such a key already, or anndata is missing.
    """
    if path.suffix not in SUFFIXES:
        msg = f"{path}: embeddings are written into {' or '.join(SUFFIXES)} files"
        raise UsageError(msg)
    try:
        from anndata.io import read_elem, write_elem
    except ImportError as error:
        msg = f"{path} is written by anndata: pip install 'mvflow[omics]'"
        raise UsageError(msg) from error
    with replacing(path) as temporary:
        shutil.copyfile(path, temporary)
        try:
            with h5py.File(temporary, "r+") as file:
                names = np.asarray(read_elem(file["obs"]).index, np.str_)
                order = _order(
                    path, names, row_names, len(np.asarray(next(iter(arrays.values()))))
                )
                group = file.require_group("obsm")
                for key, values in arrays.items():
                    if key in group:
                        msg = f"{path} has obsm[{key!r}] already: choose another --key"
                        raise UsageError(msg)
                    write_elem(group, key, np.asarray(values)[order])
        except (OSError, KeyError) as error:
            msg = f"{path} cannot be read as an annotated file: {error}"
            raise DataError(msg) from error


def _order(
    path: Path, names: NDArray[np.str_], row_names: Sequence[str] | None, rows: int
) -> NDArray[Any]:
    """Which of the given rows is each row of the file."""
    if len(names) != rows:
        msg = f"{path} has {len(names):,} rows, but {rows:,} were embedded: give its own rows"
        raise DataError(msg)
    if row_names is None:
        return np.arange(rows)
    places = {name: i for i, name in enumerate(row_names)}
    missing = [name for name in names.tolist() if name not in places]
    if missing or len(places) < rows:
        what = f"row {missing[0]!r} was not" if missing else "rows of one name were"
        msg = f"{path}: {what} embedded: give the rows of that file, each with a name of its own"
        raise DataError(msg)
    return np.array([places[name] for name in names.tolist()])
