"""Units of modalities as arrays of a store, below `/_about/MODALITY`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Knots, Units

__all__ = ["pack_units", "unpack_units"]


def pack_units(units: Units) -> dict[str, NDArray[Any]]:
    """Arrays by name.

    Examples:
        >>> sorted(pack_units(Units(("a", "b"), scale=np.array([1.0, 2.0]))))
        ['log1p', 'names', 'scale', 'shift']
    """
    arrays: dict[str, Any] = {}
    if units.names:
        arrays["names"] = np.array(units.names)
    if units.classes:
        arrays["classes"] = np.array(units.classes)
    if units.levels:
        pairs = [(column, name) for column, names in units.levels.items() for name in names]
        arrays["levels"] = np.array(pairs)
    if not units.is_identity:
        arrays |= {"shift": units.shift, "scale": units.scale, "log1p": units.log1p}
    if units.image_shape:
        arrays["image_shape"] = np.array(units.image_shape)
    for column, knots in units.knots.items():
        arrays[f"knots/{column}"] = np.stack([knots.x, knots.z])
    return {key: np.atleast_1d(np.asarray(x)) for key, x in arrays.items()}


def unpack_units(find: Callable[[str], NDArray[Any] | None], columns: int) -> Units:
    """Units from the arrays of a store.

    Args:
        find: gives an array by its name, or None.
        columns: number of values of a row.
    """
    texts = {key: [] if (x := find(key)) is None else x.tolist() for key in ("names", "classes")}
    pairs = find("levels")
    levels: dict[str, tuple[str, ...]] = {}
    for column, name in () if pairs is None else pairs.tolist():
        levels[str(column)] = (*levels.get(str(column), ()), str(name))
    numbers = {key: x for key in ("shift", "scale", "log1p") if (x := find(key)) is not None}
    knots = {}
    if numbers and columns <= 1 << 20:
        knots = {j: Knots(*x) for j in range(columns) if (x := find(f"knots/{j}")) is not None}
    return Units(
        tuple(map(str, texts["names"])),
        tuple(map(str, texts["classes"])),
        levels,
        **{key: x.item() if key == "log1p" and x.size == 1 else x for key, x in numbers.items()},
        knots=knots,
        image_shape=() if (shape := find("image_shape")) is None else tuple(shape.tolist()),
    )
