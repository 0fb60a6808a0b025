"""Simulation-based calibration: where known values lie among draws (Talts et al. 2018).

If z and the draws come from the same distribution, the rank of z among L draws takes each of the
values 0...L with probability 1 / (L + 1), whatever the distribution.

References:
    Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al.,
    2018), https://arxiv.org/abs/1804.06788
"""

import math

from jaxtyping import Float, Int

from mvflow.core import Array, namespace

__all__ = ["coverage", "ecdf_band", "ecdf_difference", "rank_counts", "rank_statistics"]


def rank_statistics(
    z: Float[Array, "rows *latent"], draws: Float[Array, "draws rows *latent"]
) -> Int[Array, "rows *latent"]:
    """How many draws lie below each value, from 0 to the number of draws, by coordinate.

    Examples:
        >>> import numpy as np
        >>> rank_statistics(np.array([0.5, 9.0]), np.array([[0.0, 1.0], [1.0, 2.0]]))
        array([1, 2])
    """
    xp = namespace(z, draws)
    return xp.sum(xp.astype(draws < z[None, ...], xp.int64), axis=0)


def rank_counts(
    ranks: Int[Array, "rows *latent"], num_draws: int, bins: int
) -> tuple[Int[Array, "bins *latent"], Float[Array, " bins"]]:
    """Histogram of ranks, and what it should be.

    Args:
        ranks: of values among `num_draws` draws.
        num_draws: how many draws each was ranked among.
        bins: of equal width, as far as num_draws + 1 ranks can be divided among them.

    Returns:
        Counts of each bin, and the expected counts, which do not depend on the coordinate.

    Examples:
        >>> import numpy as np
        >>> rank_counts(np.array([0, 1, 2, 3, 3, 3]), num_draws=3, bins=2)
        (array([2, 4]), array([3., 3.]))
    """
    xp = namespace(ranks)
    index = ranks * bins // (num_draws + 1)
    counts = [xp.sum(xp.astype(index == b, xp.int64), axis=0) for b in range(bins)]
    edges = [-(-b * (num_draws + 1) // bins) for b in range(bins + 1)]
    widths = [high - low for low, high in zip(edges[:-1], edges[1:], strict=True)]
    expected = [ranks.shape[0] * width / (num_draws + 1) for width in widths]
    return xp.stack(counts), xp.asarray(expected, dtype=xp.float64)


def coverage(
    ranks: Int[Array, "rows *latent"], num_draws: int, levels: Float[Array, " levels"]
) -> Float[Array, "levels *latent"]:
    """Share of values inside the central interval of each level; it should be the level.

    A rank r stands for the interval [r, r + 1] / (L + 1) of probabilities, so that what is
    expected of a calibrated posterior is exactly the level, for any number of draws.

    Examples:
        >>> import numpy as np
        >>> coverage(np.arange(4), 3, np.array([0.5, 0.75]))
        array([0.5 , 0.75])
        >>> coverage(np.array([0, 0, 3, 3]), 3, np.array([0.5, 0.75]))
        array([0. , 0.5])
    """
    xp = namespace(ranks, levels)
    low = xp.astype(ranks, xp.float64) / (num_draws + 1)
    high = low + 1 / (num_draws + 1)
    shares = []
    for i in range(levels.shape[0]):
        half = float(levels[i]) / 2
        inside = xp.clip(high, 0.5 - half, 0.5 + half) - xp.clip(low, 0.5 - half, 0.5 + half)
        shares.append(xp.mean(inside * (num_draws + 1), axis=0))
    return xp.stack(shares)


def ecdf_difference(
    ranks: Int[Array, "rows *latent"], num_draws: int
) -> Float[Array, "points *latent"]:
    """Distribution function of the ranks less that of uniform ones, at 1...L + 1 over L + 1.

    A hump then a dip: posteriors that are too narrow. All above zero: posteriors too far right.

    Examples:
        >>> import numpy as np
        >>> ecdf_difference(np.array([0, 1, 1, 1]), 3)
        array([0.  , 0.5 , 0.25, 0.  ])
    """
    xp = namespace(ranks)
    differences = []
    for rank in range(num_draws + 1):
        below = xp.mean(xp.astype(ranks <= rank, xp.float64), axis=0)
        differences.append(below - (rank + 1) / (num_draws + 1))
    return xp.stack(differences)


def ecdf_band(rows: int, level: float = 0.95) -> float:
    """Largest |`ecdf_difference`| that calibrated posteriors exceed in 1 - `level` of all cases.

    The bound of Dvoretzky, Kiefer, Wolfowitz and Massart: it holds for all points at once.

    Examples:
        >>> round(ecdf_band(200), 3)
        0.096
    """
    return math.sqrt(math.log(2 / (1 - level)) / (2 * rows))
