"""Linear dependence of two sets of columns."""

from __future__ import annotations

from typing import Any

from mvflow.core.arrays import namespace

__all__ = ["squared_correlations"]


def squared_correlations(x: Any, y: Any) -> Any:
    """Sum of the squared correlations of all columns of x with all columns of y.

    A column that is constant has none.

    Args:
        x: (rows, a).
        y: (rows, b).

    Examples:
        >>> import numpy as np
        >>> x = np.array([[1.0], [2.0], [3.0]])
        >>> float(squared_correlations(x, np.hstack([-2 * x, 0 * x])).round(6))
        1.0
    """
    xp = namespace(x, y)
    a, b = (each - xp.mean(each, axis=0, keepdims=True) for each in (x, y))
    products = xp.matmul(xp.matrix_transpose(a), b) ** 2
    variances = xp.sum(a**2, axis=0)[:, None] * xp.sum(b**2, axis=0)[None, :]
    return xp.sum(products / (variances + 1e-12))
