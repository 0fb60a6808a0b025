"""What is known of some rows, in training and at inference."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from mvflow.core.arrays import Array, namespace

__all__ = ["Observed"]

_GROUPS = ("present", "covariates", "cached")


class Observed(NamedTuple):
    """Values of the observed modalities, which of them are present, and what comes with them.

    Examples:
        >>> import numpy as np
        >>> batch = Observed.from_columns({"rna": np.zeros((4, 3)), "cached/mean": np.ones(4)})
        >>> list(batch.x), list(batch.cached), batch.rows
        (['rna'], ['mean'], 4)
        >>> some = Observed({"rna": np.array([[1.0], [np.nan]])}, {"rna": np.array([True, False])})
        >>> some.filled("rna").tolist(), some.is_present("rna").tolist()
        ([[1.0], [0.0]], [True, False])
    """

    x: Mapping[str, Array]
    """Modality -> (rows, *shape); a modality that is absent is not observed in any row."""
    present: Mapping[str, Array] | None = None
    """Modality -> bool (rows,) or (rows, *shape): which rows or values are observed; None: all."""
    covariates: Mapping[str, Array] | None = None
    """Covariate (batch, age, ...) -> (rows, width), as `Covariate.encode` has it; never
    generated."""
    cached: Mapping[str, Array] = {}
    """Outputs of frozen modules, by the names that a stage's `columns` have."""

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array]) -> Observed:
        """A batch of a table, whose columns of the other fields are named `field/name`.

        Values that are absent from a row that has others are NaN.
        """
        groups: dict[str, dict[str, Array]] = {name: {} for name in _GROUPS}
        x: dict[str, Array] = {}
        for key, value in columns.items():
            group, slash, name = key.partition("/")
            (groups[group] if slash else x)[name if slash else key] = value
        seen = cls(x, groups["present"] or None, groups["covariates"] or None, groups["cached"])
        masks = {n: mask for n, mask in groups["present"].items() if mask.ndim > 1 and n in x}
        gaps = {n: _with_nan(x[n], mask) for n, mask in masks.items()}
        return seen._replace(x={**x, **gaps}) if gaps else seen

    @property
    def rows(self) -> int:
        """Number of rows; 0 where nothing is observed."""
        return len(next(iter(self.x.values()))) if self.x else 0

    def is_present(self, name: str) -> Array | None:
        """Rows in which a modality has a value that is present, bool (rows,); None: all rows."""
        present = (self.present or {}).get(name)
        if present is None or present.ndim == 1:
            return present
        return namespace(present).any(present, axis=tuple(range(1, present.ndim)))

    def filled(self, name: str) -> Array:
        """Values of a modality, with zeros in place of those that are not present."""
        x, present = self.x[name], (self.present or {}).get(name)
        if present is None:
            return x
        xp = namespace(x, present)
        mask = xp.reshape(present, (*present.shape, *[1] * (x.ndim - present.ndim)))
        return xp.where(mask, x, xp.zeros_like(x))

    def encodable(self, name: str) -> Array:
        """Values of a modality as its encoder sees them, with zeros in rows that lack it.

        Absent values of rows that have others stay as they are: NaN in a batch that was made by
        `from_columns`, which encoders of rows with gaps understand.
        """
        there = self.is_present(name)
        return self.x[name] if there is None else Observed(self.x, {name: there}).filled(name)

    def only(self, names: Collection[str]) -> Observed:
        """The same rows, of which only the named modalities are observed."""
        x = {name: value for name, value in self.x.items() if name in names}
        present = self.present and {k: v for k, v in self.present.items() if k in names}
        return self._replace(x=x, present=present or None)

    def take(self, start: int, stop: int) -> Observed:
        """Rows `start` to `stop`."""
        return self.at(slice(start, stop))

    def at(self, rows: Any) -> Observed:
        """Rows by number, by a slice or by a mask."""

        def cut(group: Mapping[str, Array] | None) -> dict[str, Array] | None:
            return None if group is None else {k: v[rows] for k, v in group.items()}

        cached = cut(self.cached) or {}
        return Observed(cut(self.x) or {}, cut(self.present), cut(self.covariates), cached)


def _with_nan(x: Array, mask: Array) -> Array:
    xp = namespace(x, mask)
    return xp.where(mask, x, xp.full_like(x, xp.nan))
