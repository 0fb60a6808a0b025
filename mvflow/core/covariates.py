"""Covariates: what is known of each row and never generated, such as its batch or its age."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core.door import as_array
from mvflow.core.errors import DataError, UsageError, unknown_name

__all__ = ["COVARIATES", "Covariate", "check_covariates", "covariate_columns"]

COVARIATES = "covariates/"
"""Columns of a source whose names begin so are covariates, encoded."""

MAX_LEVELS = 1000
"""Levels that a covariate may have: more are an identifier or numbers."""


@dataclass(frozen=True, slots=True)
class Covariate:
    """A covariate and how networks see it: indicators of its levels, or one standardised number.

    Args:
        name: letters, digits, `_` and `-`.
        levels: names of the classes of a categorical covariate; None: it is a number.
        mean: of a number, subtracted.
        scale: of a number, divided by: its standard deviation.

    Raises:
        DataError: if a field cannot be used.

    Examples:
        >>> batch = Covariate("batch", ("A", "B"))
        >>> batch.encode(["B", "A"]), batch.width
        (array([[0., 1.], [1., 0.]], dtype=float32), 2)
        >>> Covariate("age", mean=40.0, scale=10.0).encode([50, 35])
        array([[ 1. ], [-0.5]], dtype=float32)
    """

    name: str
    levels: tuple[str, ...] | None = None
    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name):
            msg = (
                f"covariate name {self.name!r} is not usable: "
                "use letters, digits, '_' or '-', and begin with a letter or a digit"
            )
            raise DataError(msg)
        if self.levels is not None:
            levels = tuple(map(str, self.levels))
            object.__setattr__(self, "levels", levels)
            if not levels or len(set(levels)) != len(levels):
                msg = f"covariate {self.name!r} needs one or more levels, all different: {levels}"
                raise DataError(msg)
        if not (np.isfinite(self.mean) and np.isfinite(self.scale) and self.scale > 0):
            msg = (
                f"covariate {self.name!r} has mean {self.mean} and scale {self.scale}: "
                "expected a number and a positive number"
            )
            raise DataError(msg)

    @classmethod
    def of(cls, name: str, values: Any) -> Covariate:
        """The covariate that values are of: texts, truth values and whole numbers are classes.

        Raises:
            DataError: if values are missing, or there are more classes than a covariate can have.

        Examples:
            >>> Covariate.of("batch", [2, 1, 2]).levels, Covariate.of("dose", [0.0, 2.0]).scale
            (('1', '2'), 1.0)
        """
        x = _column(name, values)
        if x.dtype.kind == "f":
            scale = float(x.std()) if len(x) else 1.0
            return cls(name, None, float(x.mean()) if len(x) else 0.0, scale or 1.0)
        levels = np.unique(x)
        if len(levels) > MAX_LEVELS:
            msg = (
                f"covariate {name!r} has {len(levels)} different values, more than the "
                f"{MAX_LEVELS} that a class can have: give numbers as floats"
            )
            raise DataError(msg)
        return cls(name, tuple(map(str, levels)))

    @property
    def width(self) -> int:
        """Number of features that networks see."""
        return 1 if self.levels is None else len(self.levels)

    def encode(self, values: Any, rows: int | None = None) -> NDArray[np.float32]:
        """Values as networks see them, (rows, width).

        Args:
            values: (rows,), names of levels or numbers; or one of them, for all rows.
            rows: how many there are, where one value stands for all.

        Raises:
            DataError: if a value is missing or not one of the levels, or their number is not
                that of the rows.
        """
        x = _column(self.name, values)
        if rows is not None and x.ndim == 0:
            x = np.broadcast_to(x, (rows,))
        x = np.atleast_1d(x)
        if rows is not None and len(x) != rows:
            msg = f"covariate {self.name!r} has {len(x)} values for {rows} rows: give one for each"
            raise DataError(msg)
        if self.levels is None:
            return ((self._numbers(x) - self.mean) / self.scale).astype(np.float32)[:, None]
        names, codes = np.unique(x.astype(str), return_inverse=True)
        places = {level: i for i, level in enumerate(self.levels)}
        for name in names:
            if name not in places:
                what = f"level of covariate {self.name!r}"
                raise DataError(unknown_name(what, str(name), places))
        at = np.array([places[name] for name in names], np.int64)
        return np.eye(len(self.levels), dtype=np.float32)[at[codes]]

    def _numbers(self, x: NDArray[Any]) -> NDArray[np.float64]:
        try:
            return x.astype(np.float64)
        except ValueError as error:
            msg = f"covariate {self.name!r} is a number in the model, but has {error.args[0]}"
            raise DataError(msg) from error

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the name.

        Examples:
            >>> Covariate("batch", ("A", "B")).to_dict()
            {'levels': ['A', 'B']}
        """
        if self.levels is not None:
            return {"levels": list(self.levels)}
        return {"levels": None, "mean": self.mean, "scale": self.scale}

    @classmethod
    def from_dict(cls, name: str, raw: Mapping[str, Any]) -> Covariate:
        """From JSON that `to_dict` gave."""
        levels = raw.get("levels")
        chosen = None if levels is None else tuple(levels)
        return cls(name, chosen, float(raw.get("mean", 0.0)), float(raw.get("scale", 1.0)))


def covariate_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a source's columns that are covariates.

    Examples:
        >>> covariate_columns({"rna": 1, "covariates/batch": 2})
        {'covariates/batch': 2}
    """
    return {name: x for name, x in columns.items() if name.startswith(COVARIATES)}


def check_covariates(given: Mapping[str, Covariate], expected: Iterable[Covariate]) -> None:
    """Check that rows have the covariates of a model, encoded as it was trained.

    Raises:
        DataError: naming the first that is missing or encoded otherwise.
    """
    for wanted in expected:
        own = given.get(wanted.name)
        if own is None:
            has = f"its covariates are {', '.join(given)}" if given else "it has none"
            msg = (
                f"the model has the covariate {wanted.name!r}, but the data do not ({has}): "
                f"give covariates={{{wanted.name!r}: values}}"
            )
            raise DataError(msg)
        if own != wanted:
            msg = (
                f"covariate {wanted.name!r} of the data is {_described(own)}, "
                f"but of the model {_described(wanted)}"
            )
            raise DataError(msg)


def _described(covariate: Covariate) -> str:
    if covariate.levels is None:
        return f"a number of mean {covariate.mean:g} and scale {covariate.scale:g}"
    return f"one of {', '.join(covariate.levels)}"


def _column(name: str, values: Any) -> NDArray[Any]:
    x = as_array(values, f"covariate {name!r}")
    if x.ndim > 1:
        msg = f"covariate {name!r} has shape {x.shape}: expected one value for each row, (rows,)"
        raise UsageError(msg)
    if x.dtype.kind == "O":
        missing = [v is None or v != v for v in np.atleast_1d(x)]
        x = x if any(missing) else np.array(x.tolist())
    elif x.dtype.kind == "f":
        missing = ~np.isfinite(np.atleast_1d(x))
    else:
        return x
    if np.any(missing):
        msg = (
            f"covariate {name!r} is missing in row {int(np.argmax(missing))}: "
            "every row needs a value; call what is not known a level of its own"
        )
        raise DataError(msg)
    return x
