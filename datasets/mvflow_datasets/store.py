"""The HDF5 store: a dataset in one file, written whole or not at all, read in place.

    /<split>/<modality>      (distinct, *shape) uint8 or float32; a categorical one int64
    /<split>/labels          (rows,) int64, optional; -1: not known
    /<split>/pairs           (rows, modalities) int32, optional: row -> row of each array, -1 where
                             the row lacks the modality, of which nothing is stored then
    /<split>/present/<modality>  (distinct, *shape) bool, optional: which values are not missing
    /<split>/factors/<name>  (rows, ...) numbers, optional
    /<split>/covariates/<name>  (rows,) int32 codes of levels or float32 numbers, optional

A sparse modality is a group of the arrays `data`, `indices` and `indptr` of compressed rows. The
format is 2, and 3 where something is absent.

Any program that knows HDF5 can read it. mvflow itself reads by the manifest at its beginning,
see `mvflow_datasets.manifest`, and compares all that it reads with the hashes there: a store is
what it was when it was built, or it is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import (
    PRESENT,
    UNLABELLED,
    ConfigError,
    DataError,
    Modality,
    Units,
    UsageError,
    unknown_name,
)
from mvflow.core.files import MissingFileError
from mvflow_datasets.manifest import ABOUT, Manifest, Misfit, damaged
from mvflow_datasets.opened import OpenedFile
from mvflow_datasets.split import Split
from mvflow_datasets.stored import Check, StoredArray, value_check
from mvflow_datasets.units import unpack_units
from mvflow_datasets.writing import SplitData, write_store

__all__ = ["Split", "SplitData", "Store", "write_store"]


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
        self._manifest = manifest = Manifest.read(file)
        self.format_version = manifest.format_version
        self.name, self.note = manifest.name, manifest.note
        self.modalities, self.covariates = manifest.modalities, manifest.covariates
        self.builder, self.sources = manifest.builder, manifest.sources
        self.fingerprint = manifest.fingerprint()
        try:
            for modality in self.modalities:
                if not isinstance(modality.likelihood, str):
                    _ = modality.likelihood_part  # its settings are such as a likelihood has
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
        except (ConfigError, Misfit, ValueError) as error:
            raise damaged(file.path, error) from error
        self.factor_names = dict(self._names("factor_names"))
        for split in self._splits.values():
            split.class_names, split.factor_names = self.class_names, self.factor_names
            split._store = self

    def _names(self, key: str) -> list[tuple[str, str]]:
        """Pairs of key and readable name that `write_store` was given."""
        pairs = self.about(key)
        if pairs is None:
            return []
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            msg = f"_about/{key} has shape {pairs.shape}, expected pairs"
            raise Misfit(msg)
        return [(str(k), str(name)) for k, name in pairs]

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
            msg = (
                f"there is no store at {path}: make one of your own data with 'mvflow data "
                "import', or of a known data set with 'mvflow data build'"
            )
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

    @property
    def about_keys(self) -> tuple[str, ...]:
        """Keys of all that `about` has."""
        return tuple(k.removeprefix(ABOUT) for k in self._arrays if k.startswith(ABOUT))

    def about(self, key: str) -> NDArray[Any] | None:
        """What `write_store` was given as `about` under this key; None if nothing."""
        if (array := self._arrays.get(f"{ABOUT}{key}")) is None:
            return None
        values = np.asarray(array)
        return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values

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
            "modalities": [self._info_of(m) for m in self.modalities],
            "class_names": {str(label): name for label, name in self.class_names.items()},
            "factor_names": dict(self.factor_names),
            "covariates": {name: c.to_dict() for name, c in self.covariates.items()},
            "splits": {name: self[name].info() for name in self.splits},
            "builder": self.builder,
            "sources": self.sources,
            "fingerprint": self.fingerprint,
        }

    def _info_of(self, modality: Modality) -> dict[str, Any]:
        image = self.units[modality.name].image_shape
        shapes = {"shape": list(modality.shape), **({"image_shape": list(image)} if image else {})}
        return modality.to_dict() | shapes

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


def _check_of(key: str, modalities: tuple[Modality, ...], dtype: str) -> Check | None:
    """Which values an array may hold, by its place."""
    split, _, name = key.partition("/")
    if f"{split}/" == ABOUT:
        return None
    if name == "labels":
        return lambda x: np.asarray(x >= UNLABELLED)
    if name.startswith(PRESENT):
        return lambda x: np.asarray(x.view(np.uint8) <= 1)
    name, _, part = name.partition("/")
    modality = next((m for m in modalities if m.name == name), None)
    if modality is None or part == "indptr":
        return None
    if part == "indices":
        return lambda x: np.asarray((x >= 0) & (x < modality.shape[0]))
    return value_check(modality, dtype)
