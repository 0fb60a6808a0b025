"""Stores of format 1 (mvflow 0.1), read once through HDF5 and written in the present format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError, Modality, UsageError
from mvflow.core.files import open_regular, parse_json
from mvflow.core.memory import check_memory
from mvflow_datasets.manifest import ABOUT, Misfit, block_rows, damaged
from mvflow_datasets.writing import Blocks, SplitData, write_store

__all__ = ["convert_store"]

_MODALITY = {"name": str, "shape": [int], "likelihood": str, "scale": float}
_JSON = {"modalities": [_MODALITY], "splits": {str: int}, "builder": dict, "sources": {str: str}}
_HDF5_ERRORS = (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)


def convert_store(old: str | Path, new: str | Path) -> Path:
    """Write a store of format 1 anew, once its content is seen to fit its fingerprint.

    Args:
        old: the store that mvflow 0.1 wrote; it stays as it is.
        new: the file to write.

    Returns:
        The path of the new store.

    Raises:
        DataError: if the old store cannot be read, is damaged, keeps values outside the file, or
            the new one cannot be written.
        UsageError: if there is a file at `new` already.
    """
    old, new = Path(old), Path(new)
    if new.exists():
        msg = f"{new} exists already: choose another name, or remove it first"
        raise UsageError(msg)
    with open_regular(old) as raw, _readable(old), h5py.File(raw, "r") as file:
        return _Old(old, file).write(new)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Within this block, what HDF5 says of a damaged store is a sentence."""
    try:
        yield
    except DataError:
        raise
    except (Misfit, *_HDF5_ERRORS) as error:
        raise damaged(path, " ".join(str(error).split())) from error


class _Old:
    """A store of format 1 that is open."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        if file.attrs.get("format") != "mvflow-store" or file.attrs.get("format_version") != 1:
            msg = f"{path} is not a store of format 1: only those are converted"
            raise DataError(msg)
        self._texts = {key: str(file.attrs[key]) for key in (*_JSON, "fingerprint")}
        self._header: dict[str, Any] = {
            key: parse_json(self._texts[key], f"its attribute {key!r}", shape)
            for key, shape in _JSON.items()
        }
        self._name, self._note = str(file.attrs["name"]), str(file.attrs["note"])
        self._datasets = dict(_datasets(file))

    def write(self, path: Path) -> Path:
        """Write it in the present format."""
        if self._fingerprint() != self._texts["fingerprint"]:
            msg = "its content does not fit its fingerprint"
            raise Misfit(msg)
        header = self._header
        about = {
            key.removeprefix(ABOUT): _whole(dataset)
            for key, dataset in self._datasets.items()
            if key.startswith(ABOUT)
        }
        return write_store(
            path,
            modalities=[Modality.from_dict(m) for m in header["modalities"]],
            splits={name: self._split(name) for name in header["splits"]},
            builder=header["builder"],
            sources=header["sources"],
            about=about,
            name=self._name,
            note=self._note,
        )

    def _split(self, split: str) -> SplitData:
        inside = {
            key.removeprefix(f"{split}/"): dataset
            for key, dataset in self._datasets.items()
            if key.startswith(f"{split}/")
        }
        names = [m["name"] for m in self._header["modalities"]]
        pairs = _whole(inside["pairs"]) if "pairs" in inside else None
        if pairs is not None and pairs.shape[1:] != (len(names),):
            msg = f"{split}/pairs has shape {pairs.shape}"
            raise Misfit(msg)
        return SplitData(
            {name: self._values(inside[name]) for name in names},
            labels=_whole(inside["labels"]) if "labels" in inside else None,
            pairs=None if pairs is None else dict(zip(names, pairs.T, strict=True)),
            factors={
                key.removeprefix("factors/"): _whole(dataset)
                for key, dataset in inside.items()
                if key.startswith("factors/")
            },
        )

    def _values(self, dataset: h5py.Dataset) -> NDArray[Any] | Blocks:
        """Values of a modality; bytes are read while they are written."""
        if dataset.dtype == np.uint8:
            return Blocks(dataset.shape, partial(self._rows, dataset))
        return _whole(dataset)

    def _rows(self, dataset: h5py.Dataset, start: int, stop: int) -> NDArray[Any]:
        with _readable(self.path):
            return np.asarray(dataset[start:stop])

    def _fingerprint(self) -> str:
        """As mvflow 0.1 computed it: of specifications, places, types, shapes and bytes."""
        digest = hashlib.sha256(self._texts["modalities"].encode())
        for key, dataset in sorted(self._datasets.items()):
            if key.startswith(ABOUT):
                continue
            digest.update(f"{key} {dataset.dtype} {dataset.shape}\n".encode())
            step = block_rows(dataset.dtype, dataset.shape)
            for start in range(0, len(dataset), step):
                digest.update(np.ascontiguousarray(dataset[start : start + step]).data)
        return digest.hexdigest()


def _datasets(group: h5py.Group, before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All datasets by their place; nothing is followed that leads out of the file.

    Raises:
        Misfit: if there is a link, storage in another file, or what mvflow 0.1 did not write.
    """
    for name in group:
        key = f"{before}{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink) or depth > 3:
            msg = f"{key} is a link"
            raise Misfit(msg)
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, f"{key}/", depth + 1)
            continue
        text = h5py.check_string_dtype(item.dtype) is not None
        outside = item.is_virtual or item.external or item.chunks
        if (
            outside
            or item.ndim == 0
            or 0 in item.shape[1:]
            or not (text or item.dtype.kind in "biuf")
        ):
            msg = f"{key} is not an array as mvflow 0.1 wrote them"
            raise Misfit(msg)
        yield key, item


def _whole(dataset: h5py.Dataset) -> NDArray[Any]:
    check_memory(dataset.size * dataset.dtype.itemsize, str(dataset.name))
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return np.asarray(dataset.asstr()[()], np.str_)
    return np.asarray(dataset[()])
