"""Units that suit the rows to train on: which transform each column gets, and its moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Knots, Units
from mvflow.likelihoods.count_tables import is_count_table

__all__ = [
    "TRANSFORMS",
    "Transform",
    "fit_sparse_units",
    "fit_units",
    "known_values",
    "moments",
    "suggested_transform",
]

Transform = Literal["none", "standardise", "log1p", "quantile"]
TRANSFORMS: tuple[str, ...] = get_args(Transform)
MAX_KNOTS = 1000
STILL = 1e-7
"""Columns with less deviation than this share of their mean count as constant."""


def known_values(values: NDArray[Any]) -> NDArray[Any]:
    """The values themselves, or in one dimension those that are not absent (NaN)."""
    if values.dtype.kind != "f" or not (absent := np.isnan(values)).any():
        return values
    return values[~absent]


def moments(x: NDArray[Any], axes: tuple[int, ...] = (0,)) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and standard deviation of the values that are not absent (NaN).

    Examples:
        >>> moments(np.array([[1.0, np.nan], [3.0, 5.0]]))
        (array([2., 5.]), array([1., 0.]))
    """
    mean: Any = np.mean
    std: Any = np.std
    if known_values(x).size < x.size:
        mean, std = np.nanmean, np.nanstd
    return mean(x, axes, dtype=np.float64), std(x, axes, dtype=np.float64)


def suggested_transform(used: NDArray[Any], train: NDArray[Any]) -> str:
    """log1p for counts, none for what is standardised already, else standardise."""
    if is_count_table(used):
        return "log1p"
    mean, spread = moments(train)
    already = (np.abs(mean) < 0.2).all() and ((spread > 0.8) & (spread < 1.25)).all()
    return "none" if already else "standardise"


def fit_units(train: NDArray[Any], steps: Sequence[str], *, is_image: bool) -> Units:
    """Units in which the rows to train on have mean 0 and standard deviation 1.

    Args:
        train: (rows, *shape); what is NaN is absent, and leaves the units as they are.
        steps: the transform of each column of a table, or a single one for all values; `none`
            leaves values alone.
        is_image: whether all values share one mean and one deviation.

    Examples:
        >>> x = np.array([[0.0, 5], [2, 7]])
        >>> units = fit_units(x, ["standardise", "none"], is_image=False)
        >>> units.shift, units.scale
        (array([1., 0.]), array([1., 1.]))
    """
    if set(steps) == {"none"}:
        return Units()
    shape = (1,) * (train.ndim - 1) if is_image else train.shape[1:]
    log1p: Any = np.array([step == "log1p" for step in steps])
    log1p = bool(log1p[0]) if len(steps) == 1 else log1p
    all_steps = list(steps) * (train.shape[1] if len(steps) == 1 else 1)
    knots = {j: _knots(train[:, j]) for j, step in enumerate(all_steps) if step == "quantile"}
    axes = tuple(range(train.ndim)) if is_image else (0,)
    x = Units(log1p=log1p, knots=knots).apply(train)
    shift, scale = (moment.reshape(shape) for moment in moments(x, axes))
    scale = np.where(scale <= STILL * np.maximum(1, np.abs(shift)), 1.0, scale)
    if "none" in steps:
        is_kept = np.array(steps) == "none"
        shift, scale = np.where(is_kept, 0.0, shift), np.where(is_kept, 1.0, scale)
    return Units(shift=shift, scale=scale, log1p=log1p, knots=knots)


def fit_sparse_units(train: Any, step: str) -> Units:
    """Units of a sparse matrix, in which zeros stay zeros: deviations of 1, means as they are."""
    if step == "none":
        return Units()
    values = train.astype(np.float64)
    values.data = np.log1p(values.data) if step == "log1p" else values.data
    mean = np.asarray(values.mean(axis=0)).reshape(-1)
    square = np.asarray(values.multiply(values).mean(axis=0)).reshape(-1)
    scale = np.sqrt(np.maximum(square - mean**2, 0))
    scale = np.where(scale <= STILL * np.maximum(1, np.abs(mean)), 1.0, scale)
    return Units(scale=scale, log1p=step == "log1p")


def _knots(column: NDArray[Any]) -> Knots:
    """Distinct values, and the normal quantiles of the mean ranks of each."""
    from scipy.special import ndtri

    known = known_values(column.astype(np.float64))
    distinct, counts = np.unique(known, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / len(known)
    if len(distinct) > MAX_KNOTS:
        chosen = np.unique(np.linspace(0, len(distinct) - 1, MAX_KNOTS).round().astype(int))
        distinct, ranks = distinct[chosen], ranks[chosen]
    if len(distinct) == 1:
        distinct, ranks = np.append(distinct, distinct + 1), np.array([0.5, 0.8])
    return Knots(distinct, ndtri(ranks))
