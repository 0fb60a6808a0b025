"""Kullback-Leibler divergences: of diagonal Gaussians, and of averages of distributions."""

import math

from jaxtyping import Float

from mvflow.core import Array, namespace
from mvflow.functional.logspace import log_mean_exp, log_sum_exp

__all__ = ["average_divergence_bounds", "normal_kl", "normal_kl_standard"]


def normal_kl_standard(
    loc: Float[Array, "*batch latent"], scale: Float[Array, "*batch latent"]
) -> Float[Array, "*batch"]:
    """Return KL(N(loc, diag scale^2) || N(0, I)), the regulariser of the ELBO (paper, Eq. 3).

    Examples:
        >>> import numpy as np
        >>> float(normal_kl_standard(np.array([1.0, 2.0]), np.ones(2)))
        2.5
    """
    xp = namespace(loc, scale)
    return 0.5 * xp.sum(loc * loc + scale * scale - 1.0 - 2.0 * xp.log(scale), axis=-1)


def normal_kl(
    loc0: Float[Array, "*batch0 latent"],
    scale0: Float[Array, "*batch0 latent"],
    loc1: Float[Array, "*batch1 latent"],
    scale1: Float[Array, "*batch1 latent"],
) -> Float[Array, "*batch"]:
    """Return KL(N(loc0, diag scale0^2) || N(loc1, diag scale1^2)); batch axes broadcast.

    Examples:
        >>> import numpy as np
        >>> zero, one = np.zeros(2), np.ones(2)
        >>> float(normal_kl(zero, one, 2 * one, 2 * one).round(3))
        1.636
    """
    return normal_kl_standard((loc0 - loc1) / scale1, scale0 / scale1)


def average_divergence_bounds(
    own: Float[Array, "draws rows"],
    others: Float[Array, "partners draws rows"],
    approximation: Float[Array, "draws rows"],
) -> tuple[Float[Array, " rows"], Float[Array, " rows"]]:
    """Bounds on KL(q_avg || r), q_avg = E q_X over X, from draws of q_X and other X of its law.

    Below, log q_avg is that of the mean over the others, by Jensen's inequality too small; above,
    the mean has q_X too, so that it is the divergence of a mixture of few components, by convexity
    too large. In expectation both go to KL(q_avg || r) as the number of partners grows.

    Args:
        own: log q_X at draws of q_X.
        others: log q_X' at these draws, of other X'.
        approximation: log r at these draws.

    Examples:
        >>> import numpy as np
        >>> same = np.zeros((3, 2))
        >>> [bound.tolist() for bound in average_divergence_bounds(same, same[None], same - 1)]
        [[1.0, 1.0], [1.0, 1.0]]
    """
    xp = namespace(own, others, approximation)
    count = others.shape[0]
    below = log_mean_exp(others, axis=0)
    both = xp.stack([own, below + math.log(count)])
    above = log_sum_exp(both, 0) - math.log(count + 1)
    return (
        xp.mean(below - approximation, axis=0),
        xp.mean(above - approximation, axis=0),
    )
