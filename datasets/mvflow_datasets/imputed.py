"""What a model fills in: means and intervals in the units and names of the files, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mvflow.core import Modality, Units, UsageError
from mvflow.core.files import replacing
from mvflow.likelihoods import within_bounds
from mvflow.metrics import central_intervals
from mvflow_datasets.importing.frames import as_frame

__all__ = [
    "FORMATS",
    "Imputed",
    "in_all_rows",
    "summarise_draws",
    "with_given",
    "write_imputed",
]

UNLIKE = "unlike training"
FORMATS = (".csv", ".tsv", ".parquet", ".h5ad")


@dataclass(frozen=True, slots=True, eq=False)
class Imputed:
    """One modality of some rows as predicted: tables of equal columns and rows.

    Args:
        mean: of numbers; of classes and grades the most frequent.
        lower: lower ends of central intervals; of classes the share of draws that agree.
        upper: upper ends; of classes the same share.
    """

    mean: pd.DataFrame
    lower: pd.DataFrame
    upper: pd.DataFrame


def summarise_draws(
    draws: ArrayLike,
    modality: Modality,
    units: Units,
    level: float = 0.9,
    *,
    margin: ArrayLike = 0.0,
    row_names: Sequence[str] | None = None,
) -> Imputed:
    """Means and central intervals of predictive draws, in the units of the files.

    Args:
        draws: (draws, rows, columns), or (draws, rows) classes, with the likelihood's noise.
        modality: their specification; rows that are no vectors are taken value by value.
        units: of the modality.
        level: share of the draws inside an interval.
        margin: by how much intervals are widened, in the units of the store.
        row_names: index of the tables.

    Examples:
        >>> draws = np.arange(1.0, 20.0)[:, None, None] + np.zeros((19, 2, 1))
        >>> table = summarise_draws(draws, Modality("a", (1,)), Units(("x",), scale=2.0))
        >>> table.mean["x"].tolist(), table.lower["x"].round(6).tolist()
        ([20.0, 20.0], [2.0, 2.0])
    """
    x = np.asarray(draws)
    if units.classes:
        levels = {0: units.classes}
        x = x[..., None]
    else:
        x = x.reshape(*x.shape[:2], -1)
        levels = {units.names.index(name): of for name, of in units.levels.items()}
    ends = central_intervals(x, [level])[0]
    ends += np.array([-1.0, 1.0])[:, None, None] * np.asarray(margin)
    if not units.classes:
        ends = np.stack(within_bounds(modality, *ends))
    plain = Units(units.names, (), {}, units.shift, units.scale, units.log1p, units.knots)
    shape = modality.shape if not units.classes else (1,)
    whole = [plain.restore(v.reshape(-1, *shape)).reshape(v.shape) for v in (x, *ends)]
    mean, low, high = whole[0].mean(0), whole[1], whole[2]
    for column in levels:
        mean[:, column], share = _most_frequent(x[..., column])
        low[:, column] = high[:, column] = share
    names = Units(units.names, levels=units.levels)
    frame = as_frame(mean, names, row_names)
    if units.classes:
        frame[frame.columns[0]] = np.array(units.classes)[mean[:, 0].astype(np.int64)]
        frame.columns = [modality.name]
    bounds = [pd.DataFrame(end, frame.index, frame.columns) for end in (low, high)]
    return Imputed(frame, *bounds)


def with_given(table: Imputed, given: ArrayLike, absent: ArrayLike, units: Units) -> Imputed:
    """The same table with what was given as it was, and without intervals of it.

    Args:
        table: all values as predicted.
        given: (rows, *shape) in the units of the file; classes of texts as their numbers.
        absent: bool of that shape, what was filled in.
        units: of the modality.

    Examples:
        >>> made = pd.DataFrame({"x": [1.0, 2.0]})
        >>> both = with_given(Imputed(made, made - 1, made + 1), [[5.0], [np.nan]],
        ...     [[False], [True]], Units(("x",)))
        >>> both.mean["x"].tolist(), both.lower["x"].tolist()
        ([5.0, 2.0], [nan, 1.0])
    """
    shape = table.mean.shape
    filled = np.asarray(absent).reshape(shape)
    known = as_frame(
        np.where(filled, 0, np.asarray(given).reshape(shape)),
        Units(levels=units.levels, names=units.names),
    )
    known.index, known.columns = table.mean.index, table.mean.columns
    ends = (end.astype(np.float64).where(filled) for end in (table.lower, table.upper))
    return Imputed(table.mean.where(filled, known), *ends)


def in_all_rows(
    table: Imputed, has: NDArray[np.bool_], row_names: Sequence[str] | None = None
) -> Imputed:
    """The same table among all rows, of which the others are empty.

    Args:
        table: of some rows.
        has: bool (all rows,), which those are.
        row_names: of all rows.

    Examples:
        >>> made = pd.DataFrame({"x": [1.0]})
        >>> in_all_rows(Imputed(made, made, made), np.array([False, True])).mean["x"].tolist()
        [nan, 1.0]
    """

    def spread(frame: pd.DataFrame) -> pd.DataFrame:
        placed = frame.set_axis(np.flatnonzero(has)).reindex(range(len(has)))
        names = range(len(has)) if row_names is None else row_names
        return placed.set_axis(pd.Index(names, name=frame.index.name))

    return Imputed(*map(spread, (table.mean, table.lower, table.upper)))


def write_imputed(
    path: Path,
    tables: Mapping[str, Imputed],
    level: float,
    *,
    unlike: ArrayLike | None = None,
) -> None:
    """Write what was filled in, whole or not at all.

    A text table or Parquet has for each column its mean and two more with the ends of its
    interval; with several modalities, columns are called `MODALITY:COLUMN`. An `.h5ad` has the
    means as `X` and the ends as layers `lower` and `upper`. Rows marked as `unlike` those of
    training have True in the last column, or in `obs`.

    Raises:
        DataError: if it cannot be written.
        UsageError: if the suffix is unknown, or the format cannot hold the tables.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        msg = f"{path} ends in {suffix!r}: known are {', '.join(FORMATS)}"
        raise UsageError(msg)
    if suffix == ".h5ad":
        made = _annotated(path, tables)
        if unlike is not None:
            made.obs[UNLIKE] = np.asarray(unlike)
        with replacing(path) as temporary:
            made.write_h5ad(temporary)
        return
    frame = _side_by_side(tables, level)
    if unlike is not None:
        frame[UNLIKE] = np.asarray(unlike)
    with replacing(path) as temporary:
        if suffix == ".parquet":
            frame.to_parquet(temporary)
        else:
            frame.to_csv(temporary, sep="\t" if suffix == ".tsv" else ",")


