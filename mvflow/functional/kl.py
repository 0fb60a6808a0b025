"""Kullback-Leibler divergences between diagonal Gaussians, summed over the last axis."""

from jaxtyping import Float

from mvflow.core import Array, namespace

__all__ = ["normal_kl", "normal_kl_standard"]


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
