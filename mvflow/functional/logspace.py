"""Sums in log space that survive empty sums: a term of -inf counts as zero."""

import math

from jaxtyping import Float

from mvflow.core import Array, namespace

__all__ = ["log_mean_exp", "log_sum_exp"]


def log_sum_exp(
    x: Float[Array, "..."], axis: int = -1, *, keepdims: bool = False
) -> Float[Array, "..."]:
    """Return log sum exp(x) over `axis`; -inf where every term is -inf, NaN where one is NaN.

    Examples:
        >>> import numpy as np
        >>> float(log_sum_exp(np.array([-np.inf, -1000.0])))
        -1000.0
    """
    xp = namespace(x)
    largest = xp.max(x, axis=axis, keepdims=True)
    shift = xp.where(xp.isinf(largest), 0.0, largest)
    total = xp.sum(xp.exp(x - shift), axis=axis, keepdims=True)
    log_sum = xp.log(xp.where(largest == -math.inf, 1.0, total)) + largest
    return log_sum if keepdims else xp.squeeze(log_sum, axis=axis)


def log_mean_exp(x: Float[Array, "..."], axis: int = 0) -> Float[Array, "..."]:
    """Return log of the mean of exp(x) over `axis`.

    Examples:
        >>> import numpy as np
        >>> log_mean_exp(np.log([[2.0, 4.0], [4.0, 0.5]])).round(3)
        array([1.099, 0.811])
    """
    return log_sum_exp(x, axis) - math.log(x.shape[axis])
