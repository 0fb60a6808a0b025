"""Checks and conversions of what an estimator takes and returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mvflow.core import DataError, Observed, UsageError, as_numbers, listed

__all__ = [
    "CHUNK_ROWS",
    "Chunks",
    "as_given",
    "check_mapping",
    "checked_latent",
    "chunked",
    "chunks_of",
    "owned",
]

CHUNK_ROWS = 256
"""Rows that are drawn, decoded or encoded at once."""


def checked_latent(z: ArrayLike, dim: int, rows: int | None = None) -> NDArray[np.float32]:
    """Z as float32, after a check of its shape (..., dim) or (..., rows, dim) and its values."""
    values = as_numbers(z, "z").astype(np.float32)
    expected = (dim,) if rows is None else (rows, dim)
    if values.shape[-len(expected) :] != expected:
        shape = ", ".join(map(str, expected))
        msg = f"z has shape {values.shape}: expected (..., {shape})"
        raise DataError(msg)
    if not np.isfinite(values).all():
        msg = "z holds values that are not finite: expected numbers"
        raise DataError(msg)
    return values


def check_mapping(given: Any) -> None:
    """Check that observed modalities come as a mapping."""
    if given is not None and not isinstance(given, Mapping):
        kind = type(given).__name__
        msg = f"what is given is a {kind}: expected a dict from modality to array"
        raise UsageError(msg)


def owned(x: NDArray[Any]) -> NDArray[Any]:
    """An array that torch may take: contiguous and writeable."""
    return np.require(x, requirements=["C", "W"])


def as_given(values: Any, given: Mapping[str, Any] | None) -> Any:
    """Results as torch tensors on the device of what was given, if that was tensors."""
    tensors = [v for v in (given or {}).values() if isinstance(v, Tensor)]
    if not tensors:
        return values
    if isinstance(values, dict):
        return {name: as_given(x, given) for name, x in values.items()}
    return torch.from_numpy(values).to(tensors[0].device)


class Chunks(NamedTuple):
    """Observed rows in parts, each of rows that have the same modalities."""

    parts: list[Observed]
    order: NDArray[np.int64] | None
    """Which row each row of all parts, one after the other, was; None: they are in order."""

    def at(self, i: int) -> Any:
        """Where the rows of a part were."""
        ends = np.cumsum([part.rows for part in self.parts])
        rows = slice(ends[i] - self.parts[i].rows, ends[i])
        return rows if self.order is None else self.order[rows]

    def restored(self, values: NDArray[Any], axis: int = 0) -> NDArray[Any]:
        """Values of the rows of all parts, in the order that the rows had."""
        if self.order is None or values.shape[axis] != len(self.order):
            return values
        return np.take(values, np.argsort(self.order), axis)


def chunked(observed: Observed, size: int = CHUNK_ROWS) -> Chunks:
    """Observed rows, at most `size` at a time, and apart where they lack different modalities.

    Raises:
        UsageError: if a row has none of the modalities.

    Examples:
        >>> x = torch.arange(3.0)[:, None]
        >>> rows = Observed({"a": x, "b": x}, {"b": torch.tensor([False, True, False])})
        >>> parts, order = chunked(rows)
        >>> [list(part.x) for part in parts], order.tolist()
        ([['a'], ['a', 'b']], [0, 2, 1])
    """
    if not observed.present:
        return Chunks(list(chunks_of(observed, size)), None)
    names = sorted(observed.x)
    masks = {name: observed.is_present(name) for name in names}
    there = np.stack(
        [np.ones(observed.rows, np.bool_) if (m := masks[n]) is None else m.cpu() for n in names],
        1,
    )
    if not there.any(1).all():
        empty = np.flatnonzero(~there.any(1)).tolist()
        rows = f"rows {listed(empty)} have" if empty[1:] else f"row {empty[0]} has"
        msg = f"{rows} none of {', '.join(names)}: leave out rows of which nothing is given"
        raise UsageError(msg)
    kinds, which = np.unique(there, axis=0, return_inverse=True)
    parts, order = [], []
    for i, kind in enumerate(kinds):
        at = np.flatnonzero(which.reshape(-1) == i)
        own = observed.at(torch.from_numpy(at).to(next(iter(observed.x.values())).device))
        own = own.only([name for name, is_there in zip(names, kind, strict=True) if is_there])
        values = {k: v for k, v in (own.present or {}).items() if not v.all()}
        parts += list(chunks_of(own._replace(present=values or None), size))
        order.append(at)
    return Chunks(parts, np.concatenate(order))


def chunks_of(observed: Observed, size: int = CHUNK_ROWS) -> Iterator[Observed]:
    """Observed rows, at most `size` at a time; one empty chunk where nothing is observed."""
    if not observed.x:
        yield observed
        return
    for start in range(0, observed.rows, size):
        yield observed.take(start, start + size)
