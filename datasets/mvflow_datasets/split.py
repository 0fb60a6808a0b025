"""One split of a store: a source of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import (
    COVARIATES,
    PRESENT,
    UNLABELLED,
    Column,
    Covariate,
    DataError,
    Modality,
    Presence,
    Units,
    UsageError,
    check_rows,
    unknown_name,
    with_masks,
)
from mvflow_datasets.manifest import Manifest, Misfit
from mvflow_datasets.sparse import SPARSE_PARTS, StoredSparse
from mvflow_datasets.split_data import SplitData, check_names
from mvflow_datasets.stored import StoredArray

__all__ = ["Split"]

_NUMBERS = ("|b1", "|i1", "|u1", *(f"<{kind}{n}" for kind in "iu" for n in (2, 4, 8)))
_FLOATS = ("<f2", "<f4", "<f8")


class _Described(Protocol):
    """The store of a split, as far as the split asks it."""

    @property
    def units(self) -> Mapping[str, Units]: ...

    def about(self, key: str) -> NDArray[Any] | None: ...


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
        self.absent = absent = manifest.absent.get(name, {})
        self._index = _read_pairs(name, inside.get("pairs"), self._stored, rows, absent)
        self.labels: NDArray[np.int64] | None = None
        if "labels" in inside:
            labels = _shaped(f"{name}/labels", inside["labels"], ("<i8",), (rows,))
            self.labels = np.asarray(labels)
            if int((self.labels == UNLABELLED).sum()) != absent.get("labels", 0):
                msg = f"{name}/labels has other rows of unknown class than the manifest says"
                raise Misfit(msg)
        self.factors: Mapping[str, NDArray[Any]] = (held := {})
        for factor in factors:
            array = inside[f"factors/{factor}"]
            shape = (rows, *array.shape[1:])
            _shaped(f"{name}/factors/{factor}", array, (*_NUMBERS, *_FLOATS), shape)
            held[factor] = np.asarray(array)
        masks = {m: inside[k] for m in self._stored if (k := PRESENT + m) in inside}
        if {PRESENT + m for m in masks} != {key for key in absent if key.startswith(PRESENT)}:
            msg = f"{name}/{PRESENT.rstrip('/')} has other modalities than the manifest says"
            raise Misfit(msg)
        read = [
            key for name in self._stored for key in (name, *(f"{name}/{p}" for p in SPARSE_PARTS))
        ]
        read = [*filter(inside.__contains__, read), *(["pairs"] if "pairs" in inside else [])]
        read += [PRESENT + m for m in masks]
        self.covariates: Mapping[str, Covariate] = manifest.covariates
        self._covariates = {
            c.name: _encoded(name, inside, c, rows) for c in self.covariates.values()
        }
        self._codes = {c: inside[COVARIATES + c] for c in self.covariates}
        read += [COVARIATES + covariate for covariate in self.covariates]
        self._columns = self._all_columns(masks)
        self._fingerprint = manifest.fingerprint(name, read)
        self._store: _Described | None = None
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

        Of a modality that some row lacks, or some of whose values are missing, also
        `present/NAME`: bool (rows,) or (rows, *shape). What is absent is zeros, and no data. Only
        those rows are read; sparse ones are made dense.

        Raises:
            DataError: if a row is not one of 0...len - 1.
            UsageError: if `rows` is not a list of whole numbers.
        """
        at = check_rows(rows, self._rows, f"split {self.name!r}")
        return {name: column.take(at) for name, column in self._columns.items()}

    def columns(self) -> dict[str, Column]:
        """All modalities as stored: arrays that are read when rows of them are asked for."""
        return dict(self._columns)

    def data(self) -> SplitData:
        """All that it holds, as `write_store` takes it: written anew it has the same fingerprint.

        Raises:
            DataError: if it does not fit into memory, or the store is damaged.
        """
        names = [m.name for m in self.modalities]
        index = {n: np.arange(self._rows) if (i := self._index[n]) is None else i for n in names}
        masks = {n: c for n in names if (c := self._columns.get(PRESENT + n)) is not None}
        return SplitData(
            {
                n: x.matrix() if isinstance(x := self._stored[n], StoredSparse) else np.asarray(x)
                for n in names
            },
            labels=self.labels,
            pairs=None if all(i is None for i in self._index.values()) else index,
            factors=self.factors,
            covariates={c: self.covariate_values(c) for c in self.covariates},
            present={n: np.asarray(c.values) for n, c in masks.items() if c.values.ndim > 1},
        )

    def covariate_values(self, covariate: str) -> NDArray[Any]:
        """Names of levels, or numbers, of a covariate (rows,), as `write_store` takes them.

        Raises:
            UsageError: if there is no such covariate.
        """
        if covariate not in self.covariates:
            raise UsageError(unknown_name("covariate", covariate, self.covariates))
        values, levels = np.asarray(self._codes[covariate]), self.covariates[covariate].levels
        return values if levels is None else np.array(levels)[values]

    def _all_columns(self, masks: Mapping[str, StoredArray]) -> dict[str, Column]:
        columns = {m: Column(cast(Any, x), self._index[m]) for m, x in self._stored.items()}
        for name, mask in masks.items():
            x = self._stored[name]
            key = f"{self.name}/{PRESENT}{name}"
            of = _shaped(key, mask, ("|b1",), x.shape)
            columns[PRESENT + name] = Column(cast(Any, of), self._index[name])
        encoded = {COVARIATES + name: Column(x, None) for name, x in self._covariates.items()}
        return with_masks(columns) | encoded

    def info(self) -> dict[str, Any]:
        """Rows, rows per label and per set of modalities, what is absent, type of each array."""
        known = np.empty(0, np.int64) if self.labels is None else self.labels
        labels, counts = np.unique(known[known != UNLABELLED], return_counts=True)
        return {
            "rows": self._rows,
            "labels": {str(label): int(n) for label, n in zip(labels, counts, strict=True)},
            "factors": list(self.factors),
            "absent": dict(self.absent),
            "kinds": [[list(kind), rows] for kind, rows in Presence.of(self).kinds.items()],
            "arrays": {
                name: {"dtype": str(stored.dtype), "distinct": len(stored)}
                | ({"filled": stored.filled} if isinstance(stored, StoredSparse) else {})
                | self._missing(name)
                for name, stored in self._stored.items()
            },
        }

    def _missing(self, name: str) -> dict[str, float]:
        """Share of the stored values that are missing, where some are."""
        count = self.absent.get(PRESENT + name, 0)
        return {"missing": count / np.prod(self._stored[name].shape)} if count else {}


