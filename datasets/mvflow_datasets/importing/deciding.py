"""What the values of a modality are: likelihood, storage, and the units that they are kept in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from mvflow.core import DataError, Modality, Units, UsageError, registry, unknown_name
from mvflow.likelihoods.count_tables import (
    COUNTS,
    count_settings,
    describe_counts,
    is_count_table,
)
from mvflow_datasets.importing.decided import NOISE, Decided, plain_number, with_gaps
from mvflow_datasets.importing.mixed_tables import decide_mixed
from mvflow_datasets.importing.references import Raw
from mvflow_datasets.importing.sparse_matrices import decide_sparse
from mvflow_datasets.importing.transforms import (
    TRANSFORMS,
    fit_units,
    known_values,
    moments,
    suggested_transform,
)

__all__ = ["decide"]

IMAGE_SCALE = 0.75
"""Diversity of the Laplace for intensities in [0, 1], as in the recipes of the paper's images."""
MOST_CLASSES = 20
MOST_NAMED_CLASSES = 100


@dataclass(frozen=True, slots=True, eq=False)
class _Shaped:
    """Values in the shape of the modality, and whether they are an image."""

    values: NDArray[Any]
    image: bool
    note: str = ""


def decide(
    name: str,
    raw: Raw,
    parts: Mapping[str, NDArray[np.int64]],
    likelihoods: Mapping[str, str] | None = None,
    transforms: Mapping[str, str] | None = None,
) -> Decided:
    """Choose likelihood and units of a modality, from the known values of the rows that are used.

    Args:
        name: of the modality.
        raw: its values as read.
        parts: part of the data -> rows that it takes; the units are those of `train`.
        likelihoods: the user's choices: column -> likelihood, `""` for all without their own.
        transforms: the user's choices: column -> transform, `""` for all without their own.

    Raises:
        DataError: if the values do not fit the choice, or are all the same.
        UsageError: if a choice is unknown.

    Examples:
        >>> rows = {"train": np.arange(4), "test": np.arange(2)}
        >>> decide("a", Raw(np.array([[0.0, 5], [1, 6], [3, 7], [5, 8]])), rows).words
        'values 0 to 8, standardised; normal, scale 0.5'
    """
    transforms = transforms or {}
    likelihoods = likelihoods or {}
    known = registry("likelihoods").names()
    for kind in likelihoods.values():
        if kind not in known:
            raise UsageError(unknown_name("likelihood", kind, known))
    likelihood = likelihoods.get("")
    for step in transforms.values():
        if step not in TRANSFORMS:
            raise UsageError(unknown_name("transform", step, TRANSFORMS))
    if issparse(raw.values):
        if set(likelihoods) - {""}:
            msg = f"modality {name!r} is sparse: its columns have one likelihood"
            raise UsageError(msg)
        return decide_sparse(name, raw, parts, likelihood, transforms)
    if raw.levels or set(likelihoods) - {""}:
        return with_gaps(decide_mixed(name, raw, parts, likelihoods, transforms))
    used = raw.values[np.unique(np.concatenate(list(parts.values())))]
    if not len(used) or used.size == 0:
        msg = f"modality {name!r} has no values: its array has shape {raw.values.shape}"
        raise DataError(msg)
    there = known_values(used)
    if (there == there.flat[0]).all():
        msg = f"modality {name!r}: all values are {there.flat[0]}, so there is nothing to learn"
        raise DataError(msg)
    chosen = likelihood or _suggested(there, used.shape[1:])
    if chosen == "continuous" and not likelihood and not transforms and is_count_table(used):
        chosen = COUNTS
    scales = chosen == "continuous" or registry("likelihoods").load(chosen).is_location
    if not scales and (asked := set(transforms.values()) - {"none"}):
        msg = f"modality {name!r} is {chosen}: its values cannot be transformed by {min(asked)}"
        raise UsageError(msg)
    if used.dtype.kind in "SU" and chosen != "categorical":
        msg = f"modality {name!r} holds texts: a {chosen} likelihood needs numbers"
        raise DataError(msg)
    if chosen == "categorical":
        return _categorical(name, raw, used, parts)
    shaped = _shaped(raw.values, there)
    if chosen == "bernoulli":
        return with_gaps(_bernoulli(name, raw, shaped, there, parts))
    if not scales:
        arrays = {p: _kept(shaped.values[r]) for p, r in parts.items()}
        shape, settings, shown = shaped.values.shape[1:], chosen, chosen
        if len(shape) == 1 and "library" in registry("likelihoods").load(chosen).model_fields:
            settings = count_settings(chosen, *shape, has_gaps=there.size < used.size)
            shown = describe_counts(settings)
        words = f"values {_range(there)}{shaped.note}, left as they are; {shown}"
        decided = Decided(Modality(name, shape, settings), arrays, Units(raw.columns), words)
        return with_gaps(decided)
    return with_gaps(_continuous(name, raw, shaped, used, parts, likelihood, transforms))


