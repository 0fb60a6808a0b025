"""Importance sampling: weights, mixtures of proposals and the estimates made of them."""

from jaxtyping import Float

from mvflow.core import Array, namespace
from mvflow.functional.logspace import log_mean_exp, log_sum_exp

__all__ = ["effective_sample_size", "importance_log_likelihood", "mixture_log_prob"]


def mixture_log_prob(
    component_log_probs: Float[Array, "components *batch"],
) -> Float[Array, "*batch"]:
    """Log density of an equally weighted mixture, components first.

    As the denominator of importance weights it is the balance heuristic (Veach and Guibas 1995):
    no weight exceeds the smallest of those that the components alone would give, times their
    number.

    Examples:
        >>> import numpy as np
        >>> mixture_log_prob(np.log([[0.2, 1.0], [0.4, 3.0]])).round(3)
        array([-1.204,  0.693])
    """
    return log_mean_exp(component_log_probs, axis=0)


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


def effective_sample_size(log_weights: Float[Array, "..."], axis: int = 0) -> Float[Array, "..."]:
    """Return (sum w)^2 / sum w^2 over `axis` (Kong 1992); 0 where every weight is zero.

    Examples:
        >>> import numpy as np
        >>> float(effective_sample_size(np.array([5.0, 5.0, 5.0, -np.inf])).round(3))
        3.0
    """
    xp = namespace(log_weights)
    total = log_sum_exp(log_weights, axis, keepdims=True)
    share = xp.exp(log_weights - xp.where(xp.isinf(total), 0.0, total))
    concentration = xp.sum(share * share, axis=axis)
    empty = concentration == 0
    return xp.where(empty, 0.0, 1.0 / xp.where(empty, 1.0, concentration))
