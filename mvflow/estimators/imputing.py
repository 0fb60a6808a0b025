"""What is absent, from what is given: means, intervals, and rows unlike those of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mvflow.core import (
    COVARIATES,
    PRESENT,
    Batch,
    Modality,
    Source,
    UsageError,
    intensities,
    subset_of,
)
from mvflow.estimators.empty_rows import in_place, rows_of, warn_of_empty
from mvflow.estimators.gaps import given_rows, given_with_masks, kinds_of_rows, margins, spread
from mvflow.likelihoods import within_bounds
from mvflow.metrics import CalibratedIntervals, central_intervals

if TYPE_CHECKING:
    from mvflow.estimators.generative import GenerativeEstimator

__all__ = ["Imputed", "imputed", "unlike"]

REFERENCE_ROWS = 500
"""Of the held-out rows that given rows are compared with."""
LIKELIHOOD_DRAWS = 200


class Imputed(NamedTuple):
    """Values of one modality that were not given, in the units of the model.

    Of a modality that was given in part, what was given is in all fields as it was, and only the
    gaps are filled in. Rows of which nothing was given are NaN, their draws of classes -1.
    """

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
    absent: NDArray[np.bool_]
    """(rows, *shape), or (rows,) of a categorical modality: what was filled in."""

    @property
    def filled(self) -> int:
        """How many values were filled in."""
        return int(self.absent.sum())


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
    """Means and intervals of what is not given; see `Estimator.impute`."""
    if not 0 < level < 1:
        msg = f"level={level} is no share: expected a number between 0 and 1, such as 0.9"
        raise UsageError(msg)
    specs = {m.name: m for m in model.modalities}
    values, present = given_with_masks(given)
    has = given_rows(values, present)
    if not has.all():
        warn_of_empty(has, values)
        values, present, covariates = (
            rows_of(of, has) for of in (values, present, covariates or {})
        )
        present = {name: mask for name, mask in present.items() if not mask.all()}
    missing = [name for name in specs if name not in values or name in present]
    wanted = list(subset_of(targets, model.modalities)) if targets is not None else missing
    for name in wanted:
        if name not in missing:
            msg = f"modality {name!r} is both given and to be imputed: leave it out of one"
            raise UsageError(msg)
    if not wanted:
        msg = "all modalities are given, without a gap: there is nothing to impute"
        raise UsageError(msg)
    seen = {**values, **{PRESENT + name: mask for name, mask in present.items()}}
    options: dict[str, Any] = {"targets": wanted, "seed": seed, "covariates": covariates}
    means, _ = model.generate(seen, n, noise=False, full_output=True, **options)
    draws, _ = model.generate(seen, n, noise=True, full_output=True, **options)
    out = {}
    for name in wanted:
        mean, drawn = np.asarray(means[name]).mean(0), np.asarray(draws[name])
        low = high = None
        if drawn.ndim > 2:
            low, high = central_intervals(drawn, [level])[0]
            if intervals is not None:
                wide = margins(intervals, name, level, values, present).reshape(low.shape)
                low, high = within_bounds(specs[name], low - wide, high + wide)
        calibrated = intervals is not None and low is not None
        absent = np.ones(drawn.shape[1:], np.bool_)
        made = Imputed(specs[name], mean, low, high, drawn, level, calibrated, absent)
        if name in values:
            whole = np.ones(len(values[name]), np.bool_)
            made = _kept(made, values[name], present.get(name, whole))
        out[name] = made if has.all() else _in_place(made, has)
    return out


def _in_place(made: Imputed, has: NDArray[np.bool_]) -> Imputed:
    """The same with the rows of which nothing was given, where nothing is known."""
    ends = (None if end is None else in_place(end, has) for end in (made.low, made.high))
    absent = np.ones((len(has), *made.absent.shape[1:]), np.bool_)
    absent[has] = made.absent
    mean, draws = in_place(made.mean, has), in_place(made.draws, has, axis=1)
    low, high = ends
    return made._replace(mean=mean, low=low, high=high, draws=draws, absent=absent)


def _kept(made: Imputed, x: NDArray[Any], present: NDArray[np.bool_]) -> Imputed:
    """The same with what was given where it was given."""
    if made.modality.likelihood_part.takes_bytes:
        x = intensities(x)
    absent = ~np.broadcast_to(spread(present, x.ndim), x.shape)
    known = x
    if made.low is None:  # classes, of which the mean is probabilities
        known = np.eye(made.modality.shape[0])[np.where(absent, 0, x).astype(np.int64)]
    return made._replace(
        mean=np.where(absent[..., None] if made.low is None else absent, made.mean, known),
        low=None if made.low is None else np.where(absent, made.low, x),
        high=None if made.high is None else np.where(absent, made.high, x),
        draws=np.where(absent, made.draws, x.astype(made.draws.dtype) if made.low is None else x),
        absent=absent,
    )


def unlike(
    model: Any,
    given: Batch,
    reference: Source,
    *,
    seed: int | None = 0,
    covariates: Mapping[str, Any] | None = None,
) -> NDArray[np.bool_]:
    """Rows whose log p(x_S) is below that of all reference rows, bool (rows,).

    A row like those of `reference` is so with a probability of 1 in their number plus one. Where
    there are gaps, log p(x_S) per value counts, and reference rows get the gaps of given rows, one
    after the other. A row of which nothing is given is not marked.

    Args:
        model: a trained estimator.
        given: observed modalities.
        reference: held-out rows; at most 500 are used.
        seed: of the draws.
        covariates: of the given rows.
    """
    values, present = given_with_masks({k: x for k, x in given.items() if not k.startswith("cov")})
    has_any = given_rows(values, present)
    if not has_any.all():
        values, present, covariates = (
            rows_of(of, has_any) for of in (values, present, covariates or {})
        )
    numbers = np.linspace(0, len(reference) - 1, min(len(reference), REFERENCE_ROWS)).astype(int)
    known = reference.take(numbers)
    columns = {key: x for key, x in known.items() if key.startswith(COVARIATES)}
    others, masks = given_with_masks(
        {k: x for k, x in known.items() if k.removeprefix(PRESENT) in values}
    )
    for name, mask in present.items():
        own = mask[np.arange(len(numbers)) % len(mask)]
        masks[name] = own & spread(masks[name], own.ndim) if name in masks else own
    has = np.zeros(len(numbers), np.bool_)
    for names, rows in kinds_of_rows(others, masks):
        has[rows] = bool(names)
    cut = [{k: x[has] for k, x in each.items()} for each in (others, masks, columns)]
    options: dict[str, Any] = {"n": LIKELIHOOD_DRAWS, "seed": seed}
    floor = np.min(_per_value(model, cut[0], cut[1], {**options, "covariates": cut[2]}))
    own_rows = _per_value(model, values, present, {**options, "covariates": covariates})
    found = np.zeros(len(has_any), np.bool_)
    found[has_any] = own_rows < floor
    return found


def _per_value(
    model: Any, values: Mapping[str, Any], present: Mapping[str, Any], options: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Log p(x_S) of each row; where there are gaps, per value that is there."""
    masks = {PRESENT + name: mask for name, mask in present.items()}
    log_prob = np.asarray(model.log_likelihood({**values, **masks}, **options))
    if not masks:
        return log_prob
    counts = [
        np.broadcast_to(spread(present.get(n, np.ones(len(x), np.bool_)), x.ndim), x.shape)
        for n, x in values.items()
    ]
    return np.asarray(log_prob / sum(each.reshape(len(each), -1).sum(1) for each in counts))
