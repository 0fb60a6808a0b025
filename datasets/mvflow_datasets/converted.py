"""Rows of one store as a model of another store knows them: its units, its covariates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import COVARIATES, Column, Covariate, Units, check_rows
from mvflow_datasets.split import Split

__all__ = ["ConvertedRows"]


class ConvertedRows:
    """A source of the rows of a split, with values as another store would have them.

    Modalities whose units are other ones are held in memory.

    Args:
        split: of the one store.
        units: of the other one, by modality.
        covariates: of the other one; those that it has not are left out.

    Raises:
        DataError: if columns or classes of a modality are other ones, or a covariate is missing
            or has levels that are not known there.

    Examples:
        >>> from tempfile import mkdtemp
        >>> from mvflow.core import Modality
        >>> from mvflow_datasets import SplitData, Store, write_store
        >>> path = write_store(f"{mkdtemp()}/tiny.h5", name="tiny",
        ...     modalities=[Modality("a", (1,))], splits={"train": SplitData({"a": [[0.5]]})},
        ...     units={"a": Units(scale=2.0)})
        >>> with Store.open(path) as store:
        ...     ConvertedRows(store["train"], {"a": Units(shift=1.0)}, ()).take([0])["a"]
        array([[0.]], dtype=float32)
    """

    def __init__(
        self, split: Split, units: Mapping[str, Units], covariates: Iterable[Covariate]
    ) -> None:
        self.modalities, self.labels, self.factors = split.modalities, split.labels, split.factors
        self._name, self._rows = split.name, len(split)
        columns = split.columns()
        self._columns = {k: c for k, c in columns.items() if not k.startswith(COVARIATES)}
        for modality in self.modalities:
            name = modality.name
            ours, theirs = split.units.get(name, Units()), units.get(name, Units())
            if not ours.has_same_values(theirs):
                column = columns[name]
                values = ours.convert(np.asarray(column.values), theirs, f"modality {name!r}")
                kept = values.astype(modality.likelihood_part.dtype)
                self._columns[name] = Column(kept, column.index)
        for covariate in covariates:
            values = covariate.encode(split.covariate_values(covariate.name), len(split))
            self._columns[COVARIATES + covariate.name] = Column(values, None)

    def __len__(self) -> int:
        return self._rows

    def take(self, rows: ArrayLike) -> dict[str, NDArray[Any]]:
        """Arrays of the given rows, as `Split.take`."""
        at = check_rows(rows, self._rows, f"split {self._name!r}")
        return {name: column.take(at) for name, column in self._columns.items()}

    def columns(self) -> dict[str, Column]:
        """All columns."""
        return dict(self._columns)
