"""Fréchet distance between Gaussians (paper, 4.2): how far two sets of features lie apart.

Called FID where the features are those of Inception-v3 (Heusel et al. 2017), and by the name of
the feature network elsewhere.
"""

from jaxtyping import Float, Float64

from mvflow.core import Array, namespace

__all__ = ["covariance_factor", "frechet_distance", "frechet_distance_of_rows"]


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
    first, second = covariance_factor(covariance1), covariance_factor(covariance2)
    left, _, right = xp.linalg.svd(xp.matrix_transpose(second) @ first, full_matrices=False)
    return xp.sum(shift**2) + xp.sum((first - second @ (left @ right)) ** 2)


def frechet_distance_of_rows(
    rows: Float[Array, "samples features"],
    mean: Float[Array, " features"],
    factor: Float[Array, "features rank"],
) -> Float64[Array, ""]:
    """The same for the mean and covariance of rows, where features are many: much less work.

    Centred rows are themselves a factor of their covariance, and the sum of singular values of
    F_2' F_1 comes from the eigenvalues of its smaller square. Their rounding, and that of traces
    that cancel, leaves seven digits of the traces.

    Args:
        rows: two or more.
        mean: of the other Gaussian.
        factor: F_2 of its covariance, as `covariance_factor` gives it.

    Examples:
        >>> import numpy as np
        >>> rows, zero = np.array([[0.0, 0.0], [2.0, 0.0]]), np.zeros((2, 1))
        >>> float(frechet_distance_of_rows(rows, np.array([1.0, 3.0]), zero))
        11.0
    """
    xp = namespace(rows, mean, factor)
    rows, factor = xp.astype(rows, xp.float64), xp.astype(factor, xp.float64)
    centre = xp.mean(rows, axis=0)
    centred = (rows - centre[None, :]) / (rows.shape[0] - 1) ** 0.5
    cross = centred @ factor
    if cross.shape[0] > cross.shape[1]:
        cross = xp.matrix_transpose(cross)
    squares = xp.linalg.eigvalsh(cross @ xp.matrix_transpose(cross))
    overlap = xp.sum(xp.sqrt(xp.where(squares > 0, squares, 0.0)))
    shift = centre - xp.astype(mean, xp.float64)
    distance = xp.sum(shift**2) + xp.sum(centred**2) + xp.sum(factor**2) - 2 * overlap
    return xp.where(distance > 0, distance, 0.0)


def covariance_factor(
    covariance: Float[Array, "features features"],
) -> Float64[Array, "features features"]:
    """F with F F' = covariance; what lies below the rounding of eigenvalues is taken as zero.

    Examples:
        >>> import numpy as np
        >>> covariance_factor(np.diag([4.0, 0.0])).round(9) ** 2
        array([[0., 4.],
               [0., 0.]])
    """
    xp = namespace(covariance)
    covariance = xp.astype(covariance, xp.float64)
    values, vectors = xp.linalg.eigh((covariance + xp.matrix_transpose(covariance)) / 2)
    # an eigenvalue of 1e-16 that is zero in truth would enter the distance as its root, 1e-8
    floor = covariance.shape[0] * float(xp.finfo(xp.float64).eps) * xp.max(xp.abs(values))
    return vectors * xp.sqrt(xp.where(values > floor, values, 0.0))[None, :]