def _most_frequent(codes: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The most frequent code over the draws of each row, and its share."""
    rounded = np.rint(codes).astype(np.int64)
    counts = np.stack([(rounded == k).sum(0) for k in range(rounded.max() + 1)])
    best = counts.argmax(0)
    return best.astype(np.float64), counts.max(0) / len(rounded)


def _side_by_side(tables: Mapping[str, Imputed], level: float) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    ends = [f" [{100 * share:g} %]" for share in ((1 - level) / 2, (1 + level) / 2)]
    for target, table in tables.items():
        for name in table.mean.columns:
            label = f"{target}:{name}" if len(tables) > 1 else str(name)
            columns[label] = table.mean[name]
            if table.mean[name].dtype.kind in "biuf":
                columns[label + ends[0]], columns[label + ends[1]] = (
                    table.lower[name],
                    table.upper[name],
                )
            else:
                columns[f"{label} [share]"] = table.lower[name]
    return pd.DataFrame(columns)


def _annotated(path: Path, tables: Mapping[str, Imputed]) -> Any:
    if len(tables) > 1:
        msg = f"{path} holds one modality: choose one with --targets, or write a .csv"
        raise UsageError(msg)
    table = next(iter(tables.values()))
    if any(dtype.kind not in "biuf" for dtype in table.mean.dtypes):
        msg = f"{path} holds numbers, but classes are filled in: write a .csv or a .parquet"
        raise UsageError(msg)
    try:
        from anndata import AnnData
    except ImportError as error:
        msg = f"{path} is written by anndata: pip install 'mvflow[omics]'"
        raise UsageError(msg) from error
    names = pd.DataFrame(index=table.mean.index.map(str))
    columns = pd.DataFrame(index=table.mean.columns.map(str))
    ends = {"lower": table.lower.to_numpy(), "upper": table.upper.to_numpy()}
    return AnnData(table.mean.to_numpy(), obs=names, var=columns, layers=ends)
