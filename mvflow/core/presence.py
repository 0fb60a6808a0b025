"""Which modalities each row has, which values inside them, and whether rows link them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core.door import as_array
from mvflow.core.errors import DataError, UsageError, listed, unknown_name
from mvflow.core.types import PRESENT, Column, Source

__all__ = [
    "PackedColumn",
    "Presence",
    "check_every_row",
    "check_every_value",
    "check_mask",
    "entry_shares",
    "fill_absent",
    "nan_absent",
    "pack_column",
    "present_columns",
    "row_presence",
    "unmask",
    "with_masks",
    "without_full_masks",
]

Mask = NDArray[np.bool_]

BLOCK = 4096
"""Rows of a mask that are read at once."""


# What is handed over


def unmask(
    arrays: Mapping[str, Any], present: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Mask]]:
    """Split masked arrays and masks that were handed over into values and masks.

    Args:
        arrays: name -> (rows, *shape); of NumPy's masked arrays, masked values are absent.
        present: name -> bool (rows,) or (rows, *shape), which rows or values are present.

    Returns:
        Values without a mask, and masks of the modalities that have one.

    Raises:
        DataError: if a mask does not hold booleans.
        UsageError: if a mask belongs to no modality.

    Examples:
        >>> x, masks = unmask({"a": np.ma.masked_invalid([[1.0, np.nan]]), "b": [[2.0]]})
        >>> x["a"].tolist(), {name: mask.tolist() for name, mask in masks.items()}
        ([[1.0, nan]], {'a': [[True, False]]})
    """
    values, masks = dict(arrays), {}
    for name, x in arrays.items():
        if isinstance(x, np.ma.MaskedArray):
            values[name], hidden = x.data, np.ma.getmaskarray(x)
            if hidden.any():
                masks[name] = ~hidden
    for name, given in (present or {}).items():
        if name not in arrays:
            raise UsageError(unknown_name("modality", name, arrays))
        mask = as_array(given, f"present[{name!r}]")
        if mask.dtype.kind != "b":
            msg = f"present[{name!r}] holds {mask.dtype}: expected booleans, True where present"
            raise DataError(msg)
        if name in masks:
            hidden = ~masks[name]
            if mask.shape not in (hidden.shape, hidden.shape[:1]):
                msg = (
                    f"present[{name!r}] has shape {mask.shape}, but the masked array of that name "
                    f"{hidden.shape}: expected this shape, or one boolean for each of its rows"
                )
                raise DataError(msg)
            mask = mask.reshape(*mask.shape, *[1] * (hidden.ndim - mask.ndim)) & ~hidden
        masks[name] = mask
    return values, masks


def check_mask(name: str, mask: Mask, shape: tuple[int, ...], rows: int | None = None) -> None:
    """Check the shape of a mask.

    Args:
        name: of the modality.
        mask: bool (rows,) or of the given shape.
        shape: of all values, (values, ...).
        rows: number of rows, if these share values; None: as many as values.

    Raises:
        DataError: if it has another shape.
    """
    count = shape[0] if rows is None else rows
    if mask.shape != (count,) and (mask.shape != shape or len(shape) == 1):
        each = f", or for each value, {shape}" if len(shape) > 1 else ""
        msg = (
            f"present[{name!r}] has shape {mask.shape}: expected one boolean for each row, "
            f"({count},){each}"
        )
        raise DataError(msg)


def fill_absent(name: str, x: NDArray[Any], mask: Mask, rows: int | None = None) -> NDArray[Any]:
    """Values with zeros in place of those that are absent, which are never read.

    Where rows share values, a mask of rows leaves all of them.

    Args:
        name: of the modality.
        x: (values, *shape).
        mask: bool (rows,) or (values, *shape).
        rows: number of rows, if these share values; None: as many as values.

    Raises:
        DataError: if the mask has another shape.

    Examples:
        >>> fill_absent("a", np.array([[1.0], [np.nan]]), np.array([True, False])).tolist()
        [[1.0], [0.0]]
    """
    check_mask(name, mask, x.shape, rows)
    if mask.ndim == 1 and rows is not None:
        return x
    spread = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
    return np.where(spread, x, x.dtype.type())


def nan_absent(x: NDArray[Any], mask: Mask | None) -> NDArray[Any]:
    """Values with NaN in place of those that are absent; unchanged where none is.

    Args:
        x: (rows, *shape).
        mask: bool (rows,) or (rows, *shape); None: all are present.

    Examples:
        >>> nan_absent(np.array([[1.0, 2.0]]), np.array([[True, False]])).tolist()
        [[1.0, nan]]
    """
    if mask is None or mask.all():
        return x
    spread = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
    return np.where(spread, x, np.float32(np.nan))


# Columns


@dataclass(frozen=True, slots=True)
class PackedColumn:
    """A modality without what is absent."""

    values: Any
    """(values, *shape), of which every one has something that is present."""
    index: NDArray[np.int64] | None
    """Row -> position in `values`, -1 where the row lacks the modality; None: row i has i."""
    mask: Mask | None
    """bool (values, *shape), which entries of a value are present; None: all."""


def pack_column(values: Any, mask: Mask | None, index: NDArray[Any] | None) -> PackedColumn:
    """Leave out the values of rows that lack a modality.

    Args:
        values: (values, *shape), an array or a sparse matrix.
        mask: bool (rows,) or (values, *shape), as `fill_absent` takes it.
        index: row -> position in `values`, or -1; None: row i has value i.

    Examples:
        >>> packed = pack_column(np.array([[1.0], [0.0]]), np.array([True, False]), None)
        >>> packed.values.tolist(), packed.index.tolist(), packed.mask
        ([[1.0]], [0, -1], None)
    """
    if mask is None:
        return PackedColumn(values, index, None)
    if index is not None and mask.ndim == 1:
        return PackedColumn(values, np.where(mask, index, -1), None)
    kept = mask.any(axis=tuple(range(1, mask.ndim)))
    if not kept.all():
        places = np.where(kept, np.cumsum(kept) - 1, -1)
        index = places if index is None else np.where(index < 0, -1, places[index])
        values, mask = values[kept], mask[kept]
    return PackedColumn(values, index, None if mask.all() else mask)


def with_masks(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Columns of a source, with `present/NAME` for each modality that some row lacks.

    Examples:
        >>> columns = with_masks({"a": Column(np.ones((1, 2)), np.array([0, -1]))})
        >>> columns["present/a"].values.tolist()
        [True, False]
    """
    masks = {
        PRESENT + name: Column(is_there, None)
        for name, c in columns.items()
        if c.index is not None
        and PRESENT + name not in columns
        and not name.startswith(PRESENT)
        and not (is_there := np.asarray(c.index) >= 0).all()
    }
    return {**columns, **masks}


