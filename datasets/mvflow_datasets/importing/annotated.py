"""AnnData (`.h5ad`) and MuData (`.h5mu`) files: parts of them, read by anndata."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from mvflow.core import DataError, unknown_name
from mvflow.core.memory import check_memory
from mvflow_datasets.importing.missing import refuse_bad, refuse_bad_sparse
from mvflow_datasets.importing.references import (
    HINT,
    Raw,
    ReadOptions,
    Reference,
    key_texts,
)

__all__ = ["modalities_of", "read_annotated", "read_observations"]


def modalities_of(at: Reference) -> list[str]:
    """Names of the modalities of a `.h5mu` file.

    Raises:
        DataError: if the file cannot be read or has none.
    """
    with _opened(at) as file:
        return list(_group(at, file, "mod"))


def read_annotated(at: Reference, options: ReadOptions | None = None) -> Raw:
    """A matrix of an AnnData, keyed by its `obs_names`, with `var_names` as columns.

    The part of a reference to a `.h5ad` file is the place of the matrix: `X` by default,
    `layers/counts`, `obsm/X_pca`. That of a `.h5mu` file begins with the name of the modality:
    `rna`, `rna/layers/counts`.

    Raises:
        DataError: if the file is damaged, there is no such matrix, or a value is not finite.
    """
    with _opened(at) as file:
        group, place = _annotated(at, file)
        values, columns = _matrix(at, group, place or "X")
        keys = _names(at, group, "obs")
        if not columns and not place.startswith("obsm/"):
            columns = tuple(_names(at, group, "var").tolist())
    if len(keys) != values.shape[0]:
        msg = f"{at}: the matrix has {values.shape[0]} rows, but there are {len(keys)} obs_names"
        raise DataError(msg)
    if columns and len(columns) != values.shape[1]:
        msg = f"{at}: the matrix has {values.shape[1]} columns, but var has {len(columns)} names"
        raise DataError(msg)
    if sparse.issparse(values):
        values.sum_duplicates()
        refuse_bad_sparse(values, str(at), columns, options)
    else:
        refuse_bad(values, str(at), columns, options)
    return Raw(values, columns, keys)


def read_observations(at: Reference, options: ReadOptions | None = None) -> Raw:
    """One column of `obs` (labels, groups, keys), keyed by `obs_names`, which is also a name.

    For a `.h5mu` file the part is `column`, of the common `obs`, or `modality/column`.

    Raises:
        DataError: if there is no such column, or a value is missing.
    """
    with _opened(at) as file:
        group, column = file, at.part
        if "mod" in file and "/" in column and column not in _group(at, file, "obs"):
            group, column = _annotated(at, file)
        keys = _names(at, group, "obs")
        if column in {"", "obs_names"}:
            return Raw(keys, keys=keys)
        obs = _group(at, group, "obs")
        of_parts = file["mod"] if group is file and "mod" in file else {}
        beside = [f"{m}/{c}" for m in of_parts for c in _columns(_group(at, of_parts[m], "obs"))]
        values = pd.Series(_column(at, obs, column, beside))
    if len(values) != len(keys):
        msg = f"{at} has {len(values)} values, but there are {len(keys)} obs_names"
        raise DataError(msg)
    if (missing := np.asarray(values.isna())).any():
        if options is None or not options.takes_missing:
            msg = f"{at}, row {int(np.argmax(missing))} is missing: remove such rows first; {HINT}"
            raise DataError(msg)
        known = values[~missing]
        values = values.astype(object).where(~missing, known.iloc[0] if len(known) else "")
        values = values.infer_objects()
    plain = np.asarray(values)
    plain = plain.astype(np.str_) if plain.dtype.kind not in "biuf" else plain
    return Raw(plain, keys=keys, lacks=missing if missing.any() else None)


def _annotated(at: Reference, file: h5py.File) -> tuple[Any, str]:
    """The group of one AnnData, and what is left of the part."""
    if "mod" not in file:
        return file, at.part
    modalities = _group(at, file, "mod")
    name, _, rest = at.part.partition("/")
    if name not in modalities:
        raise DataError(f"{at.path}: {unknown_name('modality', name, modalities)}")
    return _group(at, modalities, name), rest


@contextmanager
def _opened(at: Reference) -> Iterator[h5py.File]:
    """The file of a reference; whatever goes wrong while it is read becomes one sentence."""
    try:
        with h5py.File(at.path, "r") as file:
            yield file
    except (DataError, PermissionError, MemoryError):
        raise
    except Exception as error:  # of h5py, anndata, scipy or pandas
        if isinstance(error, OSError) and "open file" in str(error):
            msg = f"{at.path} is truncated or not an HDF5 file"
        else:
            reason = " ".join(str(error).split())[:200]
            msg = f"{at} is damaged or not written by anndata ({reason})"
        raise DataError(msg) from error


def _group(at: Reference, parent: Any, name: str) -> Any:
    group = parent.get(name)
    if not isinstance(group, h5py.Group):
        is_old = isinstance(group, h5py.Dataset)
        hint = "; written by anndata before 0.7: read and write it with a newer one"
        msg = f"{at.path} has no group {parent.name.rstrip('/')}/{name}{hint if is_old else ''}"
        raise DataError(msg)
    return group


def _read(at: Reference, element: Any) -> Any:
    """An element of the file, as anndata reads it."""
    try:
        from anndata.io import read_elem
    except ImportError as error:
        msg = f"{at.path} is read by anndata: pip install 'mvflow[omics]'"
        raise DataError(msg) from error
    check_memory(_nbytes(at, element), f"{element.name} of {at.path}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the age of the layout
        return read_elem(element)


def _nbytes(at: Reference, element: Any) -> int:
    """Bytes of all arrays of an element, unpacked; all must lie in the file itself."""
    is_array = isinstance(element, h5py.Dataset)
    is_outside = is_array and (element.is_virtual or element.external)
    if is_outside or element.file.filename != str(at.path):
        msg = f"{element.name} of {at.path} lies in another file: only the file itself is read"
        raise DataError(msg)
    return int(element.nbytes) if is_array else sum(_nbytes(at, e) for e in element.values())


def _matrix(at: Reference, group: Any, place: str) -> tuple[Any, tuple[str, ...]]:
    """A matrix and the names of its columns, where it has its own."""
    element = group.get(place)
    matrix: Any = None if element is None else _read(at, element)
    if isinstance(matrix, pd.DataFrame):
        return matrix.to_numpy(), tuple(map(str, matrix.columns))
    if sparse.issparse(matrix):
        matrix.check_format(full_check=True)
        return matrix.tocsr(), ()
    if isinstance(matrix, np.ndarray) and matrix.ndim == 2:
        return matrix, ()
    places = [k for k in ("X",) if k in group]
    places += [f"{k}/{n}" for k in ("layers", "obsm") for n in group.get(k, ())]
    what = f"no {place}" if matrix is None else f"no matrix at {place}"
    msg = f"{at.path} has {what} in {group.name}: matrices are {', '.join(places) or 'none'}"
    raise DataError(msg)


def _names(at: Reference, group: Any, axis: str) -> NDArray[np.str_]:
    """obs_names or var_names."""
    frame = _group(at, group, axis)
    values = pd.Series(_read(at, frame[str(frame.attrs["_index"])])).astype(str)
    texts = values.to_numpy(np.str_)
    return key_texts(texts, f"{at.path}, obs_names") if axis == "obs" else texts


def _columns(obs: Any) -> list[str]:
    index = str(obs.attrs["_index"])
    return [name for name in obs if not name.startswith("_") and name != index]


def _column(at: Reference, obs: Any, column: str, beside: Sequence[str] = ()) -> Any:
    """A column of `obs`; `beside` are names of others, which may be meant."""
    if column not in obs or column.startswith("_"):
        known = [*_columns(obs), *beside]
        raise DataError(f"{at.path}: {unknown_name('column of obs', column, known)}")
    if "__categories" in obs:  # before anndata 0.8 they lie beside the columns
        return _read(at, obs)[column]
    return _read(at, obs[column])
