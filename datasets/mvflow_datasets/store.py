"""The HDF5 store: a dataset in one file, written whole or not at all, read in place.

    /<split>/<modality>      (distinct, *shape) uint8 or float32; a categorical one int64
    /<split>/labels          (rows,) int64, optional
    /<split>/pairs           (rows, modalities) int32, optional: row -> row of each array
    /<split>/factors/<name>  (rows, ...) numbers, optional
    /<split>/covariates/<name>  (rows,) int32 codes of levels or float32 numbers, optional

A sparse modality is a group of the arrays `data`, `indices` and `indptr` of compressed rows.

Any program that knows HDF5 can read it. mvflow itself reads by the manifest at its beginning,
see `mvflow_datasets.manifest`, and compares all that it reads with the hashes there: a store is
what it was when it was built, or it is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import (
    COVARIATES,
    Column,
    Covariate,
    DataError,
    Modality,
    Units,
    UsageError,
    check_rows,
    unknown_name,
)
from mvflow.core.files import MissingFileError
from mvflow_datasets.manifest import ABOUT, FORMAT_VERSION, Manifest, Misfit, damaged
from mvflow_datasets.opened import OpenedFile
from mvflow_datasets.sparse import SPARSE_PARTS, StoredSparse
from mvflow_datasets.stored import Check, StoredArray, value_check
from mvflow_datasets.units import unpack_units
from mvflow_datasets.writing import SplitData, check_names, write_store

__all__ = ["Split", "SplitData", "Store", "write_store"]

_NUMBERS = ("|b1", "|i1", "|u1", *(f"<{kind}{n}" for kind in "iu" for n in (2, 4, 8)))
_FLOATS = ("<f2", "<f4", "<f8")


class Split:
    """Rows of one split of a store: a `mvflow.core.Source` that reads what it is asked for.

    Labels, factors and pairs are held in memory. The arrays of the modalities stay on disk; each
    of their values is compared with the hash that was taken when it was written, once, when it
    is first read.
    """

    def __init__(self, name: str, manifest: Manifest, arrays: Mapping[str, StoredArray]) -> None:
        self.name = name
        self.modalities = manifest.modalities
        self._rows = rows = manifest.splits[name]
        inside = {
            key.removeprefix(f"{name}/"): array
            for key, array in arrays.items()
            if key.startswith(f"{name}/")
        }
        factors = [key.removeprefix("factors/") for key in inside if key.startswith("factors/")]
        try:
            check_names(name, [m.name for m in self.modalities], factors)
        except DataError as error:
            raise Misfit(str(error)) from error
        self._stored = {m.name: _stored(name, inside, m) for m in self.modalities}
        self._index = _read_pairs(name, inside.get("pairs"), self._stored, rows)
        self.labels: NDArray[np.int64] | None = None
        if "labels" in inside:
            labels = _shaped(f"{name}/labels", inside["labels"], ("<i8",), (rows,))
            self.labels = np.asarray(labels)
        self.factors: Mapping[str, NDArray[Any]] = (held := {})
        for factor in factors:
            found = inside[f"factors/{factor}"]
            shape = (rows, *found.shape[1:])
            _shaped(f"{name}/factors/{factor}", found, (*_NUMBERS, *_FLOATS), shape)
            held[factor] = np.asarray(found)
        read = [
            key for name in self._stored for key in (name, *(f"{name}/{p}" for p in SPARSE_PARTS))
        ]
        read = [*filter(inside.__contains__, read), *(["pairs"] if self._index else [])]
        self.covariates: Mapping[str, Covariate] = manifest.covariates
        self._covariates = {
            c.name: _encoded(name, inside, c, rows) for c in self.covariates.values()
        }
        read += [COVARIATES + covariate for covariate in self.covariates]
        self._fingerprint = manifest.fingerprint(name, read)
        self._store: Store | None = None
        self.class_names: Mapping[int, str] = {}
        self.factor_names: Mapping[str, str] = {}

    @property
    def fingerprint(self) -> str:
        """Hash of all values of its modalities; they are compared with it as they are read."""
        return self._fingerprint

    @property
    def units(self) -> Mapping[str, Units]:
        """Modality -> how its values came from those of the files, and what they are called."""
        return {} if self._store is None else self._store.units

    @property
    def row_names(self) -> tuple[str, ...]:
        """Names of the rows in the files, or their numbers there; empty if nobody kept them."""
        names = None if self._store is None else self._store.about(f"rows/{self.name}")
        return () if names is None else tuple(names.tolist())

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {self._rows:,} rows of {', '.join(self._stored)})"

    def take(self, rows: ArrayLike) -> dict[str, NDArray[Any]]:
        """Arrays of the given rows, in their order, and encoded covariates as `covariates/NAME`.

        Only those rows are read; sparse ones are made dense.

        Raises:
            DataError: if a row is not one of 0...len - 1.
            UsageError: if `rows` is not a list of whole numbers.
        """
        at = check_rows(rows, self._rows, f"split {self.name!r}")
        values = {
            name: stored.take(at if self._index is None else self._index[name][at])
            for name, stored in self._stored.items()
        }
        return values | {COVARIATES + name: x[at] for name, x in self._covariates.items()}

    def columns(self) -> dict[str, Column]:
        """All modalities as stored: arrays that are read when rows of them are asked for."""
        columns = {
            name: Column(cast(Any, stored), None if self._index is None else self._index[name])
            for name, stored in self._stored.items()
        }
        return columns | {COVARIATES + n: Column(x, None) for n, x in self._covariates.items()}

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
                | ({"filled": stored.filled} if isinstance(stored, StoredSparse) else {})
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

    def __init__(self, file: OpenedFile) -> None:
        self.path = file.path
        self.format_version = FORMAT_VERSION
        self._manifest = manifest = Manifest.read(file)
        self.name, self.note = manifest.name, manifest.note
        self.modalities, self.covariates = manifest.modalities, manifest.covariates
        self.builder, self.sources = manifest.builder, manifest.sources
        self.fingerprint = manifest.fingerprint()
        try:
            self._arrays = {
                key: StoredArray(file, key, entry, _check_of(key, self.modalities, entry.dtype))
                for key, entry in manifest.arrays.items()
            }
            self._splits: dict[str, Split] | None = {
                name: Split(name, manifest, self._arrays) for name in manifest.splits
            }
            self.class_names = {int(k): name for k, name in self._names("class_names")}
        except DataError:
            raise  # a sentence already
        except (Misfit, ValueError) as error:
            raise damaged(file.path, error) from error
        self.factor_names = dict(self._names("factor_names"))
        for split in self._splits.values():
            split.class_names, split.factor_names = self.class_names, self.factor_names
            split._store = self

    def _names(self, key: str) -> list[tuple[str, str]]:
        """Pairs of key and readable name that `write_store` was given."""
        found = self.about(key)
        if found is None:
            return []
        if found.ndim != 2 or found.shape[1] != 2:
            msg = f"_about/{key} has shape {found.shape}, expected pairs"
            raise Misfit(msg)
        return [(str(k), str(name)) for k, name in found]

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store, and check all of it but the arrays of its modalities.

        Raises:
            DataError: if the file is missing, not a store, damaged, or written by another
                version of mvflow; the message says what to do.
        """
        path = Path(path)
        try:
            return cls(OpenedFile(path))
        except MissingFileError as error:
            msg = f"there is no store at {path}: build one with 'mvflow data build'"
            raise DataError(msg) from error

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order in which they were written."""
        return tuple(self._manifest.splits)

    def __getitem__(self, split: str) -> Split:
        if self._splits is None:
            msg = f"store {self.path} is closed: open it again to read from it"
            raise UsageError(msg)
        if split not in self._splits:
            raise UsageError(unknown_name("split", split, self._splits))
        return self._splits[split]

    def about(self, key: str) -> NDArray[Any] | None:
        """What `write_store` was given as `about` under this key; None if nothing."""
        if (array := self._arrays.get(f"{ABOUT}{key}")) is None:
            return None
        found = np.asarray(array)
        return np.char.decode(found, "utf-8", "replace") if found.dtype.kind == "S" else found

    @cached_property
    def units(self) -> Mapping[str, Units]:
        """Modality -> how its values came from those of the files, and what they are called."""
        return {
            m.name: unpack_units(partial(self._about_of, m.name), m.size) for m in self.modalities
        }

    def _about_of(self, modality: str, key: str) -> NDArray[Any] | None:
        return self.about(f"{modality}/{key}")

    def verify(self) -> list[str]:
        """Compare every array with its hashes, and every value with what a store may hold.

        Returns:
            What is wrong, a phrase each; nothing in a store that is as it was when it was built.

        Raises:
            DataError: if the file cannot be read, or changes meanwhile.
        """
        return [reason for array in self._arrays.values() for reason in array.verify()]

    def __repr__(self) -> str:
        return f"Store({self.name!r}, splits {', '.join(self.splits)}, {str(self.path)!r})"

    def info(self) -> dict[str, Any]:
        """All that is known of the store, in values that JSON can carry."""
        return {
            "name": self.name,
            "note": self.note,
            "path": str(self.path),
            "format_version": self.format_version,
            "bytes": self._manifest.size,
            "modalities": [m.to_dict() | {"shape": list(m.shape)} for m in self.modalities],
            "class_names": {str(label): name for label, name in self.class_names.items()},
            "factor_names": dict(self.factor_names),
            "covariates": {name: c.to_dict() for name, c in self.covariates.items()},
            "splits": {name: self[name].info() for name in self.splits},
            "builder": self.builder,
            "sources": self.sources,
            "fingerprint": self.fingerprint,
        }

    def close(self) -> None:
        """Let go of the file. Splits and columns that were handed out can still be read."""
        self._splits, self._arrays = None, {}

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


# The functions below raise Misfit on a damaged store; `Store` adds its path.


def _check_of(key: str, modalities: tuple[Modality, ...], dtype: str) -> Check | None:
    """Which values an array may hold, by its place."""
    split, _, name = key.partition("/")
    if f"{split}/" == ABOUT:
        return None
    if name == "labels":
        return lambda x: np.asarray(x >= 0)
    name, _, part = name.partition("/")
    modality = next((m for m in modalities if m.name == name), None)
    if modality is None or part == "indptr":
        return None
    if part == "indices":
        return lambda x: np.asarray((x >= 0) & (x < modality.shape[0]))
    return value_check(modality, dtype)


def _encoded(
    split: str, inside: Mapping[str, StoredArray], covariate: Covariate, rows: int
) -> NDArray[np.float32]:
    """A covariate as networks see it, (rows, width)."""
    key = COVARIATES + covariate.name
    dtype = "<f4" if covariate.levels is None else "<i4"
    values = np.asarray(_shaped(f"{split}/{key}", inside.get(key), (dtype,), (rows,)))
    levels = covariate.levels
    is_valid = np.isfinite(values) if levels is None else (values >= 0) & (values < len(levels))
    if not is_valid.all():
        msg = f"{split}/{key} has {values[~is_valid][0]} in row {int(np.argmin(is_valid))}"
        raise Misfit(msg)
    return covariate.encode(values if levels is None else np.array(levels)[values])


def _stored(
    split: str, inside: Mapping[str, StoredArray], modality: Modality
) -> StoredArray | StoredSparse:
    parts = {p: inside[key] for p in SPARSE_PARTS if (key := f"{modality.name}/{p}") in inside}
    if parts and modality.name not in inside and len(modality.shape) == 1:
        return StoredSparse(f"{split}/{modality.name}", parts, modality.shape[0])
    categorical = modality.kind == "categorical"
    shape, types = ((), ("<i8",)) if categorical else (modality.shape, ("|u1", "<f4"))
    return _shaped(f"{split}/{modality.name}", inside.get(modality.name), types, (None, *shape))


def _read_pairs(
    split: str, stored: StoredArray | None, values: Mapping[str, Any], rows: int
) -> dict[str, NDArray[np.int32]] | None:
    """Row -> position in the array of each modality, or None where row i is row i of each."""
    if stored is None:
        for name, array in values.items():
            _shaped(f"{split}/{name}", array, (array.dtype.str,), (rows, *array.shape[1:]))
        return None
    pairs = np.asarray(_shaped(f"{split}/pairs", stored, ("<i4",), (rows, len(values))))
    for index, (name, array) in zip(pairs.T, values.items(), strict=True):
        if rows and not 0 <= index.min() <= index.max() < len(array):
            msg = f"{split}/pairs points outside the {len(array)} rows of {name!r}"
            raise Misfit(msg)
    return {name: pairs[:, j].copy() for j, name in enumerate(values)}


def _shaped(what: str, array: Any, dtypes: tuple[str, ...], shape: tuple[int | None, ...]) -> Any:
    """An array of a type and a shape that a store may have; None stands for any length."""
    if array is None:
        msg = f"{what} is missing"
        raise Misfit(msg)
    wrong = [n for n, m in zip(array.shape, shape, strict=False) if m is not None and n != m]
    if wrong or array.ndim != len(shape) or array.dtype.str not in dtypes:
        expected = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        lengths = ", ".join("any" if n is None else str(n) for n in shape)
        msg = (
            f"{what} is {array.dtype} of shape {array.shape}, "
            f"expected {expected} of shape ({lengths})"
        )
        raise Misfit(msg)
    return array
