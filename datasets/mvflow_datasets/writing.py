"""Writing a store: checked first, written under a temporary name, renamed when complete."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import DataError, Modality, check_batch

__all__ = ["FORMAT", "FORMAT_VERSION", "Blocks", "SplitData", "write_store"]

FORMAT = "mvflow-store"
FORMAT_VERSION = 1

_ALIGNED = {"alignment_threshold": 1, "alignment_interval": 64}  # memory maps of whole floats
_RESERVED = {"labels", "pairs", "factors"}
_BLOCK_BYTES = 1 << 20  # what is made, hashed or written at a time stays in the cache


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
        step = max(1, _BLOCK_BYTES // math.prod(self.shape[1:]))
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
            row takes; as arrays, or as `Blocks` that are made while they are written.
        labels: class of each row.
        pairs: modality -> (rows,) positions in the array of that name.
        factors: known causes of each row, by name.
    """

    arrays: Mapping[str, ArrayLike | Blocks]
    labels: ArrayLike | None = None
    pairs: Mapping[str, ArrayLike] | None = None
    factors: Mapping[str, ArrayLike] = field(default_factory=dict)


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
    }
    datasets = {
        f"{split}/{key}": array
        for split, data in splits.items()
        for key, array in _checked_split(split, data, specs).items()
    }
    rows = {split: _row_count(datasets, split, specs) for split in splits}
    header = {
        "modalities": json.dumps([m.to_dict() for m in specs]),
        "splits": json.dumps(rows),
        "builder": json.dumps(dict(builder or {}), sort_keys=True),
        "sources": json.dumps(dict(sources or {}), sort_keys=True),
    }
    with _replacing(path) as temporary, h5py.File(temporary, "w", **_ALIGNED) as file:
        file.attrs.update(
            format=FORMAT, format_version=FORMAT_VERSION, name=name, note=note, **header
        )
        for key, array in datasets.items():
            _write(file, key, array)
        for key, array in about.items():
            text = array.dtype.kind == "U"
            stored = array.astype(h5py.string_dtype()) if text else array
            file.create_dataset(f"_about/{key}", data=stored)
        file.attrs["fingerprint"] = _fingerprint(specs, file, datasets)
    return path


def _write(file: h5py.File, key: str, array: NDArray[Any] | Blocks) -> None:
    if not isinstance(array, Blocks):
        file.create_dataset(key, data=array)
        return
    stored, start = file.create_dataset(key, array.shape, np.uint8), 0
    for block in array:
        stored[start : start + len(block)] = block
        start += len(block)


def _checked_split(
    split: str, data: SplitData, modalities: tuple[Modality, ...]
) -> dict[str, NDArray[Any] | Blocks]:
    """Arrays of a split by their place in its group, of the types in which they are stored."""
    names = [m.name for m in modalities]
    try:
        _check_names(split, names, data)
        paired = data.pairs is not None
        arrays = {name: _stand_in(values) for name, values in data.arrays.items()}
        out = check_batch(arrays, modalities, rows_equal=not paired)
        rows = len(out[names[0]])
        if data.pairs is not None:
            out["pairs"] = _stacked_pairs(data.pairs, out)
            rows = len(out["pairs"])
        if data.labels is not None:
            out["labels"] = _per_row("labels", data.labels, rows, kinds="iu").astype(np.int64)
        for factor, values in data.factors.items():
            out[f"factors/{factor}"] = _per_row(f"factor {factor!r}", values, rows, kinds="biuf")
    except DataError as error:
        msg = f"split {split!r}: {error}"
        raise DataError(msg) from error
    blocks = {name: x for name, x in data.arrays.items() if isinstance(x, Blocks)}
    return {key: np.ascontiguousarray(x) for key, x in out.items() if key not in blocks} | blocks


def _stand_in(values: ArrayLike | Blocks) -> NDArray[Any]:
    """The array; for blocks, which are not made yet, zeros of their shape without their memory."""
    if isinstance(values, Blocks):
        return np.broadcast_to(np.uint8(0), values.shape)
    return np.asarray(values)


def _check_names(split: str, modalities: list[str], data: SplitData) -> None:
    for name in (split, *data.factors):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            msg = f"{name!r} cannot name a split or a factor: use letters, digits, '_', '-', '.'"
            raise DataError(msg)
    if len(set(modalities) - _RESERVED) != len(modalities) or not modalities:
        msg = (
            f"the modalities are named {modalities}: expected at least one, "
            f"different names, and none of {', '.join(sorted(_RESERVED))}"
        )
        raise DataError(msg)
    for given, kind in ((data.arrays, "array"), (data.pairs, "pairs")):
        if given is not None and set(given) != set(modalities):
            msg = f"one {kind} per modality is needed ({modalities}): got {sorted(given)}"
            raise DataError(msg)


def _per_row(what: str, values: ArrayLike, rows: int, *, kinds: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.shape[:1] != (rows,) or (array.size and array.dtype.kind not in kinds):
        expected = "whole numbers" if kinds == "iu" else "numbers"
        msg = f"{what}: expected {rows} {expected}, got {array.dtype} of shape {array.shape}"
        raise DataError(msg)
    return array


def _stacked_pairs(
    pairs: Mapping[str, ArrayLike], arrays: Mapping[str, NDArray[Any]]
) -> NDArray[np.int32]:
    rows = min(np.size(index) for index in pairs.values())
    columns = []
    for name, values in arrays.items():
        index = _per_row(f"pairs of {name!r}", pairs[name], rows, kinds="iu").reshape(rows)
        if rows and not 0 <= index.min() <= index.max() < len(values):
            msg = (
                f"pairs of {name!r} run from {index.min()} to {index.max()}: "
                f"expected positions in its {len(values)} rows"
            )
            raise DataError(msg)
        columns.append(index)
    return np.stack(columns, axis=1).astype(np.int32)


def _row_count(
    datasets: Mapping[str, NDArray[Any] | Blocks], split: str, modalities: tuple[Modality, ...]
) -> int:
    return len(datasets.get(f"{split}/pairs", datasets[f"{split}/{modalities[0].name}"]))


def _fingerprint(
    modalities: tuple[Modality, ...],
    file: h5py.File,
    datasets: Mapping[str, NDArray[Any] | Blocks],
) -> str:
    """SHA-256 of the specifications and of every array: place, type, shape and bytes, by place.

    What was made while it was written is read back.
    """
    digest = hashlib.sha256(json.dumps([m.to_dict() for m in modalities]).encode())
    for key in sorted(datasets):
        array, stored = datasets[key], file[key]
        digest.update(f"{key} {stored.dtype} {stored.shape}\n".encode())
        if isinstance(array, Blocks):
            for block in Blocks(array.shape, partial(_rows, stored)):
                digest.update(block.data)
        else:
            digest.update(array.data)
    return digest.hexdigest()


def _rows(stored: h5py.Dataset, start: int, stop: int) -> NDArray[np.uint8]:
    return np.asarray(stored[start:stop])


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` if the block ends well, and vanishes if not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # HDF5 reports a full disk as one or the other
        msg = f"cannot write store {path}: {_reason(error)}; nothing was changed"
        raise DataError(msg) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _reason(error: Exception) -> str:
    """The system's own words, without HDF5's account of addresses and buffers."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    found = re.search(r"error message = '([^']+)'", str(error))
    return found[1] if found else str(error)
