"""Rows held as they are stored and gathered by index: no loader, no copy for each pairing."""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mvflow.core import PRESENT, Column, DataError, Source, take_present, with_masks

__all__ = ["AnyColumn", "MappedColumn", "Table", "TensorColumn", "as_input"]

AHEAD = 3
"""Batches that are read while the device works on earlier ones."""

BLOCK = 2048
"""Rows that are hashed at once."""


@dataclass(frozen=True, slots=True)
class TensorColumn:
    """Column in device memory: `mvflow.core.Column` as tensors."""

    values: Tensor
    index: Tensor | None
    is_partial: bool = field(init=False)
    """Whether some row has no value, by the index -1."""

    def __post_init__(self) -> None:
        partial = self.index is not None and bool((self.index < 0).any())
        object.__setattr__(self, "is_partial", partial)

    @property
    def length(self) -> int:
        """Number of values."""
        return len(self.values)

    def gather(self, rows: Tensor) -> Tensor:
        """Values of the given rows, as stored; zeros where a row has none."""
        at = rows if self.index is None else self.index.index_select(0, rows)
        if not self.is_partial:
            return self.values.index_select(0, at)  # several times as fast as values[at]
        if not len(self.values):
            return self.values.new_zeros(len(at), *self.values.shape[1:])
        x = self.values.index_select(0, at.clamp_min(0))
        absent = (at < 0).reshape(-1, *[1] * (x.ndim - 1))
        return x.masked_fill_(absent, 0)


@dataclass(frozen=True, slots=True)
class MappedColumn:
    """Column that stays where it is stored; only the rows asked for come to the device.

    Args:
        stored: values, as a memory map of a store gives them.
        index: which of them each row has; on the device.
        device: where gathered rows go.
    """

    stored: NDArray[Any]
    index: Tensor | None
    device: torch.device

    @property
    def length(self) -> int:
        """Number of values."""
        return len(self.stored)

    def gather(self, rows: Tensor) -> Tensor:
        """Values of the given rows, as stored; zeros where a row has none."""
        at = rows if self.index is None else self.index.index_select(0, rows)
        gathered = torch.from_numpy(take_present(self.stored, at.cpu().numpy()))
        if self.device.type == "cpu":
            return gathered
        return gathered.pin_memory().to(self.device, non_blocking=True)


AnyColumn = TensorColumn | MappedColumn


