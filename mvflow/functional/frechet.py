"""Fréchet distance between Gaussians (paper, 4.2): how far two sets of features lie apart.

Called FID where the features are those of Inception-v3 (Heusel et al. 2017), and by the name of
the feature network elsewhere.
"""

from jaxtyping import Float, Float64

from mvflow.core import Array, namespace

__all__ = ["frechet_distance"]


def frechet_distance(
    mean1: Float[Array, " features"],
    covariance1: Float[Array, "features features"],
    mean2: Float[Array, " features"],
    covariance2: Float[Array, "features features"],
) -> Float64[Array, ""]:
    """Squared 2-Wasserstein distance between two Gaussians (Dowson and Landau 1982).

    |m_1 - m_2|^2 + Tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)). With any factors S_i = F_i F_i' the second
    term is the least |F_1 - F_2 U|^2 over rotations U, found from the singular vectors of
    F_2' F_1 (Bhatia, Jain and Lim 2019). So nothing is lost where two large traces cancel, the
    value is never negative, and singular covariances are no special case, as they are for the
    square root of the matrix S_1 S_2. Computed in float64 whatever the input.

    Args:
        mean1: of the first Gaussian.
        covariance1: of the first Gaussian, positive semidefinite.
        mean2: of the second.
        covariance2: of the second.

    Examples:
        >>> import numpy as np
        >>> wide, flat = np.diag([4.0, 9.0]), np.diag([1.0, 0.0])
        >>> float(frechet_distance(np.zeros(2), wide, np.ones(2), flat).round(9))
        12.0
    """
    xp = namespace(mean1, covariance1, mean2, covariance2)
    shift = xp.astype(mean1, xp.float64) - xp.astype(mean2, xp.float64)
    first, second = _factor(covariance1), _factor(covariance2)
    left, _, right = xp.linalg.svd(xp.matrix_transpose(second) @ first, full_matrices=False)
    return xp.sum(shift**2) + xp.sum((first - second @ (left @ right)) ** 2)


def _factor(covariance: Float[Array, "features features"]) -> Float64[Array, "features features"]:
    """F with F F' = covariance; what lies below the rounding of eigenvalues is taken as zero."""
    xp = namespace(covariance)
    covariance = xp.astype(covariance, xp.float64)
    values, vectors = xp.linalg.eigh((covariance + xp.matrix_transpose(covariance)) / 2)
    # an eigenvalue of 1e-16 that is zero in truth would enter the distance as its root, 1e-8
    floor = covariance.shape[0] * float(xp.finfo(xp.float64).eps) * xp.max(xp.abs(values))
    return vectors * xp.sqrt(xp.where(values > floor, values, 0.0))[None, :]
