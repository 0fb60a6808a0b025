"""Sparse matrices in a store: compressed rows on disk, dense ones as soon as they are read."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from mvflow.core.memory import check_memory
from mvflow_datasets.manifest import Misfit
from mvflow_datasets.stored import StoredArray, StoredRows

__all__ = ["SPARSE_PARTS", "StoredSparse"]

SPARSE_PARTS = {"data": "<f4", "indices": "<i4", "indptr": "<i8"}
"""Arrays of a sparse matrix, as SciPy names them, and their types."""


class StoredSparse(StoredRows):
    """Rows (rows, columns) of a sparse matrix in a store; `take` gives dense ones.

    Args:
        key: place of the matrix in the store.
        parts: its arrays `data`, `indices` and `indptr`, as of `scipy.sparse.csr_matrix`.
        columns: number of columns.
    """

    is_sparse = True
    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, key: str, parts: dict[str, StoredArray], columns: int) -> None:
        for name, dtype in SPARSE_PARTS.items():
            part = parts.get(name)
            if part is None or part.dtype.str != dtype or part.ndim != 1:
                msg = f"{key}/{name} is missing or of another type than {np.dtype(dtype).name}"
                raise Misfit(msg)
        self._key, self._data, self._indices = key, parts["data"], parts["indices"]
        self._starts = np.asarray(parts["indptr"])
        count = len(self._data)
        is_rising = len(self._starts) > 0 and (np.diff(self._starts) >= 0).all()
        if not is_rising or self._starts[0] != 0 or self._starts[-1] != count:
            msg = f"{key}/indptr does not rise from 0 to the {count} values"
            raise Misfit(msg)
        if len(self._indices) != count:
            msg = f"{key} has {count} values, but {len(self._indices)} columns of values"
            raise Misfit(msg)
        self.shape = (len(self._starts) - 1, columns)

    def __repr__(self) -> str:
        return f"StoredSparse({self._key!r}, {self.filled:.1%} of {self.shape})"

    @property
    def filled(self) -> float:
        """Share of the values that are not zero."""
        return len(self._data) / max(1, self.shape[0] * self.shape[1])

    def matrix(self) -> csr_matrix:
        """All rows as a sparse matrix of SciPy."""
        parts = tuple(np.asarray(part) for part in (self._data, self._indices, self._starts))
        return csr_matrix(parts, shape=self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all rows take once they are dense."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def take(self, rows: ArrayLike, axis: int = 0) -> NDArray[np.float32]:
        """Dense rows in the given order, of whatever shape `rows` has.

        Raises:
            DataError: if the store is damaged or has changed, or the rows do not fit into memory.
            IndexError: if a row is not one of 0...len - 1.
        """
        assert axis == 0
        at, flat = self._numbers(rows)
        check_memory(flat.size * self.shape[1] * self.dtype.itemsize, self._key)
        counts = self._starts[flat + 1] - self._starts[flat]
        ends = np.cumsum(counts)
        # Positions in `data` of all values of the first row, then of the second...
        places = np.repeat(self._starts[flat] - ends + counts, counts) + np.arange(counts.sum())
        out = np.zeros((len(flat), self.shape[1]), self.dtype)
        out[np.repeat(np.arange(len(flat)), counts), self._indices.take(places)] = self._data.take(
            places
        )
        return out.reshape(*at.shape, self.shape[1])
