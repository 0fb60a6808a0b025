"""Back from stored values to the units and names of the files that they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow_datasets.store import Store

__all__ = ["Units", "read_units"]


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """How the values of one modality were changed on their way into a store.

    Args:
        names: of the values of a row, where the file had them.
        classes: of a categorical modality, by number.
        shift: what was taken away from each value, after log(1 + x); 0.0 if nothing was done.
        scale: what each was divided by then.
        log1p: whether log(1 + x) was taken first.
    """

    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    shift: NDArray[np.float64] | float = 0.0
    scale: NDArray[np.float64] | float = 1.0
    log1p: bool = False

    def restore(self, values: ArrayLike) -> NDArray[Any]:
        """Values (..., *shape) in the units of the files; class numbers (...,) as their names.

        Examples:
            >>> Units(shift=np.array([1.0]), scale=np.array([2.0])).restore([[0.5]])
            array([[2.]])
        """
        found = np.asarray(values)
        if self.classes:
            return np.array(self.classes)[found]
        if isinstance(self.shift, float):
            return found
        restored = found * self.scale + self.shift
        return np.expm1(restored) if self.log1p else restored


def read_units(path: str | Path) -> dict[str, Units]:
    """Units of each modality of a store; those of a store that was built have no effect.

    Raises:
        DataError: if the store cannot be read.
    """
    with Store.open(path) as store:
        return {m.name: _units(store, m.name) for m in store.modalities}


def _units(store: Store, modality: str) -> Units:
    names, classes, shift, scale, log1p = (
        store.about(f"{modality}/{key}") for key in ("names", "classes", "shift", "scale", "log1p")
    )
    plain = Units(_texts(names), _texts(classes))
    if shift is None or scale is None or log1p is None:
        return plain
    return replace(plain, shift=shift, scale=scale, log1p=bool(log1p.all()))


def _texts(found: NDArray[Any] | None) -> tuple[str, ...]:
    return () if found is None else tuple(map(str, found))
