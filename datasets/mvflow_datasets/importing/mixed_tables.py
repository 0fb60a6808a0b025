"""Mixed tables: a likelihood and a transform for each column, in one modality."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError, Modality, Units, UsageError, registry, unknown_name
from mvflow_datasets.importing.decided import Decided
from mvflow_datasets.importing.references import Raw
from mvflow_datasets.importing.transforms import fit_units

__all__ = ["decide_mixed"]

MAX_GRADES = 10
"""Different whole numbers of a column that are taken for grades."""
MAX_CLASSES = 100
CLASS_KINDS = ("categorical", "ordinal")


def decide_mixed(
    name: str,
    raw: Raw,
    parts: Mapping[str, NDArray[np.int64]],
    likelihoods: Mapping[str, str],
    transforms: Mapping[str, str],
) -> Decided:
    """Choose likelihood and units of each column of a table.

    Texts are yes or no (two of them) or classes, few whole numbers in a row are grades, 0 and 1
    are yes or no, all else are numbers, which are standardised.

    Args:
        name: of the modality.
        raw: its values; columns of texts as the positions of their classes.
        parts: part of the data -> rows that it takes.
        likelihoods: column -> the user's choice; `""` for all columns of numbers.
        transforms: column -> the user's choice; `""` for all columns of numbers.

    Raises:
        DataError: if values do not fit a choice.
        UsageError: if a choice or a column is unknown.
    """
    for column in (*likelihoods, *transforms):
        if column and column not in raw.columns:
            raise UsageError(f"modality {name!r}: {unknown_name('column', column, raw.columns)}")
    used = raw.values[np.unique(np.concatenate(list(parts.values())))]
    settings, steps = [], []
    for j, column in enumerate(raw.columns):
        values = used[:, j][~np.isnan(used[:, j])]
        levels = raw.levels.get(column, ())
        kind = likelihoods.get(column)
        if kind is None:
            kind = _suggested(values, levels)
            kind = likelihoods.get("", kind) if kind == "normal" else kind
        settings.append(_settings(f"modality {name!r}, column {column!r}", kind, values, levels))
        is_number = registry("likelihoods").load(kind).is_location and not levels
        step = transforms.get(column, transforms.get("", "standardise") if is_number else "none")
        if step != "none" and not is_number:
            msg = f"modality {name!r}, column {column!r} is {kind}: {step} is for numbers"
            raise UsageError(msg)
        steps.append(step)
    units = _units(raw, used, parts["train"], steps, settings)
    groups = [
        {"likelihood": dict(each), "columns": len([*run])}
        for each, run in itertools.groupby(settings)
    ]
    modality = Modality(name, (len(settings),), {"kind": "mixed", "groups": groups})
    what = f"values of modality {name!r}"
    arrays = {p: units.apply(raw.values[r], what).astype(np.float32) for p, r in parts.items()}
    kinds = itertools.groupby(sorted(_short(each) for each in settings))
    shown = ", ".join(f"{len([*run])} {kind}" for kind, run in kinds)
    done = ", ".join(sorted(set(steps) - {"none"})) or "none"
    words = f"columns of several kinds: {shown}; transforms of numbers: {done}"
    return Decided(modality, arrays, units, words, "by column", lines=_lines(name, raw, settings))


def _suggested(values: NDArray[np.float64], levels: Sequence[str]) -> str:
    if levels:
        return "bernoulli" if len(levels) == 2 else "categorical"
    distinct = np.unique(values)
    if not (distinct == np.floor(distinct)).all():
        return "normal"
    if set(distinct.tolist()) <= {0.0, 1.0}:
        return "bernoulli"
    is_dense = np.ptp(distinct) < 2 * len(distinct)
    return "ordinal" if 2 < len(distinct) <= MAX_GRADES and is_dense else "normal"


def _settings(
    what: str, kind: str, values: NDArray[np.float64], levels: Sequence[str]
) -> dict[str, Any]:
    """The likelihood of a column, as a group of a mixed one has it."""
    known = registry("likelihoods").names()
    if kind not in known or kind == "mixed":
        raise UsageError(unknown_name("likelihood", kind, known))
    if kind in CLASS_KINDS:
        count = len(levels) or round(float(np.ptp(values))) + 1
        if (values != np.floor(values)).any() or not 2 <= count <= MAX_CLASSES:
            msg = f"{what}: a {kind} likelihood needs 2 to {MAX_CLASSES} classes or whole numbers"
            raise DataError(msg)
        kind = "categorical-columns" if kind == "categorical" else kind
        return {"kind": kind, "classes": count}
    if len(levels) > 2 or (levels and kind != "bernoulli"):
        msg = f"{what} holds texts: a {kind} likelihood needs numbers, categorical takes texts"
        raise DataError(msg)
    part = registry("likelihoods").load(kind)
    if not part.is_location:
        made = Modality("column", (1,), kind).likelihood_part
        is_bad = ~made.is_valid(values[:, None], (1,))
        if is_bad.any():
            msg = f"{what} contains {values[is_bad[:, 0]][0]:g}: {made.expects((1,))}"
            raise DataError(msg)
    return {"kind": kind, **({"scale": "learned"} if "scale" in part.model_fields else {})}


def _units(
    raw: Raw,
    used: NDArray[np.float64],
    train: NDArray[np.int64],
    steps: Sequence[str],
    settings: Sequence[Mapping[str, Any]],
) -> Units:
    """Numbers by their transforms; classes that are whole numbers from 0 on."""
    fitted = fit_units(raw.values[train], steps, is_image=False)
    first = np.nanmin(used, 0)
    counted = [
        "classes" in each and name not in raw.levels
        for each, name in zip(settings, raw.columns, strict=True)
    ]
    shift = np.where(counted, first, np.broadcast_to(fitted.shift, first.shape))
    scale = np.array(np.broadcast_to(fitted.scale, first.shape))
    return Units(raw.columns, (), raw.levels, shift, scale, fitted.log1p, fitted.knots)


def _short(settings: Mapping[str, Any]) -> str:
    return str(settings["kind"]).removesuffix("-columns")


def _lines(name: str, raw: Raw, settings: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """A line for each kind of column that is not a number, for the report."""
    out = []
    for column, each in zip(raw.columns, settings, strict=True):
        if (kind := _short(each)) in {"bernoulli", *CLASS_KINDS}:
            levels = raw.levels.get(column, ())
            shown = ", ".join(levels[:6]) + ("..." if len(levels) > 6 else "")
            shown = shown or f"whole numbers, {each.get('classes', 2)} classes"
            out.append(
                f"{name}, column {column!r}: {kind} ({shown}) (--likelihood {name}:{column}=)"
            )
    return tuple(out)
