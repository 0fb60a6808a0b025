"""From what the files hold to rows: paired by position or by key, with labels and groups."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvflow.core import COVARIATES, DataError, UsageError
from mvflow_datasets.importing.pairing import joined
from mvflow_datasets.importing.references import Raw

__all__ = ["Rows", "pair"]

MOST_LABELS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of the data set that is made.

    Args:
        positions: modality -> (rows,) row of its file.
        origin: (rows,) key of each row, or its number where there are no keys.
        groups: (rows,) what must not be on both sides of a split.
        labels: (rows,) class of each row, from 0.
        classes: what the classes are called in the file.
        covariates: name -> (rows,) values of each row.
        words: how the rows were paired, for the report.
    """

    positions: Mapping[str, NDArray[np.int64]]
    origin: NDArray[np.str_]
    groups: NDArray[np.str_]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    covariates: Mapping[str, NDArray[np.generic]]
    words: str


def pair(
    raws: Mapping[str, Raw],
    keys: Mapping[str, NDArray[np.str_]],
    modalities: Collection[str],
) -> Rows:
    """Pair the rows of all modalities, and of labels, groups and covariates if there are any.

    With keys, rows that share one are paired (inner join). Without, files that name their rows
    (images, obs_names, row names) are paired by these names if they differ, and rows by position
    else.

    Args:
        raws: name -> what was read, `labels`, `groups` and `covariates/NAME` among them.
        keys: name -> (rows,) keys that the user named.
        modalities: which of them are modalities; the others have one value for each key.

    Raises:
        DataError: if numbers of rows differ without keys, row names contradict each other, or
            labels contradict each other.
        UsageError: if keys are missing.
    """
    known = {n: k for n, r in raws.items() if (k := keys.get(n, r.keys)) is not None}
    for name, own_keys in known.items():
        rows = raws[name].values.shape[0]
        if len(own_keys) != rows:
            msg = f"{name} has {rows} rows, but {len(own_keys)} keys: expected one for each row"
            raise DataError(msg)
    if keys or not _agree(known, raws):
        _check_all_have_keys(raws, known)
        return _by_key(raws, known, modalities)
    return _by_position(raws, known, modalities)


def _agree(known: Mapping[str, NDArray[np.str_]], raws: Mapping[str, Raw]) -> bool:
    """Whether all files that name their rows name the same ones in the same order.

    Raises:
        DataError: if they do not, and there are files that name no rows.
    """
    first, *others = known or [""]
    for other in others:
        if not np.array_equal(known[first], known[other]):
            unnamed = [name for name in raws if name not in known]
            if unnamed:
                msg = (
                    f"{first} and {other} name their rows differently, and {unnamed[0]} does not "
                    f"name its rows: give its keys (--keys {unnamed[0]}=FILE)"
                )
                raise DataError(msg)
            return False
    return True


def _check_all_have_keys(raws: Mapping[str, Raw], known: Mapping[str, NDArray[np.str_]]) -> None:
    for name in raws:
        if name not in known:
            msg = (
                f"{name} has no keys: rows are paired by key, so give --keys {name}=FILE[:COLUMN]"
            )
            raise UsageError(msg)


def _by_position(
    raws: Mapping[str, Raw], known: Mapping[str, NDArray[np.str_]], modalities: Collection[str]
) -> Rows:
    counts = {name: raw.values.shape[0] for name, raw in raws.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {n:,}" for name, n in counts.items())
        msg = (
            f"the numbers of rows differ ({listed}): give keys that tell which rows belong "
            "together (--keys NAME=FILE[:COLUMN])"
        )
        raise DataError(msg)
    rows = np.arange(next(iter(counts.values())))
    origin = next(iter(known.values()), rows.astype(np.str_))
    positions = {name: rows for name in raws}
    agree = ", where the names of all rows agree" if len(known) > 1 else ""
    words = f"{len(rows):,} rows, paired by position{agree}"
    return _completed(raws, positions, origin, words, modalities)


def _by_key(
    raws: Mapping[str, Raw], known: Mapping[str, NDArray[np.str_]], modalities: Collection[str]
) -> Rows:
    """Inner join of all; labels, groups and covariates count once for each key."""
    keys, firsts = {}, {}
    for name in raws:
        if name in modalities:
            keys[name] = known[name]
        else:
            keys[name], firsts[name] = _once(name, raws[name].values, known[name])
    origin, positions = joined(keys)
    positions |= {name: first[positions[name]] for name, first in firsts.items()}
    dropped = [
        f"{raws[name].values.shape[0] - len(np.unique(positions[name])):,} of {name}"
        for name in modalities
        if len(np.unique(positions[name])) < raws[name].values.shape[0]
    ]
    distinct = len(np.unique(origin))
    repeats = f" of {distinct:,} keys, which repeat" if distinct < len(origin) else ""
    without = f"; dropped rows without a partner: {', '.join(dropped)}" if dropped else ""
    words = f"{len(origin):,} rows{repeats}, paired by key{without or '; no row was dropped'}"
    return _completed(raws, positions, origin, words, modalities)


def _once(
    name: str, values: NDArray[np.generic], keys: NDArray[np.str_]
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Distinct keys and the first row of each, all of whose rows must say the same."""
    distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    differs = values != values[first][inverse]
    if differs.any():
        row = int(np.argmax(differs))
        msg = (
            f"{name}: key {str(keys[row])!r} has {values[first[inverse[row]]]} and {values[row]}: "
            "expected one for each key"
        )
        raise DataError(msg)
    return distinct, first


def _completed(
    raws: Mapping[str, Raw],
    positions: Mapping[str, NDArray[np.int64]],
    origin: NDArray[np.str_],
    words: str,
    modalities: Collection[str],
) -> Rows:
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if "labels" in raws:
        labels, classes = _class_numbers(raws["labels"].values[positions["labels"]])
    groups = origin
    if "groups" in raws:
        groups = raws["groups"].values[positions["groups"]].astype(np.str_)
        words += f", in {len(np.unique(groups)):,} groups"
    data = {name: positions[name] for name in modalities}
    covariates = {
        name.removeprefix(COVARIATES): raw.values[positions[name]]
        for name, raw in raws.items()
        if name.startswith(COVARIATES)
    }
    return Rows(data, origin, groups, labels, classes, covariates, words)


def _class_numbers(values: NDArray[np.generic]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Classes in their order, as 0, 1, 2..., and what they are called."""
    if values.dtype.kind in "SU":
        texts = values.astype(np.str_)
        is_whole = all(re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in np.unique(texts))
        values = texts.astype(np.int64) if is_whole else texts
    elif values.dtype.kind == "f":
        broken = values != np.floor(values)
        if broken.any():
            row = int(np.argmax(broken))
            msg = f"labels, row {row} is {values[row]}: expected classes, not measurements"
            raise DataError(msg)
        values = values.astype(np.int64)
    classes, numbers = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        msg = f"all labels are {classes[0]}: coherence needs two classes, so leave --labels out"
        raise DataError(msg)
    if len(classes) > MOST_LABELS:
        msg = f"there are {len(classes):,} different labels, more than {MOST_LABELS:,}"
        raise DataError(msg)
    return numbers.astype(np.int64), tuple(str(c) for c in classes)
