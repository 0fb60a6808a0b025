"""Draws of what rows lack, so that a joint model can be trained on complete ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import (
    COVARIATES,
    PRESENT,
    Modality,
    Source,
    check_seed,
    derive_seed,
    row_presence,
    subset_of,
)
from mvflow.core.memory import check_memory
from mvflow.estimators.gaps import kinds_of_rows

if TYPE_CHECKING:
    from mvflow.estimators.generative import GenerativeEstimator

__all__ = ["completions"]

ROWS = 2048
"""Rows that are given at once."""


def completions(
    model: GenerativeEstimator,
    source: Source,
    targets: Iterable[str] | None = None,
    *,
    noise: bool | None = None,
    seed: int = 0,
) -> dict[str, tuple[NDArray[np.int64], NDArray[Any]]]:
    """One draw of each modality that a row lacks, given what it has.

    It is the imputation step of stochastic EM; the next one is training on the completed rows.
    Draws of a model with guidance are the typical ones of what is given.

    Args:
        model: a trained model.
        source: rows, of which some lack modalities.
        targets: what is drawn; by default all modalities.
        noise: as of `Estimator.generate`: by default draws of tables and means of images. Classes
            and counts, whose means are none themselves, are always drawn.
        seed: of all draws.

    Returns:
        Modality -> rows (n,) that lacked it, in rising order, and a value (n, *shape) for each.

    Raises:
        DataError: if they do not fit into memory.
        UsageError: if a target is unknown.

    Examples:
        >>> from mvflow import ArraySource
        >>> rows = ArraySource(x, specs, present={"b": np.array([True, False, True, True])})
        >>> drawn = completions(model, rows)
        >>> {name: (at.tolist(), values.shape) for name, (at, values) in drawn.items()}
        {'b': ([1], (1, 2))}
    """
    wanted = subset_of(targets, source.modalities) if targets is not None else ()
    names = wanted or tuple(m.name for m in source.modalities)
    seed, has = check_seed(seed) or 0, row_presence(source)
    specs = {m.name: m for m in source.modalities}
    # twice: the parts that are drawn, and all of them in the order of the rows
    nbytes = 2 * sum(
        np.dtype(np.float32).itemsize * specs[n].size * int((~has[n]).sum()) for n in names
    )
    check_memory(nbytes, "what is drawn of modalities that rows lack")
    parts: dict[str, list[tuple[NDArray[np.int64], NDArray[Any]]]] = {}
    for kind, rows in kinds_of_rows(has, has):
        lacking = [name for name in names if name not in kind]
        noisy = {name: True for name in lacking if not _is_mean_a_row(specs[name])}
        if isinstance(noise, bool):
            noisy = dict.fromkeys(lacking, noise) | noisy
        for start in range(0, len(rows) if lacking else 0, ROWS):
            at = rows[start : start + ROWS]
            given = {k: v for k, v in source.take(at).items() if _is_given(k, kind)}
            own = derive_seed(seed, "completions", *kind, start)
            made = model.generate(given, 1, targets=lacking, noise=noisy, seed=own)
            for name in lacking:
                parts.setdefault(name, []).append((at, np.asarray(made[name])[0]))
    out = {}
    for name in filter(parts.__contains__, names):
        at, values = map(np.concatenate, zip(*parts[name], strict=True))
        order = np.argsort(at)
        out[name] = at[order], values[order]
    return out


def _is_mean_a_row(modality: Modality) -> bool:
    """Whether a mean of rows is such a row itself, as those of classes and of counts are not."""
    likelihood = modality.likelihood_part
    halves = np.full((1, *likelihood.row_shape(modality.shape)), 0.5)
    return bool(likelihood.is_valid(halves, modality.shape).all())


def _is_given(key: str, kind: tuple[str, ...]) -> bool:
    """Whether a column of a source is of a modality that is given, or a covariate."""
    return key in kind or key.removeprefix(PRESENT) in kind or key.startswith(COVARIATES)
