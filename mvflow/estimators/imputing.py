"""What is absent, from what is given: means, intervals, and rows unlike those of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.core import Batch, Modality, Source, UsageError, subset_of
from mvflow.metrics import CalibratedIntervals, central_intervals

if TYPE_CHECKING:
    from mvflow.estimators.generative import GenerativeEstimator

__all__ = ["Imputed", "imputed", "unlike"]

REFERENCE_ROWS = 500
"""Of the held-out rows that given rows are compared with."""
LIKELIHOOD_DRAWS = 200


class Imputed(NamedTuple):
    """Values of one modality that was not given, in the units of the model."""

    modality: Modality
    mean: NDArray[Any]
    """(rows, *shape): of p(x|x_S); probabilities (rows, classes) of a categorical modality."""
    low: NDArray[Any] | None
    """(rows, *shape): lower ends of central intervals; None for a categorical modality."""
    high: NDArray[Any] | None
    draws: NDArray[Any]
    """(n, rows, *shape), with the likelihood's noise."""
    level: float
    """Of the intervals."""
    is_calibrated: bool
    """Whether they were widened on held-out rows."""


def imputed(
    model: GenerativeEstimator,
    given: Batch,
    *,
    targets: Iterable[str] | None = None,
    n: int = 100,
    level: float = 0.9,
    intervals: CalibratedIntervals | None = None,
    seed: int | None = 0,
    covariates: Mapping[str, Any] | None = None,
) -> dict[str, Imputed]:
    """Means and intervals of the modalities that are not given; see `Estimator.impute`."""
    if not 0 < level < 1:
        msg = f"level={level} is no share: expected a number between 0 and 1, such as 0.9"
        raise UsageError(msg)
    specs = {m.name: m for m in model.modalities}
    missing = [name for name in specs if name not in given]
    wanted = list(subset_of(targets, model.modalities)) if targets is not None else missing
    for name in wanted:
        if name in given:
            msg = f"modality {name!r} is both given and to be imputed: leave it out of one"
            raise UsageError(msg)
    if not wanted:
        msg = "all modalities are given: there is nothing to impute"
        raise UsageError(msg)
    options: dict[str, Any] = {"targets": wanted, "seed": seed, "covariates": covariates}
    means, _ = model.generate(given, n, noise=False, full_output=True, **options)
    draws, _ = model.generate(given, n, noise=True, full_output=True, **options)
    observed = [name for name in specs if name in given]
    out = {}
    for name in wanted:
        mean, drawn = (np.asarray(x[name]) for x in (means, draws))
        low = high = None
        if drawn.ndim > 2:
            low, high = central_intervals(drawn, [level])[0]
            if intervals is not None:
                rows = len(low)
                ends = (x.reshape(rows, -1) for x in (low, high))
                wide = intervals.widened(name, observed, level, *ends)
                low, high = (x.reshape(drawn.shape[1:]) for x in wide)
        calibrated = intervals is not None and low is not None
        out[name] = Imputed(specs[name], mean.mean(0), low, high, drawn, level, calibrated)
    return out


def unlike(
    model: Any,
    given: Batch,
    reference: Source,
    *,
    seed: int | None = 0,
    covariates: Mapping[str, Any] | None = None,
) -> NDArray[np.bool_]:
    """Rows whose log p(x_S) is below that of all reference rows, bool (rows,).

    A row like those of `reference` is so with a probability of 1 in their number plus one.

    Args:
        model: a trained estimator.
        given: observed modalities.
        reference: held-out rows; at most 500 are used.
        seed: of the draws.
        covariates: of the given rows.
    """
    names = [m.name for m in model.modalities if m.name in given]
    numbers = np.linspace(0, len(reference) - 1, min(len(reference), REFERENCE_ROWS)).astype(int)
    known = reference.take(numbers)
    seen = {key: x for key, x in known.items() if key in names or key.startswith("covariates/")}
    options: dict[str, Any] = {"n": LIKELIHOOD_DRAWS, "seed": seed}
    floor = float(np.min(model.log_likelihood(seen, **options)))
    rows = {key: x for key, x in given.items() if key in names}
    return np.asarray(model.log_likelihood(rows, covariates=covariates, **options) < floor)
