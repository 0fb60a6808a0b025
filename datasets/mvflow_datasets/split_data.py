"""What one split of a store is made of: checked, and packed as a store holds it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix, csr_matrix, issparse

from mvflow.core import (
    COVARIATES,
    PRESENT,
    UNLABELLED,
    Covariate,
    DataError,
    Modality,
    check_batch,
    check_every_row,
    check_mask,
    fill_absent,
    pack_column,
    unmask,
    unmask_labels,
)
from mvflow_datasets.manifest import block_rows
from mvflow_datasets.sparse import SPARSE_PARTS

__all__ = ["Blocks", "CheckedSplit", "SplitData", "check_names", "check_split", "plain"]

RESERVED = frozenset({"labels", "pairs", "factors", "covariates"})
"""Places in the group of a split that no modality may have."""


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
        step = block_rows(np.dtype(np.uint8), self.shape)
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
            row takes; as arrays, as `Blocks` that are made while they are written, or as sparse
            matrices of SciPy, which stay sparse. What NumPy's masked arrays mask is absent.
        labels: class of each row, -1 where it is not known.
        pairs: modality -> (rows,) positions in the array of that name, -1 where it is absent.
        factors: known causes of each row, by name.
        covariates: what is known of each row: names of levels or numbers, by name.
        present: modality -> bool (rows,), which rows have it, or bool of its array's shape, which
            values are present; others are never read. By default all are.
    """

    arrays: Mapping[str, Any]
    labels: ArrayLike | None = None
    pairs: Mapping[str, ArrayLike] | None = None
    factors: Mapping[str, ArrayLike] = field(default_factory=dict)
    covariates: Mapping[str, ArrayLike] = field(default_factory=dict)
    present: Mapping[str, ArrayLike] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class CheckedSplit:
    """Arrays of a split as a store holds them."""

    arrays: dict[str, NDArray[Any] | Blocks]
    """By their place in the group of the split."""
    has: NDArray[np.bool_]
    """(rows, modalities): which rows have which modality."""
    absent: dict[str, int]
    """Modality -> rows that lack it; `present/NAME` -> missing entries; `labels` -> rows without;
    nothing where nothing is absent."""


def check_split(
    split: str,
    data: SplitData,
    modalities: tuple[Modality, ...],
    covariates: Mapping[str, Covariate],
) -> CheckedSplit:
    """Check the data of a split and pack them, in the types in which they are stored.

    Raises:
        DataError: beginning with the name of the split.
    """
    names = [m.name for m in modalities]
    try:
        check_names(split, names, data.factors, RESERVED | {PRESENT.rstrip("/")})
        for given, kind in ((data.arrays, "array"), (data.pairs, "pairs")):
            if given is not None and set(given) != set(names):
                msg = f"one {kind} per modality is needed ({names}): got {sorted(given)}"
                raise DataError(msg)
        out, has = _packed(data, modalities)
        rows = len(has)
        check_every_row(has.T)
        if data.labels is not None:
            given_labels = unmask_labels(data.labels)
            labels = _per_row("labels", given_labels, rows, kinds="iu").astype(np.int64)
            if labels.size and labels.min() < UNLABELLED:
                row = int(np.argmin(labels))
                msg = (
                    f"labels: row {row} is {labels[row]}, expected a class from 0 on, "
                    f"or {UNLABELLED} where it is not known"
                )
                raise DataError(msg)
            out["labels"] = labels
        for factor, values in sorted(data.factors.items()):
            out[f"factors/{factor}"] = _per_row(f"factor {factor!r}", values, rows, kinds="biuf")
        if set(data.covariates) != set(covariates):
            msg = f"covariates {sorted(covariates)} are needed: got {sorted(data.covariates)}"
            raise DataError(msg)
        for name, covariate in covariates.items():
            out[COVARIATES + name] = _covariate_values(covariate, data.covariates[name], rows)
    except DataError as error:
        msg = f"split {split!r}: {error}"
        raise DataError(msg) from error
    absent = {name: int((~mask).sum()) for name, mask in zip(names, has.T, strict=True)}
    absent |= {k: int((~np.asarray(x)).sum()) for k, x in out.items() if k.startswith(PRESENT)}
    absent["labels"] = int((np.asarray(out.get("labels", ())) == UNLABELLED).sum())
    arrays = {key: x if isinstance(x, Blocks) else plain(x) for key, x in out.items()}
    return CheckedSplit(arrays, has, {key: n for key, n in absent.items() if n})