# The functions below raise Misfit on a damaged store; `Store` adds its path.


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
    split: str,
    stored: StoredArray | None,
    values: Mapping[str, Any],
    rows: int,
    absent: Mapping[str, int],
) -> dict[str, NDArray[np.int32] | None]:
    """Row -> position in the array of each modality; None where row i is row i of it."""
    if stored is None:
        for name, array in values.items():
            _shaped(f"{split}/{name}", array, (array.dtype.str,), (rows, *array.shape[1:]))
        return dict.fromkeys(values)
    pairs = np.asarray(_shaped(f"{split}/pairs", stored, ("<i4",), (rows, len(values))))
    out: dict[str, NDArray[np.int32] | None] = {}
    for index, (name, array) in zip(pairs.T, values.items(), strict=True):
        lacking = int((index < 0).sum())
        if rows and not -1 <= index.min() <= index.max() < len(array):
            msg = f"{split}/pairs points outside the {len(array)} rows of {name!r}"
            raise Misfit(msg)
        if lacking != absent.get(name, 0):
            msg = f"{split}/pairs has {lacking} rows without {name!r}, the manifest another number"
            raise Misfit(msg)
        is_plain = absent and len(array) == rows and (index == np.arange(rows)).all()
        out[name] = None if is_plain else index.copy()
    return out


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
