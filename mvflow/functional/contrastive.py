"""InfoNCE between modalities (paper, Appendix B.2): positive pairs near, all others apart."""

from collections.abc import Sequence
from itertools import combinations

from array_api_compat import device
from jaxtyping import Bool, Float

from mvflow.core import Array, namespace
from mvflow.functional.logspace import log_sum_exp

__all__ = ["info_nce", "pairwise_info_nce"]


def info_nce(
    a: Float[Array, "batch features"],
    b: Float[Array, "batch features"],
    temperature: float = 0.1,
    present: Bool[Array, " batch"] | None = None,
) -> Float[Array, ""]:
    """Symmetric InfoNCE on cosine similarity: the mean over the batch of Eq. B.2.

    L_12(i) = -log sim(a_i, b_i) / sum_j sim(a_i, b_j), sim = exp(cosine / temperature) (Eq. B.3),
    L_21 with the roles exchanged (Eq. B.4). A zero vector has cosine 0 with every other.

    Args:
        a: projections of one modality; row i belongs to row i of `b`.
        b: projections of the other.
        temperature: the smaller, the more the nearest negatives count.
        present: the rows that count, as if the others were not there; None: all.

    Examples:
        >>> import numpy as np
        >>> float(info_nce(np.eye(2), np.eye(2), temperature=1.0).round(3))
        0.627
    """
    xp = namespace(a, b)
    a, b = _unit(a), _unit(b)
    similarity = a @ xp.matrix_transpose(b) / temperature
    matched = xp.sum(a * b, axis=-1) / temperature
    if present is not None:  # a row that does not count has itself alone, so all is finite
        rows = xp.arange(a.shape[0], device=device(a))
        counted = (present[:, None] & present[None, :]) | (rows[:, None] == rows[None, :])
        similarity = xp.where(counted, similarity, -xp.inf)
    negatives = log_sum_exp(similarity, axis=1) + log_sum_exp(similarity, axis=0)
    each = negatives - 2.0 * matched
    if present is None:
        return xp.mean(each)
    count = xp.sum(xp.astype(present, each.dtype))
    return xp.sum(xp.where(present, each, 0.0)) / xp.where(count > 0, count, 1.0)


def pairwise_info_nce(
    projections: Sequence[Float[Array, "batch features"]], temperature: float = 0.1
) -> Float[Array, ""]:
    """Sum of `info_nce` over all pairs of modalities (paper, end of Appendix B.2).

    Examples:
        >>> import numpy as np
        >>> float(pairwise_info_nce([np.eye(2)] * 3, temperature=1.0).round(3))
        1.88
    """
    first, *others = (info_nce(a, b, temperature) for a, b in combinations(projections, 2))
    return sum(others, start=first)


def _unit(x: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
    """Rows scaled to length one; a zero row stays zero, with a finite gradient."""
    xp = namespace(x)
    squared = xp.sum(x * x, axis=-1, keepdims=True)
    return x / xp.sqrt(xp.where(squared > 0, squared, 1.0))
