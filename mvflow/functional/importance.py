"""Importance sampling: weights, mixtures of proposals and the estimates made of them."""

import math

from jaxtyping import Bool, Float

from mvflow.core import Array, namespace
from mvflow.functional.logspace import log_mean_exp, log_sum_exp

__all__ = [
    "effective_sample_size",
    "importance_log_likelihood",
    "importance_weights",
    "mixture_log_prob",
]


def mixture_log_prob(
    component_log_probs: Float[Array, "components *batch"],
    present: Bool[Array, "components *batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Log density of an equally weighted mixture, components first.

    As the denominator of importance weights it is the balance heuristic (Veach and Guibas 1995):
    no weight exceeds the smallest of those that the components alone would give, times their
    number.

    Args:
        component_log_probs: log densities of the components.
        present: components that are in the mixture, one at least; None: all.

    Examples:
        >>> import numpy as np
        >>> mixture_log_prob(np.log([[0.2, 1.0], [0.4, 3.0]])).round(3)
        array([-1.204,  0.693])
    """
    if present is None:
        return log_mean_exp(component_log_probs, axis=0)
    xp = namespace(component_log_probs, present)
    inside = xp.where(present, component_log_probs, -math.inf)
    count = xp.sum(xp.astype(present, component_log_probs.dtype), axis=0)
    return log_sum_exp(inside, 0) - xp.log(count)


def importance_log_likelihood(
    log_weights: Float[Array, "..."], axis: int = 0
) -> Float[Array, "..."]:
    """Estimate log p(x) by log 1/K sum_k p(x, z_k) / q(z_k|x), z_k from q (Burda et al. 2016).

    Its expectation is a lower bound that rises with K; K = 1 is the ELBO.

    Examples:
        >>> import numpy as np
        >>> float(importance_log_likelihood(np.log(np.array([1.0, 3.0]))).round(3))
        0.693
    """
    return log_mean_exp(log_weights, axis=axis)


def importance_weights(log_weights: Float[Array, "..."], axis: int = 0) -> Float[Array, "..."]:
    """Return w / sum w over `axis`; zeros where every weight is zero.

    They are the factors of the importance-weighted bound's gradient, and, squared, of its doubly
    reparametrised gradient (DReG, Tucker et al. 2019).

    Examples:
        >>> import numpy as np
        >>> importance_weights(np.log(np.array([1.0, 3.0]))).round(3)
        array([0.25, 0.75])
    """
    xp = namespace(log_weights)
    total = log_sum_exp(log_weights, axis, keepdims=True)
    return xp.exp(log_weights - xp.where(xp.isinf(total), 0.0, total))


def effective_sample_size(log_weights: Float[Array, "..."], axis: int = 0) -> Float[Array, "..."]:
    """Return (sum w)^2 / sum w^2 over `axis` (Kong 1992); 0 where every weight is zero.

    Examples:
        >>> import numpy as np
        >>> float(effective_sample_size(np.array([5.0, 5.0, 5.0, -np.inf])).round(3))
        3.0
    """
    xp = namespace(log_weights)
    share = importance_weights(log_weights, axis)
    concentration = xp.sum(share * share, axis=axis)
    empty = concentration == 0
    return xp.where(empty, 0.0, 1.0 / xp.where(empty, 1.0, concentration))
