"""Files of new rows, read as the modality of a store that earlier files were imported into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from mvflow.core import DataError, Modality, Units, check_batch
from mvflow_datasets.importing.reading import read_row_values, read_values
from mvflow_datasets.importing.references import Raw, ReadOptions, Reference

__all__ = ["ModalityRows", "join_rows", "pair_rows", "read_modality"]


@dataclass(frozen=True, slots=True, eq=False)
class ModalityRows:
    """Rows of one modality, read from a file of the user's.

    Args:
        values: (rows, *shape), in the units of the store; zeros where one is absent.
        row_names: (rows,) as the file has them, or None.
        notes: a sentence for each thing that was done or guessed.
        present: bool of the shape of the values, which are not absent; None: all.
        original: (rows, *shape), in the units of the file; classes of texts as their numbers.
    """

    values: NDArray[Any]
    row_names: NDArray[np.str_] | None
    notes: tuple[str, ...]
    present: NDArray[np.bool_] | None = None
    original: NDArray[Any] | None = None

    def take(self, rows: NDArray[np.int64]) -> ModalityRows:
        """The given rows, in their order; -1 stands for one that lacks the modality."""
        lacks = rows < 0
        present = self.present
        if lacks.any() or present is not None:
            kept = np.ones(self.values.shape, np.bool_) if present is None else present
            present = kept[rows] & ~lacks.reshape(-1, *[1] * (kept.ndim - 1))
        values = self.values[rows]
        if lacks.any():
            values[lacks] = 0
        return replace(
            self,
            values=values,
            present=present,
            original=None if self.original is None else self.original[rows],
            row_names=None,
        )


def read_modality(
    reference: str | Path,
    modality: Modality,
    units: Units,
    options: ReadOptions | None = None,
) -> ModalityRows:
    r"""Read a file as a modality of a store: columns by name, then the store's transform.

    Args:
        reference: `PATH` or `PATH:PART`, as `mvflow data import` takes it.
        modality: its specification.
        units: of the modality, as `Store.units` has them.
        options: how the file is read, where not as guessed, and what missing values mean.

    Raises:
        DataError: if the file cannot be read, columns are missing, or values do not fit.

    Examples:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "new.csv"
        >>> _ = path.write_text("b,a\n10,1\n20,2\n")
        >>> units = Units(("a", "b"), shift=np.array([0.0, 10.0]))
        >>> read_modality(path, Modality("x", (2,)), units).values
        array([[ 1.,  0.],
               [ 2., 10.]], dtype=float32)
    """
    at = Reference.parse(str(reference))
    columns = None if at.part else units.names
    raw = read_values(at, (), options, columns=columns, levels=units.levels)
    if units.names and raw.columns:
        raw = _chosen(raw, at, units.names)
    original = _in_shape(raw.values, modality, at)
    present = _present(original, raw.lacks)
    values = original
    if present is not None:  # something that fits stands for what is absent until it is mapped
        first = original[present][0] if units.classes or original.dtype.kind in "SU" else 0
        values = np.where(present, original, first)
    if values.dtype == np.uint8 and not (
        modality.likelihood_part.takes_bytes and values.max() > 1
    ):
        values = values.astype(np.float32)  # 0 and 1, which as bytes would be intensities
    what = f"values of {at}"
    stored = units.apply(values, what)
    if present is not None:
        stored = np.where(present, stored, stored.dtype.type(0))
    checked = check_batch({modality.name: stored}, [modality])[modality.name]
    notes = [*raw.guesses, *([f"{at}: {raw.note}"] if raw.note else [])]
    if not units.is_identity:
        notes.append(f"{modality.name}: {at} is in the units of its file; changed as in training")
    return ModalityRows(checked, raw.keys, tuple(notes), present, original)


def _present(values: NDArray[Any], lacks: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Which values are there; None if all are."""
    present = np.ones(values.shape, np.bool_)
    if values.dtype.kind == "f":
        present = ~np.isnan(values)
    if lacks is not None:
        present[lacks] = False
    return None if present.all() else present


