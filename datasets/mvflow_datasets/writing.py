"""Writing a store: checked first, written under a temporary name, renamed when complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mvflow.core import Covariate, DataError, Modality, Presence, Units
from mvflow.core.files import replacing
from mvflow_datasets.hdf5 import check_hdf5_name, writing_hdf5
from mvflow_datasets.manifest import (
    ABOUT,
    Entry,
    Manifest,
    block_rows,
    hash_of,
)
from mvflow_datasets.opened import OpenedFile
from mvflow_datasets.split_data import Blocks, SplitData, check_names, check_split, plain
from mvflow_datasets.units import pack_units

__all__ = ["Blocks", "SplitData", "check_names", "write_store"]

_ALIGNED = {"alignment_threshold": 1, "alignment_interval": 64}
_LARGE = 1 << 62  # stands for numbers that are not known yet, and takes as much room as any


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

    Its format is 2, or 3 where something is absent, which mvflow could not read before.

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
        DataError: if the data are not consistent and finite, a modality occurs in no row, no row
            links some modalities with others, or the file cannot be written.
        UsageError: if the name is that of another kind of file, such as `own.csv`.
    """
    path = Path(path)
    check_hdf5_name(path, "a store is")
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
    checked = {name: check_split(name, data, specs, known) for name, data in splits.items()}
    Presence.counted([m.name for m in specs], *(split.has for split in checked.values())).check()
    for key, names_of in about.items():
        split = key.removeprefix("rows/")
        if split != key and len(names_of) != (
            count := len(checked[split].has) if split in checked else 0
        ):
            msg = f"split {split!r} has {count} rows, but names of {len(names_of)} are given"
            raise DataError(msg)
    datasets = {
        f"{name}/{key}": array
        for name, split in checked.items()
        for key, array in split.arrays.items()
    }
    rows = {name: len(split.has) for name, split in checked.items()}
    absent = {name: split.absent for name, split in checked.items() if split.absent}
    datasets |= {f"{ABOUT}{key}": plain(np.atleast_1d(x)) for key, x in about.items()}
    entries = {key: _entry(array) for key, array in datasets.items()}
    origin = (_sorted(builder), _sorted(sources))
    plan = Manifest(
        name, note, specs, rows, *origin, entries, _LARGE, _LARGE, "0" * 64, known, absent
    )
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
