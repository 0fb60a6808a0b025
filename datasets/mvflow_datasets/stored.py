"""An array of a store, read row by row; each value is checked when it is first read."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import Modality
from mvflow.core.memory import check_memory
from mvflow_datasets.manifest import Entry, block_rows, damaged
from mvflow_datasets.opened import OpenedFile

__all__ = ["StoredArray", "StoredRows", "value_check"]

Check = Callable[[NDArray[Any]], NDArray[np.bool_]]
"""Which values (rows, ...) are such as a store may hold."""


class StoredRows(ABC):
    """Rows of a store that are read as they are asked for, as an array that is not in memory."""

    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            msg = "a array of a store is read into memory: that cannot be done without a copy"
            raise ValueError(msg)
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        if isinstance(rows, tuple):
            return np.asarray(np.asarray(self)[rows])
        return self.take(np.arange(len(self))[rows])

    @abstractmethod
    def take(self, rows: ArrayLike, axis: int = 0) -> NDArray[Any]:
        """Rows in the given order, of whatever shape `rows` has."""

    def _numbers(self, rows: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Checked row numbers, as they were given and flat."""
        at = np.asarray(rows)
        flat = at.reshape(-1)
        if flat.size and not 0 <= flat.min() <= flat.max() < len(self):
            msg = f"rows run from {flat.min()} to {flat.max()}: expected 0 to {len(self) - 1}"
            raise IndexError(msg)
        return at, flat


class StoredArray(StoredRows):
    """Rows (rows, *shape) in a store, as far as an array can be that is not in memory.

    Whoever reads a row reads its whole block the first time, and the block is compared with its
    hash. Rows of blocks that were read before come alone. If the file has changed in between,
    reading ends with an error.

    Args:
        file: the store.
        key: place of the array in it.
        entry: what the store says of it.
        check: which of its values may be; None lets all pass.
    """

    def __init__(
        self, file: OpenedFile, key: str, entry: Entry, check: Check | None = None
    ) -> None:
        self.dtype = np.dtype(entry.dtype)
        self.shape = entry.shape
        self._file, self._key, self._entry, self._check = file, key, entry, check
        self._step = block_rows(self.dtype, self.shape)
        self._row_bytes = entry.nbytes // max(1, self.shape[0])
        self._verified = np.zeros(-(-len(self) // self._step), bool)

    def __repr__(self) -> str:
        return f"StoredArray({self._key!r}, {self.dtype} of shape {self.shape})"

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take."""
        return self._entry.nbytes

    def take(self, rows: ArrayLike, axis: int = 0) -> NDArray[Any]:
        """Rows in the given order, of whatever shape `rows` has.

        Raises:
            DataError: if the store is damaged or has changed, holds values that it may not, or
                the rows do not fit into memory.
            IndexError: if a row is not one of 0...len - 1.
        """
        assert axis == 0
        at, flat = self._numbers(rows)
        check_memory(flat.size * self._row_bytes, f"{self._key} of {self._file.path}")
        out = np.empty((len(flat), *self.shape[1:]), self.dtype)
        blocks = flat // self._step
        known = self._verified[blocks]
        new = np.flatnonzero(~known)
        new = new[np.argsort(blocks[new], kind="stable")]
        touched, starts = np.unique(blocks[new], return_index=True)
        for block, here in zip(touched.tolist(), np.split(new, starts[1:]), strict=False):
            out[here] = self._verified_block(block)[flat[here] - block * self._step]
        self._read_runs(out, flat, np.flatnonzero(known))
        return out.reshape(*at.shape, *self.shape[1:])

    def verify(self) -> list[str]:
        """Compare all rows with their hashes and look at their values; what is wrong."""
        reasons = (self._wrong(b, self._block(b)) for b in range(len(self._verified)))
        return [reason for reason in reasons if reason]

    def _read_runs(self, out: NDArray[Any], flat: NDArray[Any], here: NDArray[Any]) -> None:
        """Fill the given places of `out`; neighbouring rows are read at once."""
        if not here.size:
            return
        breaks = np.flatnonzero((np.diff(here) != 1) | (np.diff(flat[here]) != 1)) + 1
        firsts = here[np.r_[0, breaks]]
        lasts = here[np.r_[breaks - 1, len(here) - 1]] + 1
        size = self._row_bytes
        places = self._entry.offset + flat[firsts] * size
        pieces = zip(
            (firsts * size).tolist(), (lasts * size).tolist(), places.tolist(), strict=True
        )
        self._file.read_into(out, pieces)

    def _verified_block(self, block: int) -> NDArray[Any]:
        out = self._block(block)
        if reason := self._wrong(block, out):
            raise damaged(self._file.path, reason)
        self._verified[block] = True
        return out

    def _block(self, block: int) -> NDArray[Any]:
        first = block * self._step
        rows = min(self._step, len(self) - first)
        check_memory(rows * self._row_bytes, f"{self._key} of {self._file.path}")
        out = np.empty((rows, *self.shape[1:]), self.dtype)
        place = self._entry.offset + first * self._row_bytes
        self._file.read_into(out, [(0, out.nbytes, place)])
        return out

    def _wrong(self, block: int, rows: NDArray[Any]) -> str:
        """What is wrong with the rows of a block; empty if nothing is."""
        first = block * self._step
        if hashlib.sha256(rows.data).hexdigest() != self._entry.digest(block):
            return f"rows {first} to {first + len(rows) - 1} of {self._key} were altered"
        if self._check is None or (good := self._check(rows)).all():
            return ""
        row = int(np.argmin(good.reshape(len(rows), -1).all(axis=1)))
        value = rows[row][~good[row]].flat[0] if rows.ndim > 1 else rows[row]
        return f"row {first + row} of {self._key} holds {value}, which a store may not"


def value_check(modality: Modality, dtype: str) -> Check | None:
    """Which values of a modality a store may hold: finite ones, classes, probabilities.

    Examples:
        >>> value_check(Modality("a", (3,), "categorical"), "<i8")(np.array([0, 3, -1]))
        array([ True, False, False])
    """
    if dtype == "|u1":
        return None
    likelihood = modality.likelihood_part
    return lambda x: np.isfinite(x) & likelihood.is_valid(x, modality.shape)