def present_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a source's columns that say what is present.

    Examples:
        >>> present_columns({"rna": 1, "present/rna": 2})
        {'present/rna': 2}
    """
    return {name: x for name, x in columns.items() if name.startswith(PRESENT)}


def without_full_masks(x: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Rows as `Source.take` gives them, without the masks of what is all present.

    Examples:
        >>> list(without_full_masks({"a": np.ones(2), "present/a": np.ones(2, bool)}))
        ['a']
    """
    return {k: v for k, v in x.items() if not (k.startswith(PRESENT) and v.all())}


def row_presence(source: Source) -> dict[str, Mask]:
    """Which rows have which modality, name -> bool (rows,).

    Examples:
        >>> from mvflow.core import ArraySource
        >>> x = {"a": np.ones((2, 1)), "b": np.ones((2, 1))}
        >>> row_presence(ArraySource(x, present={"b": np.array([True, False])}))["b"]
        array([ True, False])
    """
    columns = source.columns()
    return {
        m.name: np.ones(len(source), np.bool_)
        if (index := columns[m.name].index) is None
        else np.asarray(index) >= 0
        for m in source.modalities
    }


def check_every_row(masks: Iterable[Mask]) -> None:
    """Check that every row has a modality.

    Raises:
        DataError: naming those that have none.
    """
    lacking = np.flatnonzero(~np.logical_or.reduce(list(masks))).tolist()
    if lacking:
        are = f"rows {listed(lacking)} have" if lacking[1:] else f"row {lacking[0]} has"
        msg = f"{are} no modality: leave out rows of which nothing is known"
        raise DataError(msg)


def check_every_value(source: Source) -> None:
    """Check that each value of each modality is present in some row, so that it can be learned.

    Raises:
        DataError: naming those that are not.

    Examples:
        >>> from mvflow.core import ArraySource
        >>> check_every_value(ArraySource({"a": np.ma.masked_invalid([[1.0, np.nan]])}))
        Traceback (most recent call last):
        mvflow.core.errors.DataError: modality 'a': no row has the value at (1,): leave it out...
    """
    nowhere = {}
    for name, column in present_columns(source.columns()).items():
        if len(column.values.shape) == 1:
            continue
        shape, index = column.values.shape[1:], column.index
        used = np.arange(len(column.values)) if index is None else np.unique(index[index >= 0])
        seen = np.zeros(shape, np.bool_)
        for i in range(0, len(used), BLOCK):
            seen |= np.asarray(column.values[used[i : i + BLOCK]]).any(0)
        if not seen.all():
            nowhere[name.removeprefix(PRESENT)] = [tuple(at) for at in np.argwhere(~seen).tolist()]
    if nowhere:
        told = "; ".join(
            f"modality {name!r}: no row has the value{'s' * (len(at) > 1)} at {listed(at)}"
            for name, at in nowhere.items()
        )
        it = "it" if sum(map(len, nowhere.values())) == 1 else "them"
        msg = f"{told}: leave {it} out, or add rows that have {it}"
        raise DataError(msg)