def _packed(
    data: SplitData, modalities: tuple[Modality, ...]
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Arrays of the modalities by their place, and which rows have which of them."""
    names = [m.name for m in modalities]
    given, masks = unmask(data.arrays, data.present)
    matrices = {name: csr_matrix(x) for name, x in given.items() if issparse(x)}
    arrays = {n: _stand_in(x) for n, x in given.items() if n not in matrices}
    rows = None if data.pairs is None else min(np.size(index) for index in data.pairs.values())
    for name, mask in masks.items():
        if name in matrices:
            check_mask(name, mask, matrices[name].shape, rows)
            matrices[name] = _only_present(matrices[name], mask, rows)
        elif not isinstance(given[name], Blocks):
            arrays[name] = fill_absent(name, arrays[name], mask, rows)
        elif rows is None or mask.shape != (rows,):
            msg = f"modality {name!r} is made as it is written: give pairs, -1 where it is absent"
            raise DataError(msg)
    checked = check_batch(arrays, modalities, rows_equal=data.pairs is None)
    lengths = {n: (matrices[n].shape[0] if n in matrices else len(checked[n])) for n in names}
    if data.pairs is None and len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        msg = f"all modalities need the same number of rows, but {listed}"
        raise DataError(msg)
    index: dict[str, Any] = dict.fromkeys(names)
    if data.pairs is not None:
        index = dict(_checked_pairs(data.pairs, lengths))
    rows = lengths[names[0]] if rows is None else rows
    out: dict[str, Any] = {}
    for modality in modalities:
        name = modality.name
        is_made = isinstance(given[name], Blocks)
        values = given[name] if is_made else matrices.get(name, checked.get(name))
        packed = pack_column(values, masks.get(name), index[name])
        index[name] = packed.index
        if name in matrices:
            out |= _sparse_parts(packed.values, modality)
        else:
            out[name] = packed.values
        if packed.mask is not None:
            out[PRESENT + name] = packed.mask
    places = [np.arange(rows) if i is None else i for i in index.values()]
    stacked = np.stack(places, axis=1).astype(np.int32)
    if any(i is not None for i in index.values()):
        out["pairs"] = stacked
    return out, stacked >= 0


def _only_present(matrix: Any, mask: NDArray[np.bool_], rows: int | None) -> Any:
    """A sparse matrix without the values that are absent."""
    if mask.ndim == 1 and rows is not None:
        return matrix
    entries = coo_matrix(matrix)
    kept = mask[entries.row] if mask.ndim == 1 else mask[entries.row, entries.col]
    at = entries.row[kept], entries.col[kept]
    return csr_matrix((entries.data[kept], at), shape=matrix.shape)


def _covariate_values(
    covariate: Covariate, values: ArrayLike, rows: int
) -> NDArray[np.int32 | np.float32]:
    """Codes of levels, or numbers as they are, (rows,)."""
    encoded = covariate.encode(values, rows)
    if covariate.levels is not None:
        return encoded.argmax(1).astype(np.int32)
    return np.asarray(values, np.float32)


def _sparse_parts(given: Any, modality: Modality) -> dict[str, NDArray[Any]]:
    """Arrays of a sparse matrix by their place, with its values in the order of their columns."""
    name, likelihood = modality.name, modality.likelihood_part
    matrix = csr_matrix(given, dtype=np.float32, copy=True)
    if (
        modality.shape != matrix.shape[1:]
        or likelihood.row_shape(modality.shape) != modality.shape
    ):
        msg = f"modality {name!r} is sparse of shape {matrix.shape}, but has rows {modality.shape}"
        raise DataError(msg)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    data = matrix.data
    is_bad = ~(np.isfinite(data) & likelihood.is_valid(data, modality.shape))
    if is_bad.any():
        place = int(np.argmax(is_bad))
        row = int(np.searchsorted(matrix.indptr, place, "right")) - 1
        expected = likelihood.expects(modality.shape)
        msg = f"modality {name!r}, row {row} contains {data[place]}: {expected}"
        raise DataError(msg)
    parts = {"data": data, "indices": matrix.indices, "indptr": matrix.indptr}
    return {f"{name}/{p}": parts[p].astype(dtype) for p, dtype in SPARSE_PARTS.items()}


def _stand_in(values: ArrayLike | Blocks) -> NDArray[Any]:
    """The array; for blocks, which are not made yet, zeros of their shape without their memory."""
    if isinstance(values, Blocks):
        return np.broadcast_to(np.uint8(0), values.shape)
    return np.asarray(values)


def check_names(
    split: str,
    modalities: list[str],
    factors: Iterable[str],
    reserved: frozenset[str] = RESERVED,
) -> None:
    """Refuse names that a store cannot hold.

    Raises:
        DataError: if there is one, or two of the same.
    """
    for name in (split, *factors):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            msg = f"{name!r} cannot name a split or a factor: use letters, digits, '_', '-', '.'"
            raise DataError(msg)
    if len(set(modalities) - reserved) != len(modalities) or not modalities:
        msg = (
            f"the modalities are named {modalities}: expected at least one, "
            f"different names, and none of {', '.join(sorted(reserved))}"
        )
        raise DataError(msg)


def _per_row(what: str, values: ArrayLike, rows: int, *, kinds: str) -> NDArray[Any]:
    array = np.asarray(values)
    is_right = array.shape[:1] == (rows,) and 0 not in array.shape[1:]
    if not is_right or (array.size and array.dtype.kind not in kinds):
        expected = "whole numbers" if kinds == "iu" else "numbers"
        msg = f"{what}: expected {rows} {expected}, got {array.dtype} of shape {array.shape}"
        raise DataError(msg)
    return array.astype(np.float64) if array.dtype.itemsize > 8 else array


def _checked_pairs(
    pairs: Mapping[str, ArrayLike], lengths: Mapping[str, int]
) -> dict[str, NDArray[Any]]:
    rows = min(np.size(index) for index in pairs.values())
    out = {}
    for name, length in lengths.items():
        index = _per_row(f"pairs of {name!r}", pairs[name], rows, kinds="iu").reshape(rows)
        if rows and not -1 <= index.min() <= index.max() < length:
            msg = (
                f"pairs of {name!r} run from {index.min()} to {index.max()}: "
                f"expected positions in its {length} rows, or -1 where it is absent"
            )
            raise DataError(msg)
        out[name] = index
    return out


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """The same values as a store holds them: little-endian numbers, texts in UTF-8."""
    if array.dtype.kind == "U":
        array = np.char.encode(array, "utf-8")
        return array if array.dtype.itemsize else array.astype("S1")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
