"""The array namespace of the arguments: NumPy, torch, JAX or any array API library."""

from __future__ import annotations

from typing import Any, TypeAlias

from array_api_compat import array_namespace

__all__ = ["Array", "namespace"]

Array: TypeAlias = Any
"""An array of any library that follows the array API standard."""


def namespace(*arrays: Array) -> Any:
    """Return the array API namespace shared by `arrays`.

    Raises:
        TypeError: if the arrays come from different libraries or are not arrays.

    Examples:
        >>> import numpy as np
        >>> xp = namespace(np.ones(2))
        >>> float(xp.sum(np.ones(2)))
        2.0
    """
    return array_namespace(*arrays)
