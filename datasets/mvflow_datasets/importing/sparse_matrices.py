"""Sparse matrices: their likelihood and units, without a dense one ever being made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError, Modality, Units, UsageError, registry
from mvflow.likelihoods.count_tables import COUNTS, LEAST, count_settings, describe_counts
from mvflow_datasets.importing.decided import NOISE, Decided, plain_number
from mvflow_datasets.importing.references import Raw
from mvflow_datasets.importing.transforms import fit_sparse_units

__all__ = ["decide_sparse"]


def decide_sparse(
    name: str,
    raw: Raw,
    parts: Mapping[str, NDArray[np.int64]],
    likelihood: str | None,
    transforms: Mapping[str, str],
) -> Decided:
    """Choose likelihood and units of a sparse matrix, in which zeros stay zeros.

    Arguments and errors are those of `decide`.
    """
    matrix: Any = raw.values
    data, columns = matrix.data, matrix.shape[1]
    if not data.size:
        msg = f"modality {name!r}: all values are 0, so there is nothing to learn"
        raise DataError(msg)
    is_binary = bool((data == 1).all())
    is_count = bool((data >= 0).all() and (data == np.floor(data)).all())
    kind = likelihood or ("bernoulli" if is_binary else "normal")
    if likelihood is None and not transforms and is_count and data.max() >= LEAST:
        kind = COUNTS
    part = registry("likelihoods").load(kind)
    step = transforms.get("") or ("log1p" if is_count and data.max() >= LEAST else "standardise")
    if not part.is_location:
        step = "none"
    if step == "quantile" or set(transforms) - {""}:
        msg = f"modality {name!r} is sparse: known transforms are none, standardise and log1p"
        raise UsageError(msg)
    if step == "log1p" and (data < 0).any():
        lowest = plain_number(data.min())
        msg = f"modality {name!r} has values down to {lowest}: log1p needs 0 or more"
        raise DataError(msg)
    units = fit_sparse_units(matrix[parts["train"]], step)
    arrays = {p: _sparse_applied(matrix[rows], units) for p, rows in parts.items()}
    settings: Any = kind
    words = f"{kind}"
    if part.is_location:
        noise = float(f"{NOISE * _sparse_deviation(arrays['train']):.2g}")
        settings, words = {"kind": kind, "scale": noise}, f"{kind}, scale {noise:g}"
    elif "library" in part.model_fields:
        settings = count_settings(kind, columns)
        words = describe_counts(settings)
    done = {"none": "left as they are", "standardise": "divided by their standard deviations"}
    done["log1p"] = "taken as counts: log(1 + x), then divided by their standard deviations"
    filled = f"sparse, {data.size / (matrix.shape[0] * columns):.1%} filled"
    span = f"values {plain_number(min(0, data.min()))} to {plain_number(data.max())}"
    modality = Modality(name, (columns,), settings)
    units = replace(units, names=raw.columns)
    return Decided(modality, arrays, units, f"{span}, {filled}, {done[step]}; {words}", step)


def _sparse_applied(matrix: Any, units: Units) -> Any:
    made = matrix.tocsr().astype(np.float64)
    scale = np.broadcast_to(units.scale, made.shape[1:])
    made.data = (np.log1p(made.data) if units.log1p else made.data) / scale[made.indices]
    return made.astype(np.float32)


def _sparse_deviation(matrix: Any) -> float:
    mean = np.asarray(matrix.mean(axis=0, dtype=np.float64)).reshape(-1)
    square = np.asarray(matrix.multiply(matrix).mean(axis=0, dtype=np.float64)).reshape(-1)
    return float(np.sqrt(np.maximum(square - mean**2, 0).mean()))
