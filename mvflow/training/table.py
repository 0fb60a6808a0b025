"""Rows held as they are stored and gathered by index: no loader, no copy for each pairing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mvflow.core import Column, DataError, Source

__all__ = ["Table", "TensorColumn", "as_input"]


@dataclass(frozen=True, slots=True)
class TensorColumn:
    """`mvflow.core.Column` as tensors."""

    values: Tensor
    index: Tensor | None

    def gather(self, rows: Tensor) -> Tensor:
        """Values of the given rows, as stored."""
        at = rows if self.index is None else self.index.index_select(0, rows)
        return self.values.index_select(0, at)  # several times as fast as values[at]


def as_input(x: Tensor) -> Tensor:
    """What networks take: uint8 intensities become float32 in [0, 1], all else stays.

    Examples:
        >>> as_input(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    return x.float().div_(255) if x.dtype == torch.uint8 else x


class Table:
    """Columns of equal length on one device.

    Args:
        columns: name -> values and index.
        length: number of rows.
        rows: which rows belong to this table, in order; None means all.
    """

    def __init__(
        self, columns: Mapping[str, TensorColumn], length: int, rows: Tensor | None = None
    ) -> None:
        self.columns = dict(columns)
        self._length = length
        self._rows = rows

    @classmethod
    def of(cls, source: Source, device: torch.device | str = "cpu") -> Table:
        """Hold all rows of `source` on `device`, in the types in which they are stored."""
        columns = {name: _column(c, device) for name, c in source.columns().items()}
        return cls(columns, len(source))

    def __len__(self) -> int:
        return self._length if self._rows is None else len(self._rows)

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return next(iter(self.columns.values())).values.device

    def gather(self, at: Tensor) -> dict[str, Tensor]:
        """Network inputs of the rows at the given positions."""
        rows = at if self._rows is None else self._rows[at]
        return {name: as_input(c.gather(rows)) for name, c in self.columns.items()}

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """All rows in order, `size` at a time."""
        for at in torch.arange(len(self), device=self.device).split(size):
            yield self.gather(at)

    def subset(self, rows: np.ndarray) -> Table:
        """A view of the rows at the given positions; values are shared."""
        at = torch.as_tensor(rows, device=self.device)
        return Table(self.columns, self._length, at if self._rows is None else self._rows[at])

    def with_columns(self, columns: Mapping[str, TensorColumn]) -> Table:
        """The same rows with other columns, over all rows that this table's columns have."""
        return Table(columns, self._length, self._rows)

    def joined(self, columns: Mapping[str, Tensor]) -> Table:
        """These rows, in order, with further columns that hold one value for each of them."""
        rows = self._rows
        kept = {
            name: c
            if rows is None
            else TensorColumn(c.values, rows if c.index is None else c.index[rows])
            for name, c in self.columns.items()
        }
        return Table(kept | {n: TensorColumn(v, None) for n, v in columns.items()}, len(self))

    def split(self, share: float, generator: np.random.Generator) -> tuple[Table, Table | None]:
        """Divide rows into those to train on and a held-out `share` of them (None if 0).

        Where rows pair stored values, the distinct values of the modality with the fewest are
        divided, so that none of these is on both sides; values of the others may recur. Where
        there are too few of them to divide, rows are divided, and all values may recur.

        Raises:
            DataError: if nothing would be left on one side.
        """
        if share == 0:
            return self, None
        indices = [c.index for c in self.columns.values() if c.index is not None]
        key = min(indices, key=lambda i: int(i.max())) if indices else None
        if key is not None and self._rows is not None:
            key = key[self._rows]
        groups = np.arange(len(self)) if key is None else key.cpu().numpy()
        names = np.unique(groups)
        if len(names) < max(20, 2 / share):  # too few distinct values to divide: divide rows
            groups, names = np.arange(len(self)), np.arange(len(self))
        held = generator.permutation(names)[: max(1, round(share * len(names)))]
        is_held = np.isin(groups, held)
        if is_held.all() or not is_held.any():
            msg = f"cannot hold out {share:.0%} of {len(self)} rows for validation: too few rows"
            raise DataError(msg)
        return self.subset(np.flatnonzero(~is_held)), self.subset(np.flatnonzero(is_held))


def _column(column: Column, device: torch.device | str) -> TensorColumn:
    values = torch.from_numpy(np.array(column.values)).to(device)
    index = None
    if column.index is not None:
        index = torch.from_numpy(np.array(column.index, np.int64)).to(device)
    return TensorColumn(values, index)
