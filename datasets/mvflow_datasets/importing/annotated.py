"""AnnData (`.h5ad`) and MuData (`.h5mu`) files, read as the plain HDF5 that they are."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mvflow.core import DataError, unknown_name
from mvflow_datasets.importing.references import Raw, Reference, key_texts, refuse_bad

__all__ = ["modalities_of", "read_annotated", "read_observations"]


def modalities_of(at: Reference) -> list[str]:
    """Names under `mod` of a `.h5mu` file.

    Raises:
        DataError: if the file cannot be read or has none.
    """
    with _opened(at) as file:
        found = _group(at, file, "mod")
        return list(found)


def read_annotated(at: Reference) -> Raw:
    """A matrix of an AnnData, keyed by its `obs_names`, with `var_names` as columns.

    The part of a reference to a `.h5ad` file is the place of the matrix: `X` by default,
    `layers/counts`, `obsm/X_pca`. That of a `.h5mu` file begins with the name of the modality:
    `rna`, `rna/layers/counts`.

    Raises:
        DataError: if the file is damaged, there is no such matrix, or a value is not finite.
    """
    with _opened(at) as file:
        group, place = _annotated(at, file)
        place = place or "X"
        values = _matrix(at, group, place)
        keys = key_texts(_index(at, group, "obs"), f"{at.path}, obs_names")
        columns: tuple[str, ...] = ()
        if not place.startswith("obsm/"):
            columns = tuple(_index(at, group, "var").tolist())
    if len(keys) != len(values):
        msg = f"{at}: the matrix has {len(values)} rows, but there are {len(keys)} obs_names"
        raise DataError(msg)
    if columns and len(columns) != values.shape[1]:
        msg = f"{at}: the matrix has {values.shape[1]} columns, but var has {len(columns)} names"
        raise DataError(msg)
    refuse_bad(values, str(at), columns)
    return Raw(values, columns, keys)


def read_observations(at: Reference) -> Raw:
    """One column of `obs` (labels, groups, keys), keyed by `obs_names`, which is also a name.

    For a `.h5mu` file the part is `column`, of the common `obs`, or `modality/column`.

    Raises:
        DataError: if there is no such column, or a value is missing.
    """
    with _opened(at) as file:
        group, column = file, at.part
        if "mod" in file and "/" in column:
            group, column = _annotated(at, file)
        keys = key_texts(_index(at, group, "obs"), f"{at.path}, obs_names")
        if column in {"", "obs_names"}:
            return Raw(keys, keys=keys)
        obs = _group(at, group, "obs")
        known = [n for n in obs if not n.startswith("_")]
        if column not in known:
            raise DataError(f"{at.path}: {unknown_name('column of obs', column, known)}")
        values = _column(at, obs[column])
    if len(values) != len(keys):
        msg = f"{at} has {len(values)} values, but there are {len(keys)} obs_names"
        raise DataError(msg)
    return Raw(values, keys=keys)


def _annotated(at: Reference, file: h5py.File) -> tuple[Any, str]:
    """The group of one AnnData, and what is left of the part."""
    if "mod" not in file:
        return file, at.part
    found = _group(at, file, "mod")
    name, _, rest = at.part.partition("/")
    if name not in found:
        raise DataError(f"{at.path}: {unknown_name('modality', name, found)}")
    return _group(at, found, name), rest


def _opened(at: Reference) -> Any:
    return _Opened(at)


class _Opened:
    """An HDF5 file; what goes wrong while it is read becomes one sentence."""

    def __init__(self, at: Reference) -> None:
        self.at = at
        self.file: Any = None

    def __enter__(self) -> h5py.File:
        try:
            self.file = h5py.File(self.at.path, "r")
        except OSError as error:
            if isinstance(error, PermissionError):
                raise
            msg = f"{self.at.path} is truncated or not an HDF5 file"
            raise DataError(msg) from error
        return self.file

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.file.close()
        damaged = (OSError, RuntimeError, KeyError, AttributeError, TypeError, ValueError)
        if isinstance(error, (*damaged, IndexError)) and not isinstance(error, DataError):
            reason = " ".join(str(error).split())
            msg = f"{self.at} is damaged or not written by anndata ({reason})"
            raise DataError(msg) from error


def _group(at: Reference, parent: Any, name: str) -> Any:
    found = parent.get(name)
    if not isinstance(found, h5py.Group):
        old = isinstance(found, h5py.Dataset)
        hint = "; written by anndata before 0.7: read and write it with a newer one" if old else ""
        msg = f"{at.path} has no group {parent.name.rstrip('/')}/{name}{hint}"
        raise DataError(msg)
    return found


def _matrix(at: Reference, group: Any, place: str) -> NDArray[Any]:
    found = group.get(place)
    if isinstance(found, h5py.Dataset) and found.ndim == 2:
        return np.asarray(found[...])
    encoding = "" if found is None else str(found.attrs.get("encoding-type", ""))
    if encoding not in {"csr_matrix", "csc_matrix"}:
        places = [k for k in ("X",) if k in group]
        places += [f"{k}/{n}" for k in ("layers", "obsm") for n in group.get(k, ())]
        what = f"{place} is {encoding or 'no matrix'}" if found is not None else f"no {place}"
        msg = f"{at.path} has {what} in {group.name}: matrices are {', '.join(places) or 'none'}"
        raise DataError(msg)
    parts = tuple(np.asarray(found[k][...]) for k in ("data", "indices", "indptr"))
    shape = tuple(int(n) for n in found.attrs["shape"])
    make = sparse.csr_matrix if encoding == "csr_matrix" else sparse.csc_matrix
    matrix = make(parts, shape=shape)
    matrix.check_format(full_check=True)
    if matrix.dtype == np.float64:
        refuse_bad(matrix.data, f"{at}, value stored at")
        matrix = matrix.astype(np.float32)
    return np.asarray(matrix.toarray())


def _index(at: Reference, group: Any, axis: str) -> NDArray[np.str_]:
    frame = _group(at, group, axis)
    return _texts(frame[str(frame.attrs["_index"])])


def _column(at: Reference, found: Any) -> NDArray[Any]:
    if isinstance(found, h5py.Group):  # a categorical, or values with a mask
        if "codes" in found:
            codes = np.asarray(found["codes"][...])
            missing, values = codes < 0, _values(found["categories"])
        else:
            missing, values = np.asarray(found["mask"][...]), _values(found["values"])
            codes = np.arange(len(values))
        if missing.any():
            msg = f"{at}, row {int(np.argmax(missing))} is missing: remove such rows first"
            raise DataError(msg)
        return np.asarray(values[codes])
    return _values(found)


def _values(found: Any) -> NDArray[Any]:
    return _texts(found) if h5py.check_string_dtype(found.dtype) else np.asarray(found[...])


def _texts(found: Any) -> NDArray[np.str_]:
    if not h5py.check_string_dtype(found.dtype):
        return np.asarray(found[...]).astype(np.str_)
    return np.array(found.asstr()[...], np.str_)
