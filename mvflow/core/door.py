"""The door: whatever a user hands over becomes a plain NumPy array here, or one clear sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core.errors import DataError, UsageError

__all__ = [
    "UNLABELLED",
    "as_array",
    "as_numbers",
    "check_count",
    "check_labels",
    "check_seed",
    "unmask_labels",
]

UNLABELLED = -1
"""Label of a row whose class is not known."""


def as_array(values: Any, what: str) -> NDArray[Any]:
    """A plain array of arrays, lists, series or torch tensors of any device and precision.

    Args:
        values: what was handed over.
        what: names it in messages, such as "modality 'a'".

    Raises:
        DataError: if values are masked, complex, or no rectangular array.

    Examples:
        >>> as_array(["a", "b"], "covariate 'batch'").shape
        (2,)
    """
    if isinstance(values, np.ma.MaskedArray):
        at = np.argwhere(np.ma.getmaskarray(values))
        if len(at):
            msg = f"{what}, row {at[0][0]} has a masked value: impute or remove such rows first"
            raise DataError(msg)
        values = values.data
    for step in ("detach", "cpu"):  # a torch tensor, whose module is not imported here
        values = getattr(values, step)() if hasattr(values, step) else values
    if str(getattr(values, "dtype", "")) == "torch.bfloat16":
        values = values.float()
    try:
        x = np.asarray(values)
    except (TypeError, ValueError) as error:
        msg = f"{what}: expected an array of numbers with one row each ({error})"
        raise DataError(msg) from error
    if x.dtype.kind == "c":
        msg = f"{what} is complex: give real and imaginary parts as two features, or the modulus"
        raise DataError(msg)
    return x.copy() if min(x.strides, default=0) < 0 else x  # flipped: torch takes no such views


def as_numbers(values: Any, what: str, expected: str = "numbers") -> NDArray[Any]:
    """A plain array of the numbers in arrays, lists, data frames or torch tensors of any device.

    Args:
        values: what was handed over; what a data frame lacks is NaN.
        what: names it in messages, such as "modality 'a'".
        expected: says in messages what should have come.

    Raises:
        DataError: if values are masked, complex, no numbers, or no rectangular array.

    Examples:
        >>> as_numbers([[1, 2]], "modality 'a'").shape
        (1, 2)
    """
    x = as_array(_frame(values, what) if hasattr(values, "infer_objects") else values, what)
    if x.ndim == 0 or isinstance(values, bytearray | memoryview):
        kind = type(values).__name__
        msg = f"{what}: expected an array of numbers with one row each, not {kind}"
        raise DataError(msg)
    if x.dtype.kind not in "biuf":
        msg = f"{what}: values of type {x.dtype}, expected {expected}"
        raise DataError(msg)
    return x


def _frame(values: Any, what: str) -> NDArray[Any]:
    """Numbers of a data frame or series of pandas."""
    values = values.infer_objects()
    columns = values.items() if values.ndim == 2 else [(values.name, values)]
    for name, column in columns:
        if column.dtype.kind not in "biuf":
            msg = (
                f"{what}: values of type {column.dtype} in column {name!r}, expected numbers; "
                "drop such columns, or encode them (pandas.get_dummies)"
            )
            raise DataError(msg)
    x: NDArray[Any] = values.to_numpy()
    return x if x.dtype.kind in "biuf" else values.to_numpy(np.float64, na_value=np.nan)


def unmask_labels(labels: Any) -> Any:
    """Labels with -1 in place of what NumPy's masked arrays mask."""
    if not isinstance(labels, np.ma.MaskedArray):
        return labels
    return np.where(np.ma.getmaskarray(labels), np.int64(UNLABELLED), labels.data)


def check_labels(labels: ArrayLike) -> NDArray[np.int64]:
    """Class of each row, as whole numbers from 0, and -1 where it is not known.

    Args:
        labels: (rows,); of NumPy's masked arrays, what is masked is not known.

    Raises:
        DataError: if there are texts, fractions, or missing or other negative numbers.

    Examples:
        >>> check_labels([0, 2.0, -1]), check_labels(np.ma.masked_equal([0, 9], 9))
        (array([ 0,  2, -1]), array([ 0, -1]))
    """
    x = as_numbers(
        unmask_labels(labels),
        "labels",
        "whole numbers from 0; np.unique(labels, return_inverse=True) makes them of names",
    )
    if x.ndim != 1:
        msg = f"labels have shape {x.shape}: expected one class for each row, (rows,)"
        raise DataError(msg)
    with np.errstate(invalid="ignore"):
        bad = ~((x >= UNLABELLED) & (x < 2**31) & (x == np.floor(x)))
    if bad.any():
        row = int(np.argmax(bad))
        msg = (
            f"label of row {row} is {x[row]}: expected a whole number from 0, "
            f"or {UNLABELLED} where the class is not known"
        )
        raise DataError(msg)
    return x.astype(np.int64)


def check_seed(seed: Any) -> int:
    """A seed as a number; None is one that nobody has seen before.

    Raises:
        UsageError: if it is not a whole number from 0.

    Examples:
        >>> check_seed(3), check_seed(None) == check_seed(None)
        (3, False)
    """
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint32)[0])
    return _whole(seed, "seed", 0, "a whole number from 0, or None for fresh draws")


def check_count(n: Any) -> int:
    """How many draws there are to be.

    Raises:
        UsageError: if it is not a whole number from 1.
    """
    return _whole(n, "n", 1, "at least one draw, as a whole number")


def _whole(value: Any, name: str, minimum: int, expected: str) -> int:
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < minimum:
        msg = f"{name}={value!r}: expected {expected}"
        raise UsageError(msg)
    return int(value)