def _suggested(used: NDArray[Any], shape: tuple[int, ...]) -> str:
    """bernoulli, categorical or continuous."""
    if used.dtype.kind in "SU":
        return "categorical"
    if used.dtype == bool or _is_binary(used):
        return "bernoulli"
    single = shape in {(), (1,)}
    if single and _is_whole(used) and len(np.unique(used)) <= MOST_CLASSES:
        return "categorical"
    return "continuous"


def _is_binary(used: NDArray[Any]) -> bool:
    top = 255 if used.dtype == np.uint8 and used.ndim >= 3 and used.max() > 1 else 1
    return bool(_all(used, lambda x: (x == 0) | (x == top)))


def _is_whole(used: NDArray[Any]) -> bool:
    return used.dtype.kind in "biu" or _all(used, lambda x: x == np.floor(x))


def _all(values: NDArray[Any], law: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> bool:
    """Whether a law holds for all values; by pieces, so that memory stays bounded."""
    size = max(1, 2**22 // max(1, values[:1].size))
    pieces = (values[i : i + size] for i in range(0, len(values), size))
    return all(bool(law(piece).all()) for piece in pieces)


def _shaped(values: NDArray[Any], used: NDArray[Any]) -> _Shaped:
    """Values as (rows, *shape); images as (rows, channels, height, width)."""
    if values.ndim == 1:
        return _Shaped(values[:, None], False)
    if values.ndim < 3:
        return _Shaped(values, False)
    unit = values.dtype in {np.dtype(np.uint8), np.dtype(bool)} or bool(
        used.min() >= 0 and used.max() <= 1
    )
    if values.ndim == 3:
        image = unit and min(values.shape[1:]) >= 8
        return _Shaped(values[:, None] if image else values, image)
    first, last = values.shape[1] in {1, 2, 3, 4}, values.shape[-1] in {1, 2, 3, 4}
    if values.ndim == 4 and last and not first:
        return _Shaped(np.moveaxis(values, -1, 1), True, ", channels moved to the front")
    return _Shaped(values, values.ndim == 4)


def _categorical(
    name: str, raw: Raw, used: NDArray[Any], parts: Mapping[str, NDArray[np.int64]]
) -> Decided:
    flat = used.reshape(len(used), -1)
    if flat.shape[1] != 1 or (used.dtype.kind == "f" and not _is_whole(used)):
        msg = (
            f"modality {name!r} has rows of shape {used.shape[1:]} of {used.dtype}: a "
            "categorical likelihood needs one class, a text or a whole number, for each row"
        )
        raise DataError(msg)
    classes = np.unique(flat[:, 0])
    if len(classes) > MOST_NAMED_CLASSES:
        msg = (
            f"modality {name!r} has {len(classes)} classes, more than {MOST_NAMED_CLASSES}: "
            "if they name the rows, use them as keys (--keys); else group them first"
        )
        raise DataError(msg)
    column = raw.values.reshape(len(raw.values), -1)[:, 0]
    arrays = {part: np.searchsorted(classes, column[rows]) for part, rows in parts.items()}
    shown = ", ".join(str(plain_number(c)) for c in classes[:8])
    words = f"{len(classes)} classes ({shown}{'...' if len(classes) > 8 else ''}); categorical"
    named = classes.astype(np.int64) if classes.dtype.kind == "f" else classes
    units = Units(classes=tuple(named.astype(np.str_).tolist()))
    return Decided(Modality(name, (len(classes),), "categorical"), arrays, units, words)


def _bernoulli(
    name: str,
    raw: Raw,
    shaped: _Shaped,
    used: NDArray[Any],
    parts: Mapping[str, NDArray[np.int64]],
) -> Decided:
    modality = Modality(name, shaped.values.shape[1:], "bernoulli")
    units = Units(raw.columns)
    if _is_binary(used):
        has_gaps = known_values(shaped.values).size < shaped.values.size
        as_stored = _kept if has_gaps else _as_bytes  # which cannot be NaN
        arrays = {p: as_stored(shaped.values[r]) for p, r in parts.items()}
        return Decided(modality, arrays, units, f"values 0 and 1{shaped.note}; bernoulli")
    if used.dtype != np.uint8 and (used.min() < 0 or used.max() > 1):
        msg = f"modality {name!r} runs {_range(used)}: a bernoulli likelihood needs 0 to 1"
        raise DataError(msg)
    arrays = {p: _kept(shaped.values[r]) for p, r in parts.items()}
    return Decided(modality, arrays, units, f"values {_range(used)}{shaped.note}; bernoulli")


def _as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return 255 * (values != 0).astype(np.uint8)


def _continuous(
    name: str,
    raw: Raw,
    shaped: _Shaped,
    used: NDArray[Any],
    parts: Mapping[str, NDArray[np.int64]],
    likelihood: str | None,
    transforms: Mapping[str, str],
) -> Decided:
    there = known_values(used)
    unit = shaped.image and (used.dtype == np.uint8 or (there.min() >= 0 and there.max() <= 1))
    if unit and set(transforms.values()) <= {"none"}:
        kind = likelihood or "laplace"
        scale = IMAGE_SCALE if kind == "laplace" else NOISE
        modality = Modality(name, shaped.values.shape[1:], {"kind": kind, "scale": scale})
        arrays = {p: _kept(shaped.values[r]) for p, r in parts.items()}
        what = "intensities" if used.dtype == np.uint8 else "values"
        words = f"{what} {_range(there)}{shaped.note}; {kind}, scale {scale:g}"
        return Decided(modality, arrays, Units(), words)
    train = shaped.values[parts["train"]]
    steps = _steps(name, raw.columns, shaped.values.shape[1:], transforms, used, train)
    if "log1p" in steps and there.min() < 0 and len(set(steps)) == 1:
        lowest = plain_number(there.min())
        msg = f"modality {name!r} has values down to {lowest}: log1p needs 0 or more"
        raise DataError(msg)
    units = fit_units(train, steps, is_image=shaped.image)
    what = f"values of modality {name!r}"
    arrays = {p: _applied(units, shaped.values, r, what) for p, r in parts.items()}
    kind = likelihood or "normal"
    noise = float(f"{NOISE * _deviation(arrays['train']):.2g}")
    if not noise > 0:
        msg = f"modality {name!r}: no value varies over the rows to train on"
        raise DataError(msg)
    modality = Modality(name, shaped.values.shape[1:], {"kind": kind, "scale": noise})
    shown = ", ".join(dict.fromkeys(_DONE[step] for step in steps))
    words = f"values {_range(there)}{shaped.note}, {shown}; {kind}, scale {noise:g}"
    units = replace(units, names=raw.columns)
    return Decided(modality, arrays, units, words, _summary(steps), _still(name, raw, train))


_DONE = {
    "none": "left as they are",
    "standardise": "standardised",
    "log1p": "taken as counts: log(1 + x), then standardised",
    "quantile": "taken to normal quantiles",
}


def _steps(
    name: str,
    columns: tuple[str, ...],
    shape: tuple[int, ...],
    transforms: Mapping[str, str],
    used: NDArray[Any],
    train: NDArray[Any],
) -> list[str]:
    """The transform of each column, or a single one for all values."""
    default = transforms.get("") or suggested_transform(used, train)
    own = {column: step for column, step in transforms.items() if column}
    for column in own:
        if column not in columns:
            raise UsageError(f"modality {name!r}: {unknown_name('column', column, columns)}")
    if "quantile" in transforms.values() and len(shape) != 1:
        msg = f"modality {name!r} has rows of shape {shape}: quantile is a transform of tables"
        raise UsageError(msg)
    return [own.get(column, default) for column in columns] if own else [default]


def _summary(steps: Sequence[str]) -> str:
    return steps[0] if len(set(steps)) == 1 else "by column"


def _still(name: str, raw: Raw, train: NDArray[Any]) -> str:
    """A warning that names values which are the same in all rows to train on."""
    is_still = (
        (train == train[0]).all(0)
        if known_values(train).size == train.size
        else (np.nanmax(train, 0) == np.nanmin(train, 0))
    )
    count = int(is_still.sum())
    if not count:
        return ""
    names = [raw.columns[j] for j in np.flatnonzero(is_still)[:8]] if raw.columns else []
    shown = f" ({', '.join(names)}{'...' if count > len(names) else ''})" if names else ""
    return f"{name}: {count} of {is_still.size} values are constant in the rows to train on{shown}"


def _applied(
    units: Units, values: NDArray[Any], rows: NDArray[np.int64], what: str
) -> NDArray[np.float32]:
    """Rows in the units of the store; by pieces, so that memory stays bounded."""
    out = np.empty((len(rows), *values.shape[1:]), np.float32)
    size = max(1, 2**22 // max(1, values[:1].size))
    for start in range(0, len(rows), size):
        piece = slice(start, start + size)
        out[piece] = units.apply(values[rows[piece]], what)
    return out


def _deviation(train: NDArray[Any]) -> float:
    """Root mean square of the distance from the mean row."""
    if known_values(train).size < train.size:
        return float(np.sqrt((moments(train)[1] ** 2).mean()))
    return float(np.sqrt(train.var(0, dtype=np.float64).mean()))


def _kept(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype == np.uint8 else values.astype(np.float32)


def _range(used: NDArray[Any]) -> str:
    return f"{plain_number(used.min())} to {plain_number(used.max())}"