def join_rows(
    modalities: Mapping[str, ModalityRows],
) -> tuple[dict[str, ModalityRows], NDArray[np.str_] | None]:
    """Rows of several modalities, of which each has one or more (outer join), and their names.

    Rows have the order of the first file that names them; those of other files follow. Files
    without names are paired by position.

    Raises:
        DataError: if a name stands for two rows, or a file names no rows where others differ.

    Examples:
        >>> a = ModalityRows(np.eye(2), np.array(["x", "y"]), ())
        >>> b = ModalityRows(np.eye(2), np.array(["y", "z"]), ())
        >>> rows, names = join_rows({"a": a, "b": b})
        >>> names.tolist(), rows["b"].present.any(1).tolist()
        (['x', 'y', 'z'], [False, True, True])
    """
    named = {name: m.row_names for name, m in modalities.items() if m.row_names is not None}
    if not named:
        return dict(modalities), None
    first = next(iter(named.values()))
    if all(np.array_equal(names, first) for names in named.values()):
        return dict(modalities), first
    for name, m in modalities.items():
        if m.row_names is None or len(np.unique(m.row_names)) < len(m.row_names):
            what = "does not name its rows" if m.row_names is None else "names two rows alike"
            msg = f"{name} {what}, but others name theirs differently: name each row once"
            raise DataError(msg)
    union = list(dict.fromkeys(np.concatenate(list(named.values())).tolist()))
    out = {}
    for name, m in modalities.items():
        places = {row: i for i, row in enumerate(named[name].tolist())}
        out[name] = m.take(np.array([places.get(row, -1) for row in union]))
    return out, np.array(union)


def read_covariate(
    reference: Reference, rows: int, row_names: Sequence[str] | None = None
) -> NDArray[Any]:
    r"""Values of a covariate, one for each of the rows that were read.

    Args:
        reference: one column of a file.
        rows: how many there are.
        row_names: of the rows, by which those of the file are found where it names them.

    Raises:
        DataError: if a row has no value, or names stand for two rows.

    Examples:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "about.csv"
        >>> _ = path.write_text(",batch\nr2,B\nr1,A\n")
        >>> read_covariate(Reference(path, "batch"), 2, ["r1", "r2"]).tolist()
        ['A', 'B']
    """
    raw = read_row_values(reference)
    values = np.asarray(raw.values)
    if raw.keys is None or row_names is None:
        if len(values) != rows:
            msg = f"{reference} has {len(values):,} values for {rows:,} rows: give one for each"
            raise DataError(msg)
        return values
    places = {name: i for i, name in enumerate(raw.keys.tolist())}
    if len(places) < len(values):
        msg = f"{reference}: names of rows repeat, so that values cannot be found by name"
        raise DataError(msg)
    missing = [name for name in row_names if name not in places]
    if missing:
        msg = f"{reference} has no value for row {missing[0]!r} ({len(missing):,} are missing)"
        raise DataError(msg)
    return values[[places[name] for name in row_names]]


def pair_rows(modalities: Mapping[str, ModalityRows]) -> dict[str, NDArray[Any]]:
    """Values of several modalities, with their rows in the order of the first that names them.

    Raises:
        DataError: if files name different rows, or a name stands for two of them.
    """
    named = {name: m.row_names for name, m in modalities.items() if m.row_names is not None}
    out = {name: m.values for name, m in modalities.items()}
    first = next(iter(named), "")
    for name, names in named.items():
        if np.array_equal(names, named[first]):
            continue
        order = np.argsort(names, kind="stable")
        ranks = np.argsort(np.argsort(named[first], kind="stable"), kind="stable")
        is_same = len(names) == len(named[first]) and (names[order][ranks] == named[first]).all()
        if len(np.unique(names)) < len(names) or not is_same:
            msg = f"{first} and {name} name their rows differently: give the same rows of both"
            raise DataError(msg)
        out[name] = out[name][order][ranks]
    return out


def _chosen(raw: Raw, at: Reference, names: Sequence[str]) -> Raw:
    """The named columns, in this order."""
    if tuple(raw.columns) == tuple(names):
        return raw
    places = {name: i for i, name in enumerate(raw.columns)}
    missing = [name for name in names if name not in places]
    if missing:
        shown = ", ".join(missing[:5]) + ("..." if len(missing) > 5 else "")
        msg = (
            f"{at} lacks {len(missing):,} of the {len(names):,} columns of the store ({shown}): "
            "columns are found by name"
        )
        raise DataError(msg)
    order = [places[name] for name in names]
    return replace(raw, values=raw.values[:, order], columns=tuple(names))


def _in_shape(values: Any, modality: Modality, at: Reference) -> NDArray[Any]:
    """Values as (rows, *shape) of the modality; channels may come last, or be left out."""
    x = values.toarray() if issparse(values) else np.asarray(values)
    expected = modality.likelihood_part.row_shape(modality.shape)
    shapes = [x, x[..., None].reshape(len(x), 1, *x.shape[1:])]
    if x.ndim > 2:
        shapes.append(np.moveaxis(x, -1, 1))
    if x.ndim == 2 and x.shape[1] == 1:
        shapes.append(x[:, 0])
    for each in shapes:
        if each.shape[1:] == expected:
            return each
    msg = f"{at} has rows of shape {x.shape[1:]}: {modality.name!r} has {expected}"
    raise DataError(msg)
