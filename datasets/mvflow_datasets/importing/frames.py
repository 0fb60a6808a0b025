"""Values of a store as a data frame in the units, names and classes of the files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mvflow.core import Units

__all__ = ["as_frame"]


def as_frame(
    values: ArrayLike, units: Units, row_names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Rows of one modality as a table: columns by name, classes as texts, numbers in their units.

    Args:
        values: (rows, columns), or (rows,) classes, in the units of the store.
        units: of the modality, as `Store.units` has them.
        row_names: index of the frame.

    Examples:
        >>> units = Units(("age", "sex"), levels={"sex": ("f", "m")}, shift=np.array([40.0, 0]))
        >>> as_frame([[2.0, 1.0]], units).to_dict("records")
        [{'age': 42.0, 'sex': 'm'}]
    """
    restored = units.restore(values)
    if restored.ndim == 1:
        restored = restored[:, None]
    flat = restored.reshape(len(restored), -1)
    names = units.names if len(units.names) == flat.shape[1] else None
    index = None if row_names is None else list(row_names)
    frame = pd.DataFrame(flat, index, None if names is None else list(names))
    for column, levels in units.levels.items():
        codes = np.clip(np.rint(frame[column].to_numpy(np.float64)), 0, len(levels) - 1)
        frame[column] = np.array(levels)[codes.astype(np.int64)]
    return frame
