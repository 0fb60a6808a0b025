"""Covariates of imported rows: classes or numbers, as their values suggest or as the user says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Covariate, DataError
from mvflow_datasets.importing.layout import is_number

__all__ = ["KINDS", "covariate_of", "describe_covariate"]

KINDS = ("categorical", "continuous")
MAX_CLASSES = 20


def covariate_of(
    name: str, values: NDArray[np.generic], train: NDArray[np.int64], kind: str | None = None
) -> Covariate:
    """How a covariate is encoded: classes have a level each, numbers are standardised.

    Texts are classes, and so are at most 20 different whole numbers.

    Args:
        name: of the covariate.
        values: (rows,) of all rows.
        train: rows whose mean and deviation are used.
        kind: `categorical` or `continuous`, where the user has said it.

    Raises:
        DataError: if they are texts, but are to be numbers, or do not vary.

    Examples:
        >>> covariate_of("age", np.array([30.5, 50.5, 10.0]), np.array([0, 1])).mean
        40.5
        >>> covariate_of("batch", np.array(["2", "10"]), np.array([0])).levels
        ('2', '10')
    """
    texts = values.astype(np.str_)
    distinct = np.unique(texts)
    are_numbers = values.dtype.kind in "iuf" or all(map(is_number, distinct.tolist()))
    if kind is None:
        numbers = distinct.astype(np.float64) if are_numbers else np.empty(0)
        is_continuous = are_numbers and (
            len(distinct) > MAX_CLASSES or bool((numbers != np.floor(numbers)).any())
        )
        kind = KINDS[is_continuous]
    if kind == "categorical":
        order = np.argsort(distinct.astype(np.float64)) if are_numbers else slice(None)
        return Covariate(name, tuple(distinct[order].tolist()))
    if not are_numbers:
        odd = next(text for text in distinct.tolist() if not is_number(text))
        msg = f"covariate {name!r} is to be continuous, but has the value {odd!r}"
        raise DataError(msg)
    chosen = values[train].astype(np.float64)
    scale = float(chosen.std())
    if not scale > 0:
        msg = f"covariate {name!r} is {chosen[0]:g} in all rows to train on: leave it out"
        raise DataError(msg)
    return Covariate(name, None, float(chosen.mean()), scale)


def describe_covariate(covariate: Covariate) -> str:
    """A line of the report on what was imported."""
    if covariate.levels is None:
        moments = f"mean {covariate.mean:.4g}, standard deviation {covariate.scale:.4g}"
        return f"covariate {covariate.name}: numbers, {moments} (--covariate-kind)"
    shown = ", ".join(covariate.levels[:8]) + ("..." if len(covariate.levels) > 8 else "")
    return (
        f"covariate {covariate.name}: {len(covariate.levels)} classes ({shown}) (--covariate-kind)"
    )
