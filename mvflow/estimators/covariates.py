"""Covariates as users hand them over, encoded for the networks of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import COVARIATES, Covariate, DataError, UsageError, as_array, unknown_name

__all__ = ["encoded_covariates", "spread_covariates"]


def encoded_covariates(
    given: Mapping[str, Any] | None, specs: Sequence[Covariate], rows: int | None = None
) -> dict[str, NDArray[np.float32]]:
    """Covariates as networks see them, name -> (rows, width).

    Args:
        given: name -> (rows,) levels or numbers, or one of them for all rows; or, as sources have
            it, `covariates/NAME` -> (..., width), encoded already.
        specs: covariates of the model.
        rows: how many there are; None: as many as there are values.

    Raises:
        DataError: if values do not fit.
        UsageError: if the model has no such covariate.
    """
    known = {c.name: c for c in specs}
    encoded: dict[str, NDArray[np.float32]] = {}
    for key, values in (given or {}).items():
        name = key.removeprefix(COVARIATES)
        if key == name and name not in known:
            hint = "" if known else "; this model has no covariates: train it with some"
            raise UsageError(unknown_name("covariate", name, known) + hint)
        if key == name:
            encoded[name] = known[name].encode(values, rows)
        elif name in known:
            encoded.setdefault(name, _checked(as_array(values, key), known[name], rows))
    return encoded


def spread_covariates(
    encoded: Mapping[str, NDArray[np.float32]], shape: tuple[int, ...], specs: Sequence[Covariate]
) -> dict[str, NDArray[np.float32]]:
    """Encoded covariates of all latents of a shape, name -> (latents, width).

    Args:
        encoded: name -> (..., width), where ... are the last lengths of `shape`, or 1; or (n,
            width) for latents of the shape (n, 1).
        shape: of the latents, without their dimension.
        specs: covariates of the model.

    Raises:
        DataError: if there are not as many values as latents.
        UsageError: if a covariate of the model is missing.
    """
    spread: dict[str, NDArray[np.float32]] = {}
    for covariate in specs:
        if covariate.name not in encoded:
            what = "a number" if covariate.levels is None else ", ".join(covariate.levels)
            msg = (
                f"the model has the covariate {covariate.name!r} ({what}): say its value with "
                f"covariates={{{covariate.name!r}: ...}}, or --covariate {covariate.name}=..."
            )
            raise UsageError(msg)
        x = encoded[covariate.name]
        if len(shape) > 1 and shape[-1] == 1 and x.ndim == 2 and len(x) == shape[-2]:
            x = x[:, None]
        try:
            x = np.broadcast_to(x, (*shape, covariate.width))
        except ValueError as error:
            msg = (
                f"covariate {covariate.name!r} has {x.shape[:-1]} values for latents of shape "
                f"{shape}: give one for each row, or one for all"
            )
            raise DataError(msg) from error
        spread[covariate.name] = np.ascontiguousarray(x.reshape(-1, covariate.width))
    return spread


def _checked(x: NDArray[Any], covariate: Covariate, rows: int | None) -> NDArray[np.float32]:
    fits = x.ndim > 1 and x.shape[-1] == covariate.width and np.isfinite(x).all()
    if not fits or (rows is not None and x.shape[0] != rows):
        msg = (
            f"column '{COVARIATES}{covariate.name}' has shape {x.shape}: expected finite "
            f"encoded values, ({rows or 'rows'}, {covariate.width})"
        )
        raise DataError(msg)
    return x.astype(np.float32, copy=False)
