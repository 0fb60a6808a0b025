"""Writing a store: checked first, written under a temporary name, renamed when complete."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix, issparse

from mvflow.core import COVARIATES, Covariate, DataError, Modality, Units, check_batch
from mvflow.core.files import replacing
from mvflow_datasets.hdf5 import writing_hdf5
from mvflow_datasets.manifest import (
    ABOUT,
    Entry,
    Manifest,
    block_rows,
    hash_of,
)
from mvflow_datasets.opened import OpenedFile
from mvflow_datasets.sparse import SPARSE_PARTS
from mvflow_datasets.units import pack_units

__all__ = ["Blocks", "SplitData", "check_names", "write_store"]

_ALIGNED = {"alignment_threshold": 1, "alignment_interval": 64}
_LARGE = 1 << 62  # stands for numbers that are not known yet, and takes as much room as any
_RESERVED = {"labels", "pairs", "factors", "covariates"}


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Images that are made while they are written, so that memory never holds them all.

    Args:
        shape: of the whole array, (rows, *shape of one).
        make: called with `start` and `stop`, once each in rising order; returns the rows from
            `start` on and before `stop`, (stop - start, *shape) uint8.

    Examples:
        >>> ramp = Blocks((3, 1, 2), lambda a, b: np.full((b - a, 1, 2), a, np.uint8))
        >>> len(ramp), [len(block) for block in ramp]
        (3, [3])
    """

    shape: tuple[int, ...]
    make: Callable[[int, int], NDArray[np.uint8]]

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        step = block_rows(np.dtype(np.uint8), self.shape)
        for start in range(0, len(self), step):
            rows = min(step, len(self) - start)
            block = self.make(start, start + rows)
            if block.shape != (rows, *self.shape[1:]) or block.dtype != np.uint8:
                msg = (
                    f"a block is {block.dtype} of shape {block.shape}: "
                    f"expected uint8 of shape {(rows, *self.shape[1:])}"
                )
                raise ValueError(msg)
            yield block


@dataclass(frozen=True, slots=True, eq=False)
class SplitData:
    """What one split of a store is made of.

    Args:
        arrays: modality -> (rows, *shape), or (distinct, *shape) where `pairs` says which one a
            row takes; as arrays, as `Blocks` that are made while they are written, or as sparse
            matrices of SciPy, which stay sparse.
        labels: class of each row.
        pairs: modality -> (rows,) positions in the array of that name.
        factors: known causes of each row, by name.
        covariates: what is known of each row: names of levels or numbers, by name.
    """

    arrays: Mapping[str, Any]
    labels: ArrayLike | None = None
    pairs: Mapping[str, ArrayLike] | None = None
    factors: Mapping[str, ArrayLike] = field(default_factory=dict)
    covariates: Mapping[str, ArrayLike] = field(default_factory=dict)


def write_store(
    path: str | Path,
    *,
    name: str,
    modalities: Iterable[Modality],
    splits: Mapping[str, SplitData],
    builder: Mapping[str, Any] | None = None,
    sources: Mapping[str, str] | None = None,
    note: str = "",
    about: Mapping[str, NDArray[Any]] | None = None,
    class_names: Mapping[int, str] | None = None,
    factor_names: Mapping[str, str] | None = None,
    covariates: Iterable[Covariate] = (),
    units: Mapping[str, Units] | None = None,
) -> Path:
    """Write a store, whole or not at all: on any failure an older file at `path` stays as it was.

    Args:
        path: the file to write; its folder is made if need be.
        name: name of the dataset.
        modalities: specifications, in the order that sources will have.
        splits: name -> data of each split, in the order that the store will have.
        builder: what made the data: name, parameters, seed, version of mvflow.
        sources: SHA-256 of each file that the data came from, by file name.
        note: what a reader of results must know, such as "SVHN subset (8,001 digits)".
        about: further arrays of numbers or texts by their place below `/_about`, which no source
            reads and which the fingerprint leaves out: units, names of columns and of rows.
        class_names: label -> name of the class, for reports.
        factor_names: factor -> readable name with its unit, for reports.
        covariates: how the covariates of all splits are encoded.
        units: modality -> how its values came from those of the files.

    Returns:
        The path.

    Raises:
        DataError: if the data are not consistent and finite, or cannot be written.
    """
    path = Path(path)
    specs = tuple(modalities)
    names = {"class_names": class_names, "factor_names": factor_names}
    about = {
        **(about or {}),
        **{k: np.array([*v.items()], np.str_) for k, v in names.items() if v},
        **{
            f"{m}/{key}": x for m, of in (units or {}).items() for key, x in pack_units(of).items()
        },
    }
    known = {c.name: c for c in sorted(covariates, key=lambda c: c.name)}
    datasets = {
        f"{split}/{key}": array
        for split, data in splits.items()
        for key, array in _checked_split(split, data, specs, known).items()
    }
    rows = {split: _row_count(datasets, split, specs) for split in splits}
    datasets |= {f"{ABOUT}{key}": _plain(np.atleast_1d(x)) for key, x in about.items()}
    entries = {key: _entry(array) for key, array in datasets.items()}
    origin = (_sorted(builder), _sorted(sources))
    plan = Manifest(name, note, specs, rows, *origin, entries, _LARGE, _LARGE, "0" * 64, known)
    with replacing(path) as temporary:
        with temporary.open("r+b") as file:
            laid = _laid_out(file, plan)
            hashed = {
                key: replace(entry, blocks=_written(file, entry, datasets[key]))
                for key, entry in laid.arrays.items()
            }
        done = OpenedFile(temporary)
        laid = replace(laid, arrays=hashed, size=done.size)
        laid = replace(laid, rest=hash_of(done, laid.gaps()))
        with temporary.open("r+b") as file:
            file.write(laid.encode())
    return path


