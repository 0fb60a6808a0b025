"""Diversity of what is generated from one observation."""

from itertools import combinations

from jaxtyping import Float

from mvflow.core import Array, namespace

__all__ = ["pairwise_distance"]


def pairwise_distance(
    draws: Float[Array, "samples batch features"],
) -> Float[Array, " batch"]:
    """Root mean squared difference between two draws of the same row, mean over all pairs.

    The diversity of Zhu et al. (2017, "Toward Multimodal Image-to-Image Translation"), who take
    the mean distance between random pairs of samples for one input, with a distance between
    features; here it is Euclidean, divided by the square root of their number, so that spaces of
    different dimension compare. Zero says that all draws of a row are the same.

    Args:
        draws: two samples or more of each row.

    Examples:
        >>> import numpy as np
        >>> pairwise_distance(np.array([[[0.0, 0.0]], [[3.0, 3.0]], [[0.0, 0.0]]]))
        array([2.])
    """
    xp = namespace(draws)
    distances = [
        xp.sqrt(xp.mean((draws[i, ...] - draws[j, ...]) ** 2, axis=-1))
        for i, j in combinations(range(draws.shape[0]), 2)
    ]
    return xp.mean(xp.stack(distances), axis=0)
