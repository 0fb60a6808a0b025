"""Manifolds of features as unions of balls (Kynkäänniemi et al. 2019): what lies inside of them.

The ball around a row reaches to its k-th nearest neighbour among the other rows. Precision is the
share of generated rows in the manifold of real ones, recall that of real rows in the manifold of
generated ones.
"""

from jaxtyping import Bool, Float, Float64

from mvflow.core import Array, UsageError, namespace

__all__ = ["inside_balls", "neighbour_radii", "squared_distances"]

ROUNDING = 1e-12
"""Squared distances below this share of the rows' squared norms are rounding alone."""


def squared_distances(
    a: Float[Array, "samples features"], b: Float[Array, "others features"]
) -> Float64[Array, "samples others"]:
    """Squared Euclidean distances of all rows of one set from all of another, in float64.

    Those of equal rows are exactly zero.

    Examples:
        >>> import numpy as np
        >>> squared_distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 0.0]]))
        array([[25.,  0.]])
    """
    xp = namespace(a, b)
    a, b = xp.astype(a, xp.float64), xp.astype(b, xp.float64)
    norms = xp.sum(a**2, axis=1)[:, None] + xp.sum(b**2, axis=1)[None, :]
    found = norms - 2 * (a @ xp.matrix_transpose(b))
    return xp.where(found > ROUNDING * norms, found, 0.0)


def neighbour_radii(
    distances: Float[Array, "samples samples"], k: int
) -> Float[Array, " samples"]:
    """Distance of each row from its k-th nearest other, from the distances within a set.

    Raises:
        UsageError: if there are no more than k rows.

    Examples:
        >>> import numpy as np
        >>> rows = np.array([[0.0], [1.0], [3.0]])
        >>> neighbour_radii(squared_distances(rows, rows), 1)
        array([1., 1., 4.])
    """
    xp, n = namespace(distances), distances.shape[0]
    if not 1 <= k < n:
        msg = f"{n} rows have no {k}-th nearest neighbour: give more rows"
        raise UsageError(msg)
    is_self = xp.eye(n, dtype=xp.bool)
    return xp.sort(xp.where(is_self, xp.inf, distances), axis=1)[:, k - 1]


def inside_balls(
    distances: Float[Array, "samples centres"], radii: Float[Array, " centres"]
) -> Bool[Array, " samples"]:
    """Whether rows lie in a ball or on its edge, by their distances from all centres.

    Examples:
        >>> import numpy as np
        >>> inside_balls(np.array([[2.0, 5.0], [3.0, 5.0]]), np.array([2.0, 4.0]))
        array([ True, False])
    """
    return namespace(distances, radii).any(distances <= radii[None, :], axis=1)