def as_input(x: Tensor) -> Tensor:
    """Network inputs: uint8 intensities become float32 in [0, 1], all else stays.

    Images are laid out in memory with channels last, as convolutions like them best.

    Examples:
        >>> as_input(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    if x.dtype != torch.uint8:
        return x
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    return x.to(torch.float32, memory_format=layout).div_(255)


class Table:
    """Data set in memory: columns of equal length on one device.

    Args:
        columns: name -> values and index.
        length: number of rows.
        rows: which rows belong to this table, in order; None means all.
    """

    def __init__(
        self, columns: Mapping[str, AnyColumn], length: int, rows: Tensor | None = None
    ) -> None:
        self.columns: dict[str, AnyColumn] = dict(columns)
        self._length = length
        self._rows = rows

    @classmethod
    def of(
        cls, source: Source, device: torch.device | str = "cpu", budget: int | None = None
    ) -> Table:
        """Hold all rows of `source` on `device`, in the types in which they are stored.

        Args:
            source: rows.
            device: where to hold them.
            budget: bytes that they may take there; if they take more, they stay where they are
                stored and batches are read ahead. Batches are the same either way. Sparse columns
                stay where they are stored: batches of them are made dense.
        """
        columns = with_masks(source.columns())
        size = sum(c.values.nbytes for c in columns.values())
        is_held = budget is None or size <= budget
        tensors = {
            name: _column(c, device)
            if is_held and not getattr(c.values, "is_sparse", False)
            else _mapped_column(c, device)
            for name, c in columns.items()
        }
        return cls(tensors, len(source))

    @property
    def is_streamed(self) -> bool:
        """Whether some column is read from where it is stored, batch by batch."""
        return any(isinstance(c, MappedColumn) for c in self.columns.values())

    def tensors(self) -> Iterator[Tensor]:
        """All tensors on its device."""
        for column in self.columns.values():
            if isinstance(column, TensorColumn):
                yield column.values
            if column.index is not None:
                yield column.index
        if self._rows is not None:
            yield self._rows

    def __len__(self) -> int:
        return self._length if self._rows is None else len(self._rows)

    @property
    def device(self) -> torch.device:
        """Device of the values."""
        column = next(iter(self.columns.values()))
        return column.device if isinstance(column, MappedColumn) else column.values.device

    def gather(self, at: Tensor) -> dict[str, Tensor]:
        """Network inputs of the rows at the given positions.

        Of a modality that some row lacks, also `present/NAME`, as `Source.take` has it.
        """
        rows = at if self._rows is None else self._rows[at]
        return {name: as_input(c.gather(rows)) for name, c in self.columns.items()}

    def each(self, batches: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
        """`gather` for each of many lists of positions; where rows are streamed, read ahead.

        Any order of rows can be asked for: a shuffle is exact over all rows, for a store is read
        by memory map and no row costs more than another.
        """
        if not self.is_streamed:
            yield from map(self.gather, batches)
            return
        todo = iter(batches)
        with ThreadPoolExecutor(1) as reader:
            waiting: deque[Future[dict[str, Tensor]]] = deque(
                reader.submit(self.gather, at) for at in itertools.islice(todo, AHEAD)
            )
            while waiting:
                yield waiting.popleft().result()
                for at in itertools.islice(todo, 1):
                    waiting.append(reader.submit(self.gather, at))

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """All rows in order, `size` at a time."""
        return self.each(torch.arange(len(self), device=self.device).split(size))

    def subset(self, rows: np.ndarray) -> Table:
        """A view of the rows at the given positions; values are shared."""
        at = torch.as_tensor(rows, device=self.device)
        return Table(self.columns, self._length, at if self._rows is None else self._rows[at])

    def only(self, name: str) -> Table:
        """The same rows, of which only one column is read, and which of it is present."""
        kept = {k: c for k, c in self.columns.items() if k in (name, PRESENT + name)}
        return Table(kept, self._length, self._rows)

    def with_columns(self, columns: Mapping[str, AnyColumn]) -> Table:
        """The same rows with other columns, over all rows that this table's columns have."""
        return Table(columns, self._length, self._rows)

    def joined(self, columns: Mapping[str, AnyColumn]) -> Table:
        """These rows, in order, with further columns that hold one value for each of them."""
        rows = self._rows
        kept = {
            name: c
            if rows is None
            else replace(c, index=rows if c.index is None else c.index[rows])
            for name, c in self.columns.items()
        }
        return Table(kept | dict(columns), len(self))

    def selection(self) -> str | None:
        """Hash of which rows of its columns this table has, in order; None if it has all."""
        if self._rows is None:
            return None
        return hashlib.sha256(self._rows.cpu().numpy().data).hexdigest()

    def fingerprint(self) -> str:
        """Hash of all that its columns hold, whichever rows this table has of them."""
        digest = hashlib.sha256()
        for name, column in sorted(self.columns.items()):
            values = column.values if isinstance(column, TensorColumn) else column.stored
            for array in (values, column.index):
                digest.update(f"{name} {None if array is None else tuple(array.shape)}".encode())
                for block in () if array is None else _blocks(array):
                    digest.update(f"{block.dtype}".encode() + block.tobytes())
        return digest.hexdigest()

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
        absent = groups < 0  # a row that lacks that modality shares no value of it
        groups = np.where(absent, groups.max(initial=0) + np.cumsum(absent), groups)
        names = np.unique(groups)
        if len(names) < max(20, 2 / share):  # too few distinct values to divide: divide rows
            groups, names = np.arange(len(self)), np.arange(len(self))
        held = generator.permutation(names)[: max(1, round(share * len(names)))]
        is_held = np.isin(groups, held)
        if is_held.all() or not is_held.any():
            msg = f"cannot hold out {share:.0%} of {len(self)} rows for validation: too few rows"
            raise DataError(msg)
        return self.subset(np.flatnonzero(~is_held)), self.subset(np.flatnonzero(is_held))


def _blocks(values: Tensor | NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Some rows after others, on the host."""
    for i in range(0, len(values), BLOCK):
        block = values[i : i + BLOCK]
        yield block.cpu().numpy() if isinstance(block, Tensor) else block


def _column(column: Column, device: torch.device | str) -> TensorColumn:
    values = torch.from_numpy(np.array(column.values)).to(device)
    return TensorColumn(values, _index(column, device))


def _mapped_column(column: Column, device: torch.device | str) -> MappedColumn:
    return MappedColumn(column.values, _index(column, device), torch.device(device))


def _index(column: Column, device: torch.device | str) -> Tensor | None:
    if column.index is None:
        return None
    return torch.from_numpy(np.array(column.index, np.int64)).to(device)
