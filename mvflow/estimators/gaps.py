"""Values that are absent from what is given: masks, and calibrated intervals of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import (
    COVARIATES,
    PRESENT,
    Source,
    UsageError,
    as_numbers,
    by_modality,
    check_seed,
    derive_seed,
    generator,
    unmask,
)
from mvflow.estimators.empty_rows import check_any_given
from mvflow.metrics import (
    CalibratedIntervals,
    central_intervals,
    conformal_quantile,
    interval_scores,
)
from mvflow.nn import GapsNetwork

if TYPE_CHECKING:
    from mvflow.estimators.generative import GenerativeEstimator

__all__ = [
    "calibrated_gaps",
    "given_rows",
    "given_with_masks",
    "kinds_of_rows",
    "margins",
    "spread",
]

Mask = NDArray[np.bool_]

FOLDS = 10
"""Parts of the values of held-out rows, each of which is hidden once and predicted."""
MAX_ROWS = 2000
LEVELS = (0.5, 0.8, 0.9, 0.95)


def given_with_masks(given: Any) -> tuple[dict[str, Any], dict[str, Mask]]:
    """Arrays that were given, and masks of those of which something is absent.

    Absent is what a mask `present/NAME` or a masked array says, and NaN.

    Args:
        given: name -> (rows, *shape); or a data frame whose columns have two levels, modality and
            column.

    Raises:
        UsageError: if it is neither.

    Examples:
        >>> x, present = given_with_masks({"a": [[1.0, np.nan]], "b": [[2.0]]})
        >>> x["a"].tolist(), {name: mask.tolist() for name, mask in present.items()}
        ([[1.0, nan]], {'a': [[True, False]]})
    """
    given = by_modality(given)
    if not isinstance(given, Mapping):
        msg = (
            f"what is given is a {type(given).__name__}: expected a dict from modality to array, "
            "or a data frame whose columns have two levels, modality and column"
        )
        raise UsageError(msg)
    masks = {k.removeprefix(PRESENT): mask for k, mask in given.items() if k.startswith(PRESENT)}
    values, present = unmask({k: x for k, x in given.items() if not k.startswith(PRESENT)}, masks)
    for name, x in values.items():
        if "/" in name:
            continue
        values[name] = x = as_numbers(x, f"modality {name!r}")
        if x.dtype.kind == "f" and (missing := np.isnan(x)).any():
            mask = present.get(name, np.ones(len(x), np.bool_))
            present[name] = spread(mask, x.ndim) & ~missing
    return values, {name: mask for name, mask in present.items() if not mask.all()}


def given_rows(values: Mapping[str, Any], present: Mapping[str, Mask]) -> Mask:
    """Rows of which something is given, bool (rows,); none where no modality is given.

    Raises:
        UsageError: if nothing is given of any row.

    Examples:
        >>> given_rows({"a": np.zeros((2, 1))}, {"a": np.array([True, False])})
        array([ True, False])
    """
    there = {n: _rows_there(x, present.get(n)) for n, x in values.items() if "/" not in n}
    if not there:
        return np.ones(0, np.bool_)
    has = np.asarray(np.logical_or.reduce([*there.values()]), np.bool_)
    check_any_given(has, there)
    return has


def kinds_of_rows(
    values: Mapping[str, Any], present: Mapping[str, Mask]
) -> Iterator[tuple[tuple[str, ...], NDArray[np.int64]]]:
    """Names of modalities of which a row has something, and the rows that have just these.

    Examples:
        >>> x = {"a": np.zeros((2, 1)), "b": np.zeros((2, 1))}
        >>> for names, rows in kinds_of_rows(x, {"b": np.array([True, False])}):
        ...     print(names, rows)
        ('a',) [1]
        ('a', 'b') [0]
    """
    names = sorted(name for name in values if "/" not in name)
    rows = len(values[names[0]])
    has = np.ones((rows, len(names)), np.bool_)
    for i, name in enumerate(names):
        has[:, i] = _rows_there(values[name], present.get(name))
    kinds, which = np.unique(has, axis=0, return_inverse=True)
    for i, kind in enumerate(kinds):
        chosen = tuple(n for n, there in zip(names, kind, strict=True) if there)
        yield chosen, np.flatnonzero(which.reshape(-1) == i)


def margins(
    intervals: CalibratedIntervals,
    target: str,
    level: float,
    values: Mapping[str, Any],
    present: Mapping[str, Mask],
) -> NDArray[np.float64]:
    """By how much intervals of each row are widened, (rows, columns), by what the row has.

    Raises:
        UsageError: if nothing was measured of this target given as much.
    """
    kinds = list(kinds_of_rows(values, present))
    wide = [intervals.margin(target, names, level) for names, _ in kinds]
    out = np.empty((sum(len(rows) for _, rows in kinds), len(wide[0])))
    for margin, (_, rows) in zip(wide, kinds, strict=True):
        out[rows] = margin
    return out


def calibrated_gaps(
    model: GenerativeEstimator,
    rows: Source,
    *,
    levels: Sequence[float] = LEVELS,
    n: int = 100,
    seed: int | None = 0,
) -> CalibratedIntervals:
    """Margins of intervals of single values; see `Estimator.calibrate_gaps`."""
    seed, batch = check_seed(seed), rows.take(_some(len(rows)))
    columns = {k: x for k, x in batch.items() if k.startswith(COVARIATES)}
    values, present = given_with_masks({k: x for k, x in batch.items() if k not in columns})
    names = sorted(values)
    here = {n: _values_there(x, present.get(n)) for n, x in values.items() if x.ndim == 2}

    def scores(
        path: str | int, hidden: Mapping[str, Mask], given: Sequence[str] = names
    ) -> dict[str, NDArray[np.float64]]:
        """(levels, rows, columns): how far hidden values lie outside of intervals; NaN else."""
        masks = {**present, **{n: here[n] & ~mask for n, mask in hidden.items()}}
        masks = {n: mask for n, mask in masks.items() if n in given}
        some = np.any([_rows_there(values[n], masks.get(n)) for n in given], axis=0)
        seen = {**{n: values[n] for n in given}, **columns}
        seen |= {PRESENT + n: mask for n, mask in masks.items()}
        options: dict[str, Any] = {"seed": derive_seed(seed, "gaps", path), "noise": True}
        drawn = model.generate(
            {k: x[some] for k, x in seen.items()}, n, targets=[*hidden], **options
        )
        found = {}
        for name, draws in drawn.items():
            found[name] = np.full((len(levels), *here[name].shape), np.nan)
            for i, (low, high) in enumerate(central_intervals(draws, levels)):
                outside = interval_scores(values[name][some], low, high)
                found[name][i, some] = np.where(hidden[name][some], outside, np.nan)
        return found

    # single values can be hidden where the encoder was trained to miss some
    sections = model.config.modalities
    folds = {
        n: generator(seed, "gaps", n).integers(FOLDS, size=x.shape)
        for n, x in here.items()
        if isinstance(sections[n].encoder, GapsNetwork)
    }
    single = [
        scores(k, {n: here[n] & (fold == k) for n, fold in folds.items()})
        for k in range(FOLDS if folds else 0)
    ]
    kinds = [kind for kind, _ in kinds_of_rows(values, present) if kind]
    out = {}
    for name in here:
        if name in folds:
            outside = np.stack([of[name] for of in single])
            of_each = np.where(np.isnan(outside).all(0), np.nan, np.nan_to_num(outside).sum(0))
            out[f"{'+'.join(names)}->{name}"] = _quantiles(of_each, levels)
        others = tuple(n for n in names if n != name)
        for given in {others, *(kind for kind in kinds if name not in kind)} - {()}:
            path = f"{'+'.join(given)}->{name}"
            whole = scores(path, {name: here[name]}, given)[name]
            has_all = np.all([_rows_there(values[n], present.get(n)) for n in given], axis=0)
            out[path] = _quantiles(whole[:, has_all], levels)
    return CalibratedIntervals(tuple(levels), n, out)


def _values_there(x: NDArray[Any], mask: Mask | None) -> Mask:
    """Which values are present, of the shape of the array."""
    return np.array(np.broadcast_to(True if mask is None else spread(mask, x.ndim), x.shape))


def _rows_there(x: NDArray[Any], mask: Mask | None) -> Mask:
    """Rows of which something is present."""
    there = np.ones(len(x), np.bool_) if mask is None else mask
    return np.asarray(there.reshape(len(x), -1).any(1), np.bool_)


def _some(rows: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, rows - 1, min(rows, MAX_ROWS)).astype(np.int64))


def _quantiles(scores: NDArray[np.float64], levels: Sequence[float]) -> NDArray[np.float64]:
    """Conformal quantiles of each column, (levels, columns), of the rows that have a score."""
    return np.stack(
        [
            [conformal_quantile(column[~np.isnan(column)], level) for column in of.T]
            for of, level in zip(scores, levels, strict=True)
        ]
    )


def spread(mask: Mask, dimensions: int) -> Mask:
    """A mask of rows or of values with as many dimensions as an array, to be broadcast."""
    return mask.reshape(*mask.shape, *[1] * (dimensions - mask.ndim))
