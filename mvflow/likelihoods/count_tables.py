"""Tables of counts: which tables are such, and their likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import registry

__all__ = ["COUNTS", "count_settings", "describe_counts", "is_count_table"]

COUNTS = "negative-binomial"
"""Likelihood of tables of counts."""
LEAST, ZEROS = 10, 0.05
"""The largest count of such tables at least, and the share of zeros beyond which all are."""
MIN_LIBRARY = 100
"""Columns from which the sum of a row is taken for its library size: genes, not a panel."""


def is_count_table(used: NDArray[Any]) -> bool:
    """Whether values are whole numbers from 0 to 10 or more that spread as counts do.

    They do where 5 % are zeros, or some are and every column varies more than Poisson counts.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> is_count_table(rng.poisson(rng.gamma(1, 20, size=(50, 3))))
        True
        >>> is_count_table(rng.integers(18, 90, size=(50, 3)))  # such as ages
        False
    """
    if used.ndim != 2 or used.shape[1] < 2 or used.dtype.kind not in "biuf":
        return False
    known = used[~np.isnan(used)] if used.dtype.kind == "f" else used
    if known.min() != 0 or known.max() < LEAST or (known != np.floor(known)).any():
        return False
    if np.count_nonzero(known == 0) >= ZEROS * known.size:
        return True
    spread: Any = np.nanvar(used, 0, dtype=np.float64) > np.nanmean(used, 0, dtype=np.float64)
    return bool(spread.all())


def count_settings(kind: str, columns: int, *, has_gaps: bool = False) -> Any:
    """A likelihood of counts as its settings suit a table.

    Args:
        kind: of the likelihood.
        columns: how many there are.
        has_gaps: whether values are absent, so that the sum of a row is none of all of it.

    Examples:
        >>> count_settings("poisson", 20)
        {'kind': 'poisson', 'inputs': 'standardised'}
    """
    settings: dict[str, Any] = {"kind": kind, "inputs": "standardised"}
    if columns >= MIN_LIBRARY and not has_gaps:
        settings["library"] = "observed"
    if "dispersion" in registry("likelihoods").load(kind).model_fields:
        settings["dispersion"] = "column"
    return settings


def describe_counts(settings: Any) -> str:
    """What `count_settings` chose, in a few words."""
    parts = [str(settings["kind"])]
    if "library" in settings:
        parts.append("library size of each row")
    if "dispersion" in settings:
        parts.append("a dispersion for each column")
    return ", ".join(parts)
