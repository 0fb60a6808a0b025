"""The HDF5 store: a dataset in one file, written whole or not at all, read in place.

    /<split>/<modality>      (distinct, *shape) uint8 or float32; a categorical one int64
    /<split>/labels          (rows,) int64, optional
    /<split>/pairs           (rows, modalities) int32, optional: row -> row of each array
    /<split>/factors/<name>  (rows, ...) numbers, optional

Root attributes: `format`, `format_version`, `name`, `note`, `fingerprint`, and as JSON
`modalities`, `splits` (name -> rows), `builder` and `sources` (file name -> SHA-256).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import Column, DataError, Modality, UsageError, check_rows, unknown_name
from mvflow_datasets.writing import FORMAT, FORMAT_VERSION, SplitData, write_store

__all__ = ["Split", "SplitData", "Store", "write_store"]


class Split:
    """Rows of one split of a store: a `mvflow.core.Source` that reads what it is asked for.

    Labels, factors and pairs are held in memory. The arrays of the modalities stay on disk,
    memory-mapped where they are contiguous, as `write_store` makes them.
    """

    def __init__(
        self, path: Path, group: h5py.Group, modalities: tuple[Modality, ...], rows: int
    ) -> None:
        self.name: str = group.name.strip("/")
        self.modalities = modalities
        self._rows = rows
        self._stored = {m.name: _stored(path, group, m) for m in modalities}
        self._index = _read_pairs(group, self._stored, rows)
        self.labels: NDArray[np.int64] | None = None
        if "labels" in group:
            self.labels = _read_rows(group, "labels", rows).astype(np.int64, casting="safe")
        self.class_names: Mapping[int, str] = {}
        self.factor_names: Mapping[str, str] = {}
        factors = group.get("factors", ())
        self.factors: Mapping[str, NDArray[Any]] = {
            name: _read_rows(factors, name, rows) for name in factors
        }

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {self._rows:,} rows of {', '.join(self._stored)})"

    def take(self, rows: ArrayLike) -> dict[str, NDArray[Any]]:
        """Arrays of the given rows, in their order; only those rows are read.

        Raises:
            DataError: if a row is not one of 0...len - 1.
            UsageError: if `rows` is not a list of whole numbers.
        """
        at = check_rows(rows, self._rows, f"split {self.name!r}")
        return {
            name: _values(stored, at if self._index is None else self._index[name][at])
            for name, stored in self._stored.items()
        }

    def columns(self) -> dict[str, Column]:
        """All modalities as stored: read-only memory maps where possible, else read whole."""
        return {
            name: Column(_values(stored), None if self._index is None else self._index[name])
            for name, stored in self._stored.items()
        }

    def info(self) -> dict[str, Any]:
        """Rows, rows per label, names of the factors, type and distinct rows of each array."""
        labels, counts = np.unique(
            np.empty(0, np.int64) if self.labels is None else self.labels, return_counts=True
        )
        return {
            "rows": self._rows,
            "labels": {str(label): int(n) for label, n in zip(labels, counts, strict=True)},
            "factors": list(self.factors),
            "arrays": {
                name: {"dtype": str(stored.dtype), "distinct": len(stored)}
                for name, stored in self._stored.items()
            },
        }


class Store:
    """A store opened for reading; `store["train"]` is a source of rows.

    Examples:
        >>> from tempfile import mkdtemp
        >>> path = write_store(f"{mkdtemp()}/tiny.h5", name="tiny",
        ...     modalities=[Modality("a", (2,))], splits={"train": SplitData({"a": np.eye(2)})})
        >>> with Store.open(path) as store:
        ...     store["train"].take([1, 0])["a"]
        array([[0., 1.],
               [1., 0.]], dtype=float32)
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self.format_version = int(_attribute(file, "format_version"))
        self.name = str(_attribute(file, "name"))
        self.note = str(_attribute(file, "note"))
        self.fingerprint = str(_attribute(file, "fingerprint"))
        self.builder: dict[str, Any] = json.loads(_attribute(file, "builder"))
        self.sources: dict[str, str] = json.loads(_attribute(file, "sources"))
        self.modalities = tuple(
            Modality.from_dict(spec) for spec in json.loads(_attribute(file, "modalities"))
        )
        self.class_names = {int(k): name for k, name in _names(file, "class_names")}
        self.factor_names = dict(_names(file, "factor_names"))
        self._file = file
        self._splits = {
            name: Split(path, _member(file, name, h5py.Group), self.modalities, int(rows))
            for name, rows in json.loads(_attribute(file, "splits")).items()
        }
        for split in self._splits.values():
            split.class_names, split.factor_names = self.class_names, self.factor_names

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store and check that all its pieces are there.

        Raises:
            DataError: if the file is missing, truncated, not a store, damaged, or written by a
                newer mvflow; the message says what to do.
        """
        path = Path(path)
        file = _open_hdf5(path)
        try:
            _check_format(path, file)
            return cls._load(path, file)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _load(cls, path: Path, file: h5py.File) -> Store:
        try:
            return cls(path, file)
        except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            msg = f"store {path} is damaged ({reason}): build it or copy it again"
            raise DataError(msg) from error

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order in which they were written."""
        return tuple(self._splits)

    def __getitem__(self, split: str) -> Split:
        if split not in self._splits:
            raise UsageError(unknown_name("split", split, self._splits))
        return self._splits[split]

    def __repr__(self) -> str:
        return f"Store({self.name!r}, splits {', '.join(self._splits)}, {str(self.path)!r})"

    def info(self) -> dict[str, Any]:
        """All that is known of the store, in values that JSON can carry."""
        return {
            "name": self.name,
            "note": self.note,
            "path": str(self.path),
            "format_version": self.format_version,
            "bytes": self.path.stat().st_size,
            "modalities": [m.to_dict() | {"shape": list(m.shape)} for m in self.modalities],
            "class_names": {str(label): name for label, name in self.class_names.items()},
            "factor_names": dict(self.factor_names),
            "splits": {name: split.info() for name, split in self._splits.items()},
            "builder": self.builder,
            "sources": self.sources,
            "fingerprint": self.fingerprint,
        }

    def close(self) -> None:
        """Close the file; arrays that were handed out stay valid."""
        self._file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _open_hdf5(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        msg = f"there is no store at {path}: build one with 'mvflow data build'"
        raise DataError(msg) from error
    except (IsADirectoryError, PermissionError) as error:
        reason = "it is a folder" if path.is_dir() else "permission denied"
        msg = f"cannot read {path} ({reason}): name the file of a store"
        raise DataError(msg) from error
    except OSError as error:
        msg = f"{path} is truncated or not an HDF5 file: build the store or copy it again"
        raise DataError(msg) from error


def _check_format(path: Path, file: h5py.File) -> None:
    if str(file.attrs.get("format")) != FORMAT:
        msg = f"{path} is an HDF5 file but not an mvflow store: build one with 'mvflow data build'"
        raise DataError(msg)
    version = file.attrs.get("format_version")
    if isinstance(version, np.integer) and version > FORMAT_VERSION:
        msg = (
            f"{path} was written by a newer mvflow (store format {version}, "
            f"this one reads up to {FORMAT_VERSION}): upgrade mvflow"
        )
        raise DataError(msg)


# The functions below raise ValueError on a damaged store; `Store.open` adds the path to it.


def _attribute(file: h5py.File, name: str) -> Any:
    if name not in file.attrs:
        msg = f"its attribute {name!r} is missing"
        raise ValueError(msg)
    return file.attrs[name]


def _member(group: h5py.Group, name: str, kind: type) -> Any:
    found = group.get(name)
    if not isinstance(found, kind):
        msg = f"{group.name.rstrip('/')}/{name} is missing"
        raise ValueError(msg)
    return found


def _names(file: h5py.File, key: str) -> list[tuple[str, str]]:
    """Pairs of key and readable name, as `write_store` keeps them below `/_about`."""
    stored = file.get(f"_about/{key}")
    return [] if stored is None else [(k, name) for k, name in stored.asstr()[...]]


def _read_rows(group: h5py.Group, name: str, rows: int) -> NDArray[Any]:
    dataset = _member(group, name, h5py.Dataset)
    if dataset.shape[:1] != (rows,):
        msg = f"{dataset.name} has shape {dataset.shape}, expected {rows} rows"
        raise ValueError(msg)
    return np.asarray(dataset[...])


def _stored(path: Path, group: h5py.Group, modality: Modality) -> Any:
    """Memory map of a contiguous dataset; the dataset itself if it is chunked or empty."""
    dataset = _member(group, modality.name, h5py.Dataset)
    categorical = modality.kind == "categorical"
    shape, types = ((), ("int64",)) if categorical else (modality.shape, ("uint8", "float32"))
    if dataset.shape[1:] != shape or dataset.ndim == 0 or dataset.dtype.name not in types:
        msg = (
            f"{dataset.name} is {dataset.dtype} of shape {dataset.shape}, "
            f"expected {' or '.join(types)} of shape {('rows', *shape)}"
        )
        raise ValueError(msg)
    offset = dataset.id.get_offset()
    if offset is None:
        return dataset
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def _read_pairs(
    group: h5py.Group, stored: Mapping[str, Any], rows: int
) -> dict[str, NDArray[np.int32]] | None:
    """Row -> position in the array of each modality, or None where row i is row i of each."""
    if "pairs" not in group:
        for name, values in stored.items():
            if len(values) != rows:
                msg = f"{group.name}/{name} has {len(values)} rows, expected {rows}"
                raise ValueError(msg)
        return None
    pairs = _read_rows(group, "pairs", rows)
    if pairs.shape != (rows, len(stored)) or pairs.dtype != np.int32:
        msg = f"{group.name}/pairs is {pairs.dtype} of shape {pairs.shape}"
        raise ValueError(msg)
    for index, (name, values) in zip(pairs.T, stored.items(), strict=True):
        if rows and not 0 <= index.min() <= index.max() < len(values):
            msg = f"{group.name}/pairs points outside the {len(values)} rows of {name!r}"
            raise ValueError(msg)
    return {name: pairs[:, j].copy() for j, name in enumerate(stored)}


def _values(stored: Any, at: NDArray[Any] | None = None) -> NDArray[Any]:
    """All rows, or those at the given positions in their order, as an array."""
    if isinstance(stored, np.ndarray):
        return stored if at is None else np.asarray(stored).take(at, axis=0)
    if not stored:
        msg = "the store is closed: open it again to read from it"
        raise UsageError(msg)
    if at is None:
        return np.asarray(stored[...])
    distinct, inverse = np.unique(at, return_inverse=True)  # h5py wants increasing rows
    return np.asarray(stored[distinct][inverse])
