"""Back from stored values to the units and names of the files that they came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import DataError
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
        modalities = [m.name for m in store.modalities]
    with h5py.File(path, "r") as file:
        try:
            return {name: _units(file, name) for name in modalities}
        except (AttributeError, OSError, RuntimeError, TypeError, ValueError) as error:
            msg = f"store {path} is damaged ({error}): import it or copy it again"
            raise DataError(msg) from error


def _units(file: h5py.File, name: str) -> Units:
    found = file.get(f"_about/{name}", {})
    names, classes = (
        tuple(str(t) for t in found[key].asstr()[...]) if key in found else ()
        for key in ("names", "classes")
    )
    if "shift" not in found:
        return Units(names, classes)
    shift, scale = (np.asarray(found[key][...]) for key in ("shift", "scale"))
    return Units(names, classes, shift, scale, bool(found["log1p"][()]))
