"""Log densities of the decoders and posteriors, elementwise; the caller sums over dimensions."""

import math

from jaxtyping import Float, Int

from mvflow.core import Array, namespace
from mvflow.functional.logspace import log_sum_exp

__all__ = [
    "bernoulli_log_prob",
    "categorical_log_prob",
    "laplace_log_prob",
    "normal_log_prob",
    "standard_normal_log_prob",
]


def normal_log_prob(
    x: Float[Array, "..."], loc: Array | float, scale: Array | float
) -> Float[Array, "..."]:
    """Return log N(x; loc, scale^2), elementwise.

    Examples:
        >>> import numpy as np
        >>> normal_log_prob(np.array([0.0, 2.0]), 0.0, 2.0).round(3)
        array([-1.612, -2.112])
    """
    standardised = (x - loc) / scale
    return -0.5 * standardised * standardised - _log(scale) - 0.5 * math.log(2 * math.pi)


def laplace_log_prob(
    x: Float[Array, "..."], loc: Array | float, scale: Array | float
) -> Float[Array, "..."]:
    """Return log Laplace(x; loc, scale) with diversity `scale`, elementwise.

    Examples:
        >>> import numpy as np
        >>> laplace_log_prob(np.array([0.0, 2.0]), 0.0, 0.5)
        array([ 0., -4.])
    """
    xp = namespace(x)
    return -xp.abs(x - loc) / scale - _log(scale) - math.log(2)


def bernoulli_log_prob(x: Float[Array, "..."], logits: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return x log p + (1 - x) log(1 - p) with p = sigmoid(logits), elementwise.

    The values `x` may lie anywhere in [0, 1]: between the ends this is the negative
    cross-entropy, not a normalised density.

    Examples:
        >>> import numpy as np
        >>> bernoulli_log_prob(np.array([1.0, 0.0]), np.array([1000.0, 1000.0]))
        array([    0., -1000.])
    """
    xp = namespace(x, logits)
    return x * logits - xp.logaddexp(logits, xp.zeros_like(logits))


def categorical_log_prob(
    labels: Int[Array, "..."], logits: Float[Array, "... classes"]
) -> Float[Array, "..."]:
    """Return the log probability of each label under softmax(logits).

    Args:
        labels: classes 0, 1, ...
        logits: one more axis than `labels`, the last, over the classes.

    Examples:
        >>> import numpy as np
        >>> categorical_log_prob(np.array([1]), np.log([[1.0, 3.0]])).round(3)
        array([-0.288])
    """
    xp = namespace(labels, logits)
    chosen = xp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return chosen - log_sum_exp(logits)


def standard_normal_log_prob(z: Float[Array, "*batch latent"]) -> Float[Array, "*batch"]:
    """Return log N(z; 0, I), summed over the last axis.

    Examples:
        >>> import numpy as np
        >>> float(standard_normal_log_prob(np.zeros(2)).round(3))
        -1.838
    """
    xp = namespace(z)
    return xp.sum(normal_log_prob(z, 0.0, 1.0), axis=-1)


def _log(scale: Array | float) -> Array | float:
    """Log of a number or of an array: the standard's `log` takes arrays only."""
    return math.log(scale) if isinstance(scale, int | float) else namespace(scale).log(scale)