def entry_shares(source: Source) -> dict[str, float]:
    """Share of the values that are present in rows that have a modality, where some are not.

    Examples:
        >>> from mvflow.core import ArraySource
        >>> rows = ArraySource({"a": np.ma.masked_invalid([[1.0, np.nan], [2.0, 3.0]])})
        >>> entry_shares(rows)
        {'a': 0.75}
    """
    shares = {}
    for name, column in present_columns(source.columns()).items():
        if len(column.values.shape) == 1:
            continue
        each = np.concatenate(
            [
                np.asarray(column.values[i : i + BLOCK]).reshape(-1, column.values[0].size).mean(1)
                for i in range(0, len(column.values), BLOCK)
            ]
        )
        index = column.index
        rows = each if index is None else each[index[np.asarray(index) >= 0]]
        shares[name.removeprefix(PRESENT)] = float(rows.mean())
    return shares


# Patterns


@dataclass(frozen=True)
class Presence:
    """How many rows have which modalities, and what that allows.

    Args:
        modalities: names, in the order of the source.
        kinds: names that a row has -> number of such rows, most frequent first.

    Examples:
        >>> seen = Presence(("a", "b", "c"), {("a", "b"): 5, ("b", "c"): 2})
        >>> seen.pairs_apart, seen.groups, seen.linking("a", "c")
        ([('a', 'c')], [('a', 'b', 'c')], ('b',))
    """

    modalities: tuple[str, ...]
    kinds: Mapping[tuple[str, ...], int]

    @classmethod
    def of(cls, *sources: Source) -> Presence:
        """Count rows of sources that have the same modalities."""
        names = [m.name for m in sources[0].modalities]
        masks = map(row_presence, sources)
        return cls.counted(names, *(np.stack([m[name] for name in names], 1) for m in masks))

    @classmethod
    def counted(cls, modalities: Iterable[str], *masks: Mask) -> Presence:
        """Count rows by masks (rows, modalities)."""
        names = tuple(modalities)
        counts: dict[tuple[str, ...], int] = {}
        for rows in masks:
            if rows.all() and len(rows):
                counts[names] = counts.get(names, 0) + len(rows)
                continue
            for kind, count in zip(*np.unique(rows, axis=0, return_counts=True), strict=True):
                has = tuple(name for name, there in zip(names, kind, strict=True) if there)
                counts[has] = counts.get(has, 0) + int(count)
        return cls(names, dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))))

    @property
    def is_complete(self) -> bool:
        """Whether every row has every modality."""
        return all(len(kind) == len(self.modalities) for kind in self.kinds)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.kinds.values())

    def count(self, *names: str) -> int:
        """Rows that have all the named modalities."""
        return sum(n for kind, n in self.kinds.items() if set(names) <= set(kind))

    @property
    def pairs_apart(self) -> list[tuple[str, str]]:
        """Pairs of modalities that no row has together."""
        return [pair for pair in combinations(self.modalities, 2) if not self.count(*pair)]

    def linking(self, first: str, second: str) -> tuple[str, ...]:
        """Modalities that have rows together with each of two others."""
        others = [name for name in self.modalities if name not in (first, second)]
        return tuple(n for n in others if self.count(first, n) and self.count(second, n))

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """Connected components: modalities that rows link, directly or by way of others."""
        groups: list[set[str]] = []
        for kind in [*self.kinds, *((name,) for name in self.modalities)]:
            joined = [group for group in groups if group & set(kind)]
            groups = [g for g in groups if g not in joined] + [set(kind).union(*joined)]
        known = [tuple(n for n in self.modalities if n in group) for group in groups if group]
        return sorted(known, key=lambda group: self.modalities.index(group[0]))

    def check(self) -> None:
        """Check that a joint model can be learnt: every modality occurs, and rows link them all.

        Raises:
            DataError: naming modalities that no row has, or that nothing links.
        """
        nowhere = [name for name in self.modalities if self.rows and not self.count(name)]
        if nowhere:
            it, any_of = ("them", "any of the modalities") if nowhere[1:] else ("it", "modality")
            leave = f"leave {it} out, or add rows that have {it}"
            msg = f"no row has {any_of} {listed(nowhere)}: {leave}"
            raise DataError(msg)
        if self.rows and len(self.groups) > 1:
            groups = [" and ".join(map(repr, group)) for group in self.groups]
            msg = (
                f"nothing links {' with '.join(groups)}: no row has one of each, and no third "
                "modality joins them; add rows that have both, or train a model of each"
            )
            raise DataError(msg)