def _sorted(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same JSON object with its keys in order, so that equal ones give equal bytes."""
    ordered: dict[str, Any] = json.loads(json.dumps(dict(values or {}), sort_keys=True))
    return ordered


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """The same values as a store holds them: little-endian numbers, texts in UTF-8."""
    if array.dtype.kind == "U":
        array = np.char.encode(array, "utf-8")
        return array if array.dtype.itemsize else array.astype("S1")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _entry(array: NDArray[Any] | Blocks) -> Entry:
    dtype = np.dtype(np.uint8) if isinstance(array, Blocks) else array.dtype
    count = -(-len(array) // block_rows(dtype, array.shape))
    return Entry(dtype.str, tuple(map(int, array.shape)), _LARGE, "0" * 64 * count)


def _laid_out(file: IO[bytes], plan: Manifest) -> Manifest:
    """Make an HDF5 file with room for the manifest and for all arrays; where they will lie."""
    room, laid = plan.room(), {}
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with writing_hdf5(file, userblock_size=room, **_ALIGNED) as made:
        for key, words in (("name", plan.name), ("note", plan.note)):
            made.attrs[key] = words.replace("\0", " ").encode(errors="replace").decode()
        for key, entry in plan.arrays.items():
            text = entry.dtype.startswith("|S")
            dtype = np.dtype(entry.dtype)
            stored = h5py.string_dtype("utf-8", dtype.itemsize) if text else dtype
            dataset = made.create_dataset(key, entry.shape, stored, dcpl=creation.copy())
            laid[key] = replace(entry, offset=dataset.id.get_offset() if entry.nbytes else 0)
    return replace(plan, arrays=laid, start=room)


def _written(file: IO[bytes], entry: Entry, array: NDArray[Any] | Blocks) -> str:
    """Write an array where it belongs; the hashes of its blocks."""
    digests, step = [], block_rows(np.dtype(entry.dtype), entry.shape)
    blocks: Iterable[NDArray[Any]] = (
        array
        if isinstance(array, Blocks)
        else (array[i : i + step] for i in range(0, len(array), step))
    )
    file.seek(entry.offset)
    for block in blocks:
        data = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
        file.write(data)
        digests.append(hashlib.sha256(data).hexdigest())
    return "".join(digests)


def _checked_split(
    split: str,
    data: SplitData,
    modalities: tuple[Modality, ...],
    covariates: Mapping[str, Covariate],
) -> dict[str, NDArray[Any] | Blocks]:
    """Arrays of a split by their place in its group, of the types in which they are stored."""
    names = [m.name for m in modalities]
    try:
        check_names(split, names, data.factors)
        for given, kind in ((data.arrays, "array"), (data.pairs, "pairs")):
            if given is not None and set(given) != set(names):
                msg = f"one {kind} per modality is needed ({names}): got {sorted(given)}"
                raise DataError(msg)
        paired = data.pairs is not None
        matrices = {name: x for name, x in data.arrays.items() if issparse(x)}
        arrays = {n: _stand_in(x) for n, x in data.arrays.items() if n not in matrices}
        out = check_batch(arrays, modalities, rows_equal=not paired)
        lengths = {name: len(x) for name, x in out.items()}
        lengths |= {name: matrix.shape[0] for name, matrix in matrices.items()}
        rows = lengths[names[0]]
        if not paired and len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
            msg = f"all modalities need the same number of rows, but {listed}"
            raise DataError(msg)
        if data.pairs is not None:
            out["pairs"] = _stacked_pairs(data.pairs, {name: lengths[name] for name in names})
            rows = len(out["pairs"])
        if data.labels is not None:
            labels = _per_row("labels", data.labels, rows, kinds="iu").astype(np.int64)
            if labels.size and labels.min() < 0:
                row = int(np.argmin(labels))
                msg = f"labels: row {row} is {labels[row]}, expected a class from 0 on"
                raise DataError(msg)
            out["labels"] = labels
        for factor, values in sorted(data.factors.items()):
            out[f"factors/{factor}"] = _per_row(f"factor {factor!r}", values, rows, kinds="biuf")
        if set(data.covariates) != set(covariates):
            msg = f"covariates {sorted(covariates)} are needed: got {sorted(data.covariates)}"
            raise DataError(msg)
        for name, covariate in covariates.items():
            out[COVARIATES + name] = _covariate_values(covariate, data.covariates[name], rows)
        for modality in modalities:
            if modality.name in matrices:
                out |= _sparse_parts(matrices[modality.name], modality)
    except DataError as error:
        msg = f"split {split!r}: {error}"
        raise DataError(msg) from error
    blocks = {name: x for name, x in data.arrays.items() if isinstance(x, Blocks)}
    return {key: _plain(x) for key, x in out.items() if key not in blocks} | blocks


def _covariate_values(
    covariate: Covariate, values: ArrayLike, rows: int
) -> NDArray[np.int32 | np.float32]:
    """Codes of levels, or numbers as they are, (rows,)."""
    encoded = covariate.encode(values, rows)
    if covariate.levels is not None:
        return encoded.argmax(1).astype(np.int32)
    return np.asarray(values, np.float32)


def _sparse_parts(given: Any, modality: Modality) -> dict[str, NDArray[Any]]:
    """Arrays of a sparse matrix by their place, with its values in the order of their columns."""
    name, likelihood = modality.name, modality.likelihood_part
    matrix = csr_matrix(given, dtype=np.float32, copy=True)
    if (
        modality.shape != matrix.shape[1:]
        or likelihood.row_shape(modality.shape) != modality.shape
    ):
        msg = f"modality {name!r} is sparse of shape {matrix.shape}, but has rows {modality.shape}"
        raise DataError(msg)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    data = matrix.data
    is_bad = ~(np.isfinite(data) & likelihood.is_valid(data, modality.shape))
    if is_bad.any():
        place = int(np.argmax(is_bad))
        row = int(np.searchsorted(matrix.indptr, place, "right")) - 1
        expected = likelihood.expects(modality.shape)
        msg = f"modality {name!r}, row {row} contains {data[place]}: {expected}"
        raise DataError(msg)
    parts = {"data": data, "indices": matrix.indices, "indptr": matrix.indptr}
    return {f"{name}/{p}": parts[p].astype(dtype) for p, dtype in SPARSE_PARTS.items()}


def _stand_in(values: ArrayLike | Blocks) -> NDArray[Any]:
    """The array; for blocks, which are not made yet, zeros of their shape without their memory."""
    if isinstance(values, Blocks):
        return np.broadcast_to(np.uint8(0), values.shape)
    return np.asarray(values)


def check_names(split: str, modalities: list[str], factors: Iterable[str]) -> None:
    """Refuse names that a store cannot hold.

    Raises:
        DataError: if there is one, or two of the same.
    """
    for name in (split, *factors):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            msg = f"{name!r} cannot name a split or a factor: use letters, digits, '_', '-', '.'"
            raise DataError(msg)
    if len(set(modalities) - _RESERVED) != len(modalities) or not modalities:
        msg = (
            f"the modalities are named {modalities}: expected at least one, "
            f"different names, and none of {', '.join(sorted(_RESERVED))}"
        )
        raise DataError(msg)


def _per_row(what: str, values: ArrayLike, rows: int, *, kinds: str) -> NDArray[Any]:
    array = np.asarray(values)
    is_right = array.shape[:1] == (rows,) and 0 not in array.shape[1:]
    if not is_right or (array.size and array.dtype.kind not in kinds):
        expected = "whole numbers" if kinds == "iu" else "numbers"
        msg = f"{what}: expected {rows} {expected}, got {array.dtype} of shape {array.shape}"
        raise DataError(msg)
    return array.astype(np.float64) if array.dtype.itemsize > 8 else array


def _stacked_pairs(
    pairs: Mapping[str, ArrayLike], lengths: Mapping[str, int]
) -> NDArray[np.int32]:
    rows = min(np.size(index) for index in pairs.values())
    columns = []
    for name, length in lengths.items():
        index = _per_row(f"pairs of {name!r}", pairs[name], rows, kinds="iu").reshape(rows)
        if rows and not 0 <= index.min() <= index.max() < length:
            msg = (
                f"pairs of {name!r} run from {index.min()} to {index.max()}: "
                f"expected positions in its {length} rows"
            )
            raise DataError(msg)
        columns.append(index)
    return np.stack(columns, axis=1).astype(np.int32)


def _row_count(
    datasets: Mapping[str, NDArray[Any] | Blocks], split: str, modalities: tuple[Modality, ...]
) -> int:
    first = f"{split}/{modalities[0].name}"
    if f"{split}/pairs" in datasets:
        return len(datasets[f"{split}/pairs"])
    return len(datasets[first]) if first in datasets else len(datasets[f"{first}/indptr"]) - 1
