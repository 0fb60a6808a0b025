"""Products of experts: the subset posterior of the paper (Eq. 12) and its Gaussian closed form."""

import math

from jaxtyping import Float

from mvflow.core import Array, UsageError, namespace

__all__ = [
    "inside_ball",
    "normal_poe",
    "normal_product",
    "poe_log_density",
    "power_tail_log_density",
]


def poe_log_density(
    expert_log_probs: Float[Array, "experts *batch"], prior_log_prob: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Unnormalised log density of a subset posterior (paper, Eq. 12).

    log pi(z) = sum_j log q_j(z|x_j) - (|S| - 1) log p(z). Each expert contains the prior once,
    so |S| - 1 copies are divided out; Eq. F.3 prints one copy, right only for |S| = 2.

    Args:
        expert_log_probs: log q_j(z|x_j), experts first.
        prior_log_prob: log p(z), or of what else the experts share.

    Examples:
        >>> import numpy as np
        >>> poe_log_density(np.array([[-1.0], [-2.0], [-3.0]]), np.array([-0.5]))
        array([-5.])
    """
    xp = namespace(expert_log_probs, prior_log_prob)
    divided = expert_log_probs.shape[0] - 1
    return xp.sum(expert_log_probs, axis=0) - divided * prior_log_prob


def normal_poe(
    locs: Float[Array, "experts *batch latent"],
    scales: Float[Array, "experts *batch latent"],
    shared_loc: Array | float = 0.0,
    shared_scale: Array | float = 1.0,
) -> tuple[Float[Array, "*batch latent"], Float[Array, "*batch latent"]]:
    """Eq. 12 for diagonal Gaussian experts over N(0, I): the mean and scale of the product.

    Precisions add, less the |S| - 1 of the prior: 1/s^2 = sum_j 1/s_j^2 - (|S| - 1).

    Args:
        locs: means of the experts, experts first.
        scales: their standard deviations.
        shared_loc: mean of another Gaussian that the experts share, in place of the prior.
        shared_scale: its standard deviation.

    Returns:
        Mean and standard deviation of the product, also Gaussian and diagonal.

    Raises:
        UsageError: if the product is improper, that is, a precision is not positive.

    Examples:
        >>> import numpy as np
        >>> loc, scale = normal_poe(np.array([[1.0], [3.0]]), np.full((2, 1), 0.5))
        >>> loc.round(3), scale.round(3)
        (array([2.286]), array([0.378]))
    """
    xp = namespace(locs, scales)
    precisions = 1.0 / (scales * scales)
    shared = (locs.shape[0] - 1) / (shared_scale * shared_scale)
    precision = xp.sum(precisions, axis=0) - shared
    if not bool(xp.all(precision > 0)):
        msg = (
            f"the product of {locs.shape[0]} Gaussian experts is improper: its smallest precision "
            f"is {float(xp.min(precision)):.3g}, expected a positive one; the experts are too "
            "broad for the Gaussian that they are divided by"
        )
        raise UsageError(msg)
    weighted = xp.sum(precisions * locs, axis=0) - shared * shared_loc
    return weighted / precision, 1.0 / xp.sqrt(precision)


def normal_product(
    locs: Float[Array, "experts *batch latent"], precisions: Float[Array, "experts *batch latent"]
) -> tuple[Float[Array, "*batch latent"], Float[Array, "*batch latent"]]:
    """Mean and scale of the normalised product of diagonal Gaussians (MVAE, Wu and Goodman 2018).

    Precisions add, means are averaged by precision. An expert of precision 0 is absent; where a
    prior N(0, I) is one of the experts, as in MVAE, the product is always proper.

    Args:
        locs: means of the experts, experts first.
        precisions: 1 / scale^2 of each; their sum is to be positive.

    Examples:
        >>> import numpy as np
        >>> normal_product(np.array([[0.0], [3.0], [9.0]]), np.array([[1.0], [3.0], [0.0]]))
        (array([2.25]), array([0.5]))
    """
    xp = namespace(locs, precisions)
    precision = xp.sum(precisions, axis=0)
    return xp.sum(precisions * locs, axis=0) / precision, 1.0 / xp.sqrt(precision)


def inside_ball(
    log_density: Float[Array, "*batch"], z: Float[Array, "*batch latent"], radius: float
) -> Float[Array, "*batch"]:
    """Log density truncated to the ball |z| <= radius: -inf outside, and where z is NaN.

    A product divided by the prior may be improper in the tails; the ball makes it proper.

    Examples:
        >>> import numpy as np
        >>> inside_ball(np.zeros(2), np.array([[0.0, 1.0], [3.0, 4.0]]), 2.0)
        array([  0., -inf])
    """
    xp = namespace(log_density, z)
    inside = xp.linalg.vector_norm(z, axis=-1) <= radius
    return xp.where(inside, log_density, -math.inf)


def power_tail_log_density(squares: Float[Array, "*batch"], edge: float) -> Float[Array, "*batch"]:
    """Log density, up to a constant, of a Gaussian whose tail is a power law.

    -m^2 / 2 at a Mahalanobis distance m up to the edge c, and -c^2 (1 + log(m^2 / c^2)) / 2
    beyond: value and slope meet, and the density falls as m^(-c^2) there, more slowly than any
    Gaussian. (In one dimension and on one side: the Crystal Ball function of particle physics.)
    It can be normalised where c^2 exceeds the dimension.

    Args:
        squares: m^2.
        edge: c.

    Examples:
        >>> import numpy as np
        >>> power_tail_log_density(np.array([0.0, 1.0, 4.0, 16.0]), 2.0).round(3)
        array([-0.   , -0.5  , -2.   , -4.773])
    """
    xp = namespace(squares)
    ratio = squares / edge**2
    tail = edge**2 * (1.0 + xp.log(xp.where(ratio > 1.0, ratio, xp.ones_like(ratio))))
    return -0.5 * xp.where(ratio > 1.0, tail, squares)
