"""What the values of a modality are: likelihood, storage, and the units that they are kept in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError, Modality, UsageError, registry, unknown_name
from mvflow_datasets.importing.references import Raw

__all__ = ["TRANSFORMS", "Decided", "Transform", "decide"]

Transform = Literal["none", "standardise", "log1p"]
TRANSFORMS: tuple[str, ...] = get_args(Transform)

IMAGE_SCALE = 0.75
"""Diversity of the Laplace for intensities in [0, 1], as in the recipes of the paper's images."""
NOISE = 0.5
"""Standard deviation of the Normal as a share of the data's: a quarter of the variance."""
MOST_CLASSES = 20
MOST_NAMED_CLASSES = 100


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """A modality as it will be stored.

    Args:
        modality: its specification.
        arrays: part of the data -> (rows, *shape) stored values.
        about: what is kept to get back to the units of the files: `shift` and `scale` by value,
            `names` of the values, `classes` of a categorical modality.
        words: what was found and done, for the report.
        transform: what was done to the values.
        warning: what the user should look at, or nothing.
    """

    modality: Modality
    arrays: Mapping[str, NDArray[Any]]
    about: Mapping[str, NDArray[Any]]
    words: str
    transform: Transform = "none"
    warning: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Values in the shape of the modality, and whether they are an image."""

    values: NDArray[Any]
    image: bool
    note: str = ""


def decide(
    name: str,
    raw: Raw,
    parts: Mapping[str, NDArray[np.int64]],
    likelihood: str | None = None,
    transform: str | None = None,
) -> Decided:
    """Choose likelihood and units of a modality, from the values of the rows that are used.

    Args:
        name: of the modality.
        raw: its values as found.
        parts: part of the data -> rows that it takes; the units are those of `train`.
        likelihood: the user's choice, if any.
        transform: the user's choice, if any.

    Raises:
        DataError: if the values do not fit the choice, or are all the same.
        UsageError: if a choice is unknown.

    Examples:
        >>> rows = {"train": np.arange(4), "test": np.arange(2)}
        >>> decide("a", Raw(np.array([[0.0, 5], [1, 6], [3, 7], [5, 8]])), rows).words
        'values 0 to 8, standardised; normal, scale 0.5'
    """
    for kind, value, known in (
        ("likelihood", likelihood, registry("likelihoods").names()),
        ("transform", transform, TRANSFORMS),
    ):
        if value is not None and value not in known:
            raise UsageError(unknown_name(kind, value, known))
    used = raw.values[np.unique(np.concatenate(list(parts.values())))]
    if not len(used) or used.size == 0:
        msg = f"modality {name!r} has no values: its array has shape {raw.values.shape}"
        raise DataError(msg)
    if (used == used.flat[0]).all():
        msg = f"modality {name!r}: all values are {used.flat[0]}, so there is nothing to learn"
        raise DataError(msg)
    chosen = likelihood or _suggested(used)
    scales = chosen == "continuous" or registry("likelihoods").load(chosen).is_location
    if transform not in {None, "none"} and not scales:
        msg = f"modality {name!r} is {chosen}: its values cannot be transformed by {transform}"
        raise UsageError(msg)
    if used.dtype.kind in "SU" and chosen != "categorical":
        msg = f"modality {name!r} holds texts: a {chosen} likelihood needs numbers"
        raise DataError(msg)
    if chosen == "categorical":
        return _categorical(name, raw, used, parts)
    found = _shaped(raw.values, used)
    if chosen == "bernoulli":
        return _bernoulli(name, raw, found, used, parts)
    if not scales:
        arrays = {p: _kept(found.values[r]) for p, r in parts.items()}
        about = {"names": np.array(raw.columns)} if raw.columns else {}
        words = f"values {_range(used)}{found.note}, left as they are; {chosen}"
        return Decided(Modality(name, found.values.shape[1:], chosen), arrays, about, words)
    return _continuous(name, raw, found, used, parts, likelihood, transform)


def _suggested(used: NDArray[Any]) -> str:
    """bernoulli, categorical or continuous."""
    if used.dtype.kind in "SU":
        return "categorical"
    if used.dtype == bool or _is_binary(used):
        return "bernoulli"
    single = used.ndim == 1 or used.shape[1:] == (1,)
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


def _shaped(values: NDArray[Any], used: NDArray[Any]) -> _Found:
    """Values as (rows, *shape); images as (rows, channels, height, width)."""
    if values.ndim == 1:
        return _Found(values[:, None], False)
    if values.ndim < 3:
        return _Found(values, False)
    unit = values.dtype in {np.dtype(np.uint8), np.dtype(bool)} or bool(
        used.min() >= 0 and used.max() <= 1
    )
    if values.ndim == 3:
        image = unit and min(values.shape[1:]) >= 8
        return _Found(values[:, None] if image else values, image)
    first, last = values.shape[1] in {1, 2, 3, 4}, values.shape[-1] in {1, 2, 3, 4}
    if values.ndim == 4 and last and not first:
        return _Found(np.moveaxis(values, -1, 1), True, ", channels moved to the front")
    return _Found(values, values.ndim == 4)


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
    shown = ", ".join(str(_plain(c)) for c in classes[:8])
    words = f"{len(classes)} classes ({shown}{'...' if len(classes) > 8 else ''}); categorical"
    named = classes.astype(np.int64) if classes.dtype.kind == "f" else classes
    about = {"classes": named.astype(np.str_)}
    return Decided(Modality(name, (len(classes),), "categorical"), arrays, about, words)


def _bernoulli(
    name: str, raw: Raw, found: _Found, used: NDArray[Any], parts: Mapping[str, NDArray[np.int64]]
) -> Decided:
    modality = Modality(name, found.values.shape[1:], "bernoulli")
    about = {"names": np.array(raw.columns)} if raw.columns else {}
    if _is_binary(used):
        arrays = {p: 255 * (found.values[r] != 0).astype(np.uint8) for p, r in parts.items()}
        return Decided(modality, arrays, about, f"values 0 and 1{found.note}; bernoulli")
    if used.dtype != np.uint8 and (used.min() < 0 or used.max() > 1):
        msg = f"modality {name!r} runs {_range(used)}: a bernoulli likelihood needs 0 to 1"
        raise DataError(msg)
    arrays = {p: _kept(found.values[r]) for p, r in parts.items()}
    return Decided(modality, arrays, about, f"values {_range(used)}{found.note}; bernoulli")


def _continuous(
    name: str,
    raw: Raw,
    found: _Found,
    used: NDArray[Any],
    parts: Mapping[str, NDArray[np.int64]],
    likelihood: str | None,
    transform: str | None,
) -> Decided:
    unit = found.image and (used.dtype == np.uint8 or (used.min() >= 0 and used.max() <= 1))
    if unit and transform in {None, "none"}:
        kind = likelihood or "laplace"
        scale = IMAGE_SCALE if kind == "laplace" else NOISE
        modality = Modality(name, found.values.shape[1:], {"kind": kind, "scale": scale})
        arrays = {p: _kept(found.values[r]) for p, r in parts.items()}
        what = "intensities" if used.dtype == np.uint8 else "values"
        words = f"{what} {_range(used)}{found.note}; {kind}, scale {scale:g}"
        return Decided(modality, arrays, {}, words)
    step = transform or _suggested_transform(used, found.values[parts["train"]])
    if step == "log1p" and used.min() < 0:
        msg = f"modality {name!r} has values down to {_plain(used.min())}: log1p needs 0 or more"
        raise DataError(msg)
    values = {p: _stepped(found.values[r], step) for p, r in parts.items()}
    axes = tuple(range(values["train"].ndim)) if found.image else (0,)
    shape = (1,) * len(found.values.shape[1:]) if found.image else found.values.shape[1:]
    shift, spread, still = np.zeros(shape), np.ones(shape), 0
    if step != "none":
        shift = values["train"].mean(axes, dtype=np.float64).reshape(shape)
        spread = values["train"].std(axes, dtype=np.float64).reshape(shape)
        flat = spread <= 1e-7 * np.maximum(1, np.abs(shift))
        still, spread = int(flat.sum()), np.where(flat, 1.0, spread)
    arrays = {p: ((v - shift) / spread).astype(np.float32) for p, v in values.items()}
    kind = likelihood or "normal"
    noise = float(f"{NOISE * _deviation(arrays['train']):.2g}")
    if not noise > 0:
        msg = f"modality {name!r}: no value varies over the rows to train on"
        raise DataError(msg)
    modality = Modality(name, found.values.shape[1:], {"kind": kind, "scale": noise})
    about: dict[str, NDArray[Any]] = {"names": np.array(raw.columns)} if raw.columns else {}
    if step != "none":
        about |= {"shift": shift, "scale": spread, "log1p": np.array(step == "log1p")}
    words = f"values {_range(used)}{found.note}{_DONE[step]}; {kind}, scale {noise:g}"
    warning = ""
    if still:
        warning = f"{name}: {still} of {spread.size} values are constant in the rows to train on"
    return Decided(modality, arrays, about, words, cast("Transform", step), warning)


_DONE = {
    "none": ", left as they are",
    "standardise": ", standardised",
    "log1p": ", taken as counts: log(1 + x), then standardised",
}


def _suggested_transform(used: NDArray[Any], train: NDArray[Any]) -> str:
    """log1p for counts, none for what is standardised already, else standardise."""
    if _is_whole(used) and used.min() >= 0 and used.max() >= 10 and used.ndim == 2:
        zeros = np.count_nonzero(used == 0) / used.size
        if zeros >= 0.05 and used.shape[1] > 1:
            return "log1p"
    mean, spread = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    already = (np.abs(mean) < 0.2).all() and ((spread > 0.8) & (spread < 1.25)).all()
    return "none" if already else "standardise"


def _stepped(values: NDArray[Any], step: str) -> NDArray[Any]:
    found = values.astype(np.float64 if values.dtype.itemsize > 4 else np.float32)
    return np.log1p(found) if step == "log1p" else found


def _deviation(train: NDArray[Any]) -> float:
    """Root mean square of the distance from the mean row."""
    return float(np.sqrt(train.var(0, dtype=np.float64).mean()))


def _kept(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype == np.uint8 else values.astype(np.float32)


def _range(used: NDArray[Any]) -> str:
    return f"{_plain(used.min())} to {_plain(used.max())}"


def _plain(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, int | float | np.number | np.bool_) else value
