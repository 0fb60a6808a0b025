"""Tables predicted from other modalities: scores of draws, beside baselines, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Modality
from mvflow.likelihoods import ColumnValues
from mvflow.metrics import (
    central_intervals,
    crps_of_draws,
)

__all__ = ["LEVELS", "PREDICTIVE_DRAWS", "Predictive", "Table", "Units", "halves"]

LEVELS = (0.5, 0.8, 0.9, 0.95)
PREDICTIVE_DRAWS = 100
"""Of each row: enough for 95 % intervals, and no more steps than chains make anyway."""

Floats = NDArray[np.float64]


class Units(Protocol):
    """How stored values of a modality become those of the file; what stores keep of a table."""

    @property
    def names(self) -> Sequence[str]:
        """Of the columns; empty if the file had none."""
        ...

    def restore(self, values: Any) -> NDArray[Any]:
        """Values (..., columns) in the units of the file, rising with the stored ones."""
        ...


class _Stored:
    """Units of what was never changed."""

    names: Sequence[str] = ()

    def restore(self, values: Any) -> NDArray[Any]:
        return np.asarray(values)


@dataclass(frozen=True)
class Table:
    """A modality of vectors or classes, as predictions see it.

    Args:
        name: of the modality.
        kind: of its values.
        width: number of columns, or of classes.
        units: of the file.
        columns: what each holds; none of classes.
    """

    name: str
    kind: Literal["numbers", "counts", "classes"]
    width: int
    units: Units
    columns: tuple[ColumnValues, ...] = ()

    @property
    def coded(self) -> dict[int, int]:
        """Column -> number of classes, of those that hold yes or no, classes or grades."""
        return {i: column.classes for i, column in enumerate(self.columns) if column.classes}

    @classmethod
    def of(cls, modality: Modality, units: Units | None = None) -> Table | None:
        """The table that a modality is; None if it is images or the like."""
        likelihood = modality.likelihood_part
        shape = likelihood.row_shape(modality.shape)
        if len(shape) > 1:
            return None
        columns = likelihood.columns(modality.shape) if shape else ()
        are_counts = all(column.kind == "counts" for column in columns)
        kind: Literal["numbers", "counts", "classes"] = (
            "classes" if shape == () else "counts" if are_counts else "numbers"
        )
        return cls(modality.name, kind, modality.size, units or _Stored(), columns)

    def column_names(self) -> list[str]:
        """As the file has them, or numbers."""
        names = [*self.units.names]
        return names if len(names) == self.width else [str(i) for i in range(self.width)]


class Predictive(NamedTuple):
    """Predictive distributions of one target given the observed modalities, in stored units."""

    mean: Floats
    """(rows, columns), or class probabilities."""
    ends: Floats | None
    """(levels, 2, rows, columns) of central intervals of draws with noise; None for classes."""
    crps: Floats | None
    """(rows, columns), in the units of the file."""
    log_density: Floats
    """(rows,), of stored values."""
    classes: Mapping[int, Floats] = MappingProxyType({})
    """Column of a table -> probabilities of its classes (rows, classes), where it has such."""

    @classmethod
    def of(
        cls,
        table: Table,
        means: NDArray[Any],
        draws: NDArray[Any] | None,
        log_density: NDArray[Any],
        true: NDArray[Any],
    ) -> Predictive:
        """From draws of some rows.

        Args:
            table: the target.
            means: (draws, rows, columns) decoded at each draw of z.
            draws: the same with the likelihood's noise; not needed for classes.
            log_density: (draws, rows), of the true values at each draw of z.
            true: values of the rows.
        """
        density = np.logaddexp.reduce(np.asarray(log_density, np.float64), 0)
        density = density - np.log(len(log_density))
        mean = np.asarray(means, np.float64).mean(0)
        if table.kind == "classes" or draws is None:
            return cls(mean, None, None, density)
        restore = table.units.restore
        crps = crps_of_draws(restore(np.float64(true)), restore(np.float64(draws)))
        ends = central_intervals(draws, LEVELS)
        return cls(mean, ends, crps, density, _probabilities(table, mean, np.asarray(draws)))

    @classmethod
    def joined(cls, parts: Sequence[Predictive]) -> Predictive:
        """Of all rows of several parts."""
        mean, ends, crps, density, classes = zip(*parts, strict=True)
        return cls(
            np.concatenate(mean),
            None if ends[0] is None else np.concatenate(ends, 2),
            None if crps[0] is None else np.concatenate(crps),
            np.concatenate(density),
            {i: np.concatenate([of[i] for of in classes]) for i in classes[0]},
        )

    def of_rows(self, kept: NDArray[np.bool_]) -> Predictive:
        """Of some of the rows."""
        if kept.all():
            return self
        ends = None if self.ends is None else self.ends[:, :, kept]
        crps = None if self.crps is None else self.crps[kept]
        classes = {i: of[kept] for i, of in self.classes.items()}
        return Predictive(self.mean[kept], ends, crps, self.log_density[kept], classes)


def _probabilities(table: Table, mean: Floats, draws: NDArray[Any]) -> dict[int, Floats]:
    """Of the classes of each column that has some: of yes the mean, else shares of draws.

    One draw more is spread over all classes, so that none is impossible.
    """
    out = {}
    for i, count in table.coded.items():
        if table.columns[i].kind == "yes or no":
            out[i] = np.stack([1 - mean[:, i], mean[:, i]], -1)
            continue
        votes = np.stack([(draws[..., i] == k).sum(0) for k in range(count)], -1)
        out[i] = (votes + 1 / count) / (len(draws) + 1)
    return out


def halves(clusters: NDArray[np.int64]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Rows that calibrate, and rows that are measured, twice; clusters are not divided."""
    _, of = np.unique(clusters, return_inverse=True)
    order = np.random.default_rng(0).permutation(of.max() + 1)
    first = order[of] % 2 == 0
    yield first, ~first
    yield ~first, first
