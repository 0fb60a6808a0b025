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
        draws: two samples or more of each row. What is NaN is not known: a pair counts with the
            features that both have, if there are any.

    Examples:
        >>> import numpy as np
        >>> pairwise_distance(np.array([[[0.0, 0.0]], [[3.0, 3.0]], [[0.0, 0.0]]]))
        array([2.])
        >>> pairwise_distance(np.array([[[0.0, 5.0]], [[3.0, np.nan]]]))
        array([3.])
    """
    xp = namespace(draws)
    pairs = list(combinations(range(draws.shape[0]), 2))
    squares = xp.stack([(draws[i, ...] - draws[j, ...]) ** 2 for i, j in pairs])
    absent = xp.isnan(squares)
    if not xp.any(absent):
        return xp.mean(xp.sqrt(xp.mean(squares, axis=-1)), axis=0)
    known = xp.sum(xp.astype(~absent, squares.dtype), axis=-1)
    total = xp.sum(xp.where(absent, 0.0, squares), axis=-1)
    counts = xp.astype(known > 0, squares.dtype)
    distances = xp.sqrt(total / xp.where(known > 0, known, 1.0))
    return xp.sum(distances, axis=0) / xp.sum(counts, axis=0)
