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

__all__ = ["ModalityRows", "pair_rows", "read_modality"]


@dataclass(frozen=True, slots=True, eq=False)
class ModalityRows:
    """Rows of one modality, read from a file of the user's.

    Args:
        values: (rows, *shape), in the units of the store.
        row_names: (rows,) as the file has them, or None.
        notes: a sentence for each thing that was done or guessed.
    """

    values: NDArray[Any]
    row_names: NDArray[np.str_] | None
    notes: tuple[str, ...]


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
        options: how the file is read, where not as guessed.

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
    values = _in_shape(raw.values, modality, at)
    if values.dtype == np.uint8 and not (
        modality.likelihood_part.takes_bytes and values.max() > 1
    ):
        values = values.astype(np.float32)  # 0 and 1, which as bytes would be intensities
    what = f"values of {at}"
    stored = units.apply(values, what)
    checked = check_batch({modality.name: stored}, [modality])[modality.name]
    notes = list(raw.guesses)
    if not units.is_identity:
        notes.append(f"{modality.name}: {at} is in the units of its file; changed as in training")
    return ModalityRows(checked, raw.keys, tuple(notes))


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
