"""Canonical correlations, and their sum as the objective of deep CCA (paper, Appendix B.1).

With the covariances S_1, S_2, S_12 of two sets of variables, the canonical correlations are the
singular values of T = S_1^(-1/2) S_12 S_2^(-1/2), and the objective is their sum, the trace norm
of T. The paper prints T with S^(+1/2) and the objective as Tr(T'T)^(1/2). Both are slips: with
S^(+1/2) the value depends on the scale of the variables, so it is no correlation; and the second,
read as a Frobenius norm, contradicts the paper's own "sum of the singular values" and Andrew et
al. (2013), who write tr((T'T)^(1/2)).

S_1^(-1/2) is taken as the inverse of a Cholesky factor: any square root gives the same singular
values, and this one has finite gradients where eigenvalues coincide.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from array_api_compat import device
from jaxtyping import Bool, Float, Float64

from mvflow.core import Array, namespace

__all__ = ["canonical_correlations", "pairwise_total_correlation", "total_correlation"]

_VANISHING = 1e-9  # far above the rounding of a correlation, far below any that matters


def canonical_correlations(
    a: Float[Array, "batch features1"],
    b: Float[Array, "batch features2"],
    ridge: float = 1e-4,
    present: Bool[Array, " batch"] | None = None,
) -> Float64[Array, " correlations"]:
    """Canonical correlations of the columns of `a` with those of `b`, largest first.

    Computed in float64 whatever the input. Finite, as are the gradients, for dead, duplicated
    and perfectly correlated columns, and for fewer rows than columns.

    Args:
        a: one set of variables, rows first.
        b: the other, with the same rows.
        ridge: share of the mean variance that is added to each variance; it shrinks the
            correlations below one.
        present: the rows that count, as if the others were not there; None: all.

    Examples:
        >>> import numpy as np
        >>> a = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> canonical_correlations(a, a[:, :1] - 2 * a[:, 1:]).round(3)
        array([1.])
    """
    xp = namespace(a, b)
    a, b = _centred(a, present), _centred(b, present)
    dof: Any = max(a.shape[0] - 1, 1)
    if present is not None:
        counted = xp.sum(xp.astype(present, xp.float64)) - 1
        dof = xp.where(counted > 1, counted, 1.0)
    covariance = xp.matrix_transpose(a) @ b / dof
    half = xp.linalg.solve(_root(a, dof, ridge), covariance)
    whitened = xp.linalg.solve(_root(b, dof, ridge), xp.matrix_transpose(half))
    return xp.linalg.svdvals(whitened)


def total_correlation(
    a: Float[Array, "batch features1"],
    b: Float[Array, "batch features2"],
    ridge: float = 1e-4,
    present: Bool[Array, " batch"] | None = None,
) -> Float64[Array, ""]:
    """Sum of the canonical correlations: the trace norm of T (paper, Appendix B.1).

    Not Tr(T'T)^(1/2) with T = S_1^(1/2) S_12 S_2^(1/2), as printed there: see this module.
    Where a correlation vanishes the norm has a kink, and its gradient there is taken as zero.

    Examples:
        >>> import numpy as np
        >>> a = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> float(total_correlation(a, 3 * a).round(3))
        2.0
    """
    xp = namespace(a, b)
    correlations = canonical_correlations(a, b, ridge, present)
    return xp.sum(xp.where(correlations > _VANISHING, correlations, 0.0))


def pairwise_total_correlation(
    projections: Sequence[Float[Array, "batch _"]], ridge: float = 1e-4
) -> Float64[Array, ""]:
    """Sum of `total_correlation` over all pairs of modalities (paper, end of Appendix B.1).

    Examples:
        >>> import numpy as np
        >>> a = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> float(pairwise_total_correlation([a, a, a]).round(3))
        5.999
    """
    first, *others = (total_correlation(a, b, ridge) for a, b in combinations(projections, 2))
    return sum(others, start=first)


def _centred(
    x: Float[Array, "batch features"], present: Bool[Array, " batch"] | None
) -> Float64[Array, "batch features"]:
    """Columns less their means over the rows that count; the others are 0."""
    xp = namespace(x)
    x = xp.astype(x, xp.float64)
    if present is None:
        return x - xp.mean(x, axis=0, keepdims=True)
    count = xp.sum(xp.astype(present, xp.float64))
    total = xp.sum(xp.where(present[:, None], x, 0.0), axis=0, keepdims=True)
    return xp.where(present[:, None], x - total / xp.where(count > 0, count, 1.0), 0.0)


def _root(
    x: Float64[Array, "batch features"], dof: Any, ridge: float
) -> Float64[Array, "features features"]:
    """Lower Cholesky factor of the ridged covariance of centred columns."""
    xp = namespace(x)
    covariance = xp.matrix_transpose(x) @ x / dof
    mean_variance = xp.linalg.trace(covariance) / x.shape[1]
    floor = float(xp.finfo(xp.float64).eps)  # all outputs zero: the factor is still invertible
    identity = xp.eye(x.shape[1], dtype=x.dtype, device=device(x))
    return xp.linalg.cholesky(covariance + (ridge * mean_variance + floor) * identity)
