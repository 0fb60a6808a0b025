"""AnnData and MuData objects as rows to train on, and the recipe `auto` for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.config import Config, config_from_dict, resolved
from mvflow.config.auto import auto_config
from mvflow.core import ArraySource, DataError, Modality, Units, UsageError, unknown_name
from mvflow.core.memory import check_memory
from mvflow.likelihoods.count_tables import COUNTS, count_settings, is_count_table

__all__ = ["AnnotatedRows", "config_for", "rows_of_anndata", "rows_of_mudata"]

LEVELS = 20
"""Most different whole numbers of a covariate that are levels; more are a number."""


class AnnotatedRows(ArraySource):
    """Rows of an AnnData or MuData object: counts as they are, other numbers standardised.

    Attributes:
        row_names: `obs_names`, in the order of the object.
        units: modality -> names of its columns, and the way back to the object's numbers.
    """

    row_names: tuple[str, ...]
    units: dict[str, Units]


def rows_of_mudata(
    mdata: Any, layers: Mapping[str, str] | None = None, covariates: Iterable[str] = ()
) -> AnnotatedRows:
    """Each modality of a MuData object: its `X`, or the layer that is named.

    Cells that lack a modality stay in: they are rows in which it is absent.

    Args:
        mdata: the object.
        layers: modality -> layer.
        covariates: columns of `obs`, or `modality:column` of that of a modality.

    Raises:
        DataError: if a layer, a column or a value is missing.
        UsageError: if a modality is unknown.
    """
    named = dict(layers or {})
    for name in named:
        if name not in mdata.mod:
            raise UsageError(unknown_name("modality", name, list(mdata.mod)))
    order = np.asarray(mdata.obs_names, np.str_)
    matrices, at, values = {}, {}, {}
    for name, adata in mdata.mod.items():
        place = f"layers/{named[name]}" if name in named else "X"
        matrices[name] = _matrix(adata, name, place)
        places = {cell: i for i, cell in enumerate(map(str, adata.obs_names))}
        at[name] = np.array([places.get(cell, -1) for cell in order.tolist()])
    for column in covariates:
        name, _, rest = column.rpartition(":")
        if name and name not in mdata.mod:
            raise UsageError(unknown_name("modality", name, list(mdata.mod)))
        known = _column(mdata.mod[name].obs if name else mdata.obs, rest)
        if name and (at[name] < 0).any():
            lost = order[at[name] < 0][0]
            msg = f"covariate {column!r}: cell {lost!r} is not in modality {name!r}"
            raise DataError(msg)
        values[rest] = known[at[name]] if name else known
    return _rows(matrices, at, order, values)


def rows_of_anndata(
    adata: Any, matrices: Mapping[str, str], covariates: Iterable[str] = ()
) -> AnnotatedRows:
    """Several matrices of an AnnData object as modalities.

    Args:
        adata: the object.
        matrices: modality -> place of its matrix: `X`, `layers/counts`, `obsm/protein`.
        covariates: columns of `obs`.

    Raises:
        DataError: if a place, a column or a value is missing.
    """
    order = np.asarray(adata.obs_names, np.str_)
    found = {name: _matrix(adata, name, place) for name, place in matrices.items()}
    at = {name: np.arange(len(order)) for name in found}
    return _rows(found, at, order, {c: _column(adata.obs, c) for c in covariates})


def config_for(rows: AnnotatedRows, system: str, assignments: Iterable[str]) -> Config:
    """The recipe `auto` for these rows, with `section.key=value` changes."""
    raw = auto_config(rows.modalities, len(rows), covariates=bool(rows.covariates))
    raw = resolved(raw, [f"system={system}", *assignments])
    names = {c.name: c.to_dict() for c in rows.covariates.values()}
    return config_from_dict({**raw, **({"covariates": names} if names else {})})


def _rows(
    matrices: Mapping[str, tuple[NDArray[Any], tuple[str, ...]]],
    at: Mapping[str, NDArray[np.int64]],
    order: NDArray[np.str_],
    covariates: Mapping[str, NDArray[Any]],
) -> AnnotatedRows:
    specs, arrays, units = [], {}, {}
    for name, (x, columns) in matrices.items():
        if is_count_table(x):
            units[name] = Units(columns)
            likelihood: Any = count_settings(COUNTS, x.shape[1])
        else:
            spread = x.std(0, dtype=np.float64)
            mean = x.mean(0, dtype=np.float64)
            units[name] = Units(columns, shift=mean, scale=np.where(spread > 0, spread, 1.0))
            likelihood = {"kind": "normal", "scale": 0.5}
        specs.append(Modality(name, x.shape[1:], likelihood))
        arrays[name] = np.asarray(units[name].apply(x), np.float32)
    source = AnnotatedRows(arrays, specs, pairs=at, covariates=covariates)
    source.row_names, source.units = tuple(order.tolist()), units
    return source


def _matrix(adata: Any, name: str, place: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """A dense matrix with finite values, and the names of its columns."""
    group, _, key = place.partition("/")
    known = {"X": {"": adata.X}, "layers": adata.layers, "obsm": adata.obsm}
    if group not in known or key not in known[group]:
        places = ["X", *(f"{g}/{k}" for g in ("layers", "obsm") for k in known[g])]
        raise DataError(f"modality {name!r}: {unknown_name('matrix', place, places)}")
    x = known[group][key]
    columns = tuple(map(str, getattr(x, "columns", () if group == "obsm" else adata.var_names)))
    if hasattr(x, "toarray"):
        check_memory(8 * x.shape[0] * x.shape[1], f"the dense matrix of {name!r}")
        x = x.toarray()
    values = np.asarray(x)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        what = f"shape {values.shape} of {values.dtype}"
        msg = f"modality {name!r}, {place}: expected a matrix of numbers, got {what}"
        raise DataError(msg)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        cell = adata.obs_names[bad[0][0]]
        msg = f"modality {name!r}, {place}, cell {cell!r}: {values[tuple(bad[0])]} is no number"
        raise DataError(msg)
    return values, columns


def _column(obs: Any, column: str) -> NDArray[Any]:
    """Texts and few whole numbers as levels, other numbers as they are."""
    if column not in obs:
        raise DataError(unknown_name("column of obs", column, [*map(str, obs.columns)]))
    missing = np.asarray(obs[column].isna())
    if missing.any():
        cell = obs.index[int(np.argmax(missing))]
        msg = f"covariate {column!r} is missing for cell {cell!r}: remove such cells first"
        raise DataError(msg)
    values = np.asarray(obs[column])
    if values.dtype.kind not in "biuf":
        return values.astype(np.str_)
    is_whole = values.dtype.kind in "biu" and len(np.unique(values)) <= LEVELS
    return values if is_whole else values.astype(np.float64)
