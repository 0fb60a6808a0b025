"""Checks and conversions of what an estimator takes and returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mvflow.core import DataError, Observed, UsageError, as_numbers

__all__ = ["CHUNK_ROWS", "as_given", "check_mapping", "checked_latent", "chunks_of", "owned"]

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


def chunks_of(observed: Observed, size: int = CHUNK_ROWS) -> Iterator[Observed]:
    """Observed rows, at most `size` at a time; one empty chunk where nothing is observed."""
    if not observed.x:
        yield observed
        return
    for start in range(0, observed.rows, size):
        yield observed.take(start, start + size)
