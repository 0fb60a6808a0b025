"""From what the files hold to rows: paired by position or by key, with labels and groups."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mvflow.core import COVARIATES, DataError, Presence, UsageError
from mvflow_datasets.importing.pairing import joined
from mvflow_datasets.importing.references import Raw

__all__ = ["JOINS", "Rows", "pair"]

MOST_LABELS = 1000
MAX_KINDS = 12
"""Kinds of rows, by the modalities that they have, with a line of their own in the report."""
JOINS = ("inner", "outer")

_Paired: TypeAlias = tuple[NDArray[np.str_], dict[str, NDArray[np.int64]], str]
"""Keys of the rows, position of each row in each file or -1, and how they were paired."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of the data set that is made.

    Args:
        positions: modality -> (rows,) row of its file, -1 where the row lacks the modality.
        origin: (rows,) key of each row, or its number where there are no keys.
        groups: (rows,) what must not be on both sides of a split.
        labels: (rows,) class of each row, from 0; -1 where it is not known.
        classes: what the classes are called in the file.
        covariates: name -> (rows,) values of each row.
        words: how the rows were paired, for the report.
        lines: a sentence for each kind of row, by the modalities that it has.
    """

    positions: Mapping[str, NDArray[np.int64]]
    origin: NDArray[np.str_]
    groups: NDArray[np.str_]
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    covariates: Mapping[str, NDArray[np.generic]]
    words: str
    lines: tuple[str, ...] = ()


def pair(
    raws: Mapping[str, Raw],
    keys: Mapping[str, NDArray[np.str_]],
    modalities: Collection[str],
    join: str = "inner",
) -> Rows:
    """Pair the rows of all modalities, and of labels, groups and covariates if there are any.

    With keys, rows that share one are paired. Without, files that name their rows (images,
    obs_names, row names) are paired by these names if they differ, and rows by position else.

    Args:
        raws: name -> what was read, `labels`, `groups` and `covariates/NAME` among them.
        keys: name -> (rows,) keys that the user named.
        modalities: which of them are modalities; the others have one value for each key.
        join: `inner` keeps rows that have all of them; `outer` all that have any modality, with
            or without a label.

    Raises:
        DataError: if numbers of rows differ without keys, row names contradict each other,
            labels contradict each other, no row is left, or nothing links two modalities.
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
        rows = _by_key(raws, known, modalities, join)
        named = len({key for name in modalities for key in known[name].tolist()})
        empty = named - len({*rows[0].tolist()})
    else:
        rows, empty = _by_position(raws, known, modalities), 0
    return _completed(raws, *_joined(raws, *rows, modalities, join, empty), modalities)


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
) -> _Paired:
    counts = {name: raw.values.shape[0] for name, raw in raws.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {n:,}" for name, n in counts.items())
        msg = (
            f"the numbers of rows differ ({listed}): give keys that tell which rows belong "
            "together (--keys NAME=FILE[:COLUMN], or --index COLUMN where each table has a column "
            "that names its rows)"
        )
        raise DataError(msg)
    rows = np.arange(next(iter(counts.values())))
    origin = next(iter(known.values()), rows.astype(np.str_))
    positions = {
        n: rows if r.lacks is None else np.where(r.lacks, -1, rows) for n, r in raws.items()
    }
    agree = ", where the names of all rows agree" if len(known) > 1 else ""
    return origin, positions, f"paired by position{agree}"


def _by_key(
    raws: Mapping[str, Raw],
    known: Mapping[str, NDArray[np.str_]],
    modalities: Collection[str],
    join: str,
) -> _Paired:
    """Join of all; labels, groups and covariates count once for each key."""
    keys, rows = {}, {}
    for name, raw in raws.items():
        has = np.arange(raw.values.shape[0])
        has = has if raw.lacks is None else has[~raw.lacks]
        keys[name], rows[name] = known[name][has], has
        if name not in modalities:
            keys[name], first = _once(name, raw.values[has], keys[name])
            rows[name] = has[first]
    origin, positions = joined(keys, outer=[*raws] if join == "outer" else ())
    at = {name: np.where(p < 0, -1, rows[name][p]) for name, p in positions.items()}
    return origin, at, "paired by key"


def _joined(
    raws: Mapping[str, Raw],
    origin: NDArray[np.str_],
    positions: Mapping[str, NDArray[np.int64]],
    how: str,
    modalities: Collection[str],
    join: str,
    empty: int,
) -> tuple[NDArray[np.str_], dict[str, NDArray[np.int64]], str, tuple[str, ...]]:
    """Rows that are kept, and words on them and on what was dropped, `empty` keys before."""
    has = {name: at >= 0 for name, at in positions.items()}
    if join == "inner":
        kept = np.logical_and.reduce(list(has.values()))
    else:
        kept = np.logical_or.reduce([has[name] for name in modalities])
    if not kept.any():
        msg = f"no row has all of {', '.join(positions)}: --join outer keeps rows that lack some"
        raise DataError(msg)
    empty += int((~kept).sum())
    origin, positions = origin[kept], {name: at[kept] for name, at in positions.items()}
    distinct = len(np.unique(origin)) if how == "paired by key" else len(origin)
    repeats = f" of {distinct:,} keys, which repeat" if distinct < len(origin) else ""
    dropped = {
        name: raws[name].values.shape[0] - len(np.unique(positions[name][positions[name] >= 0]))
        for name in modalities
    }
    if join == "inner":
        listed = ", ".join(f"{n:,} of {name}" for name, n in dropped.items() if n)
        without = f"; dropped rows without a partner: {listed} (--join outer keeps them)"
        end = without if listed else "; no row was dropped" if how == "paired by key" else ""
        return origin, positions, f"{len(origin):,} rows{repeats}, {how}{end}", ()
    names = tuple(modalities)
    rows = np.stack([positions[name] >= 0 for name in names], axis=1)
    kinds = {}
    for kind, count in zip(*np.unique(rows, axis=0, return_counts=True), strict=True):
        kinds[tuple(compress(names, kind))] = int(count)
    for name in positions:
        if name not in (*names, "labels") and (positions[name] < 0).any():
            key = str(origin[int(np.argmax(positions[name] < 0))])
            msg = f"{name} has no value for row {key!r}: every row needs one, whatever it lacks"
            raise DataError(msg)
    Presence(names, kinds).check()
    lost = f"; left out {empty:,} of which nothing is given" if empty else ""
    return (
        origin,
        positions,
        f"{len(origin):,} rows{repeats}, {how} (outer join){lost}",
        _kinds(kinds, len(names)),
    )


def _kinds(kinds: Mapping[tuple[str, ...], int], everything: int) -> tuple[str, ...]:
    """A line for each kind of row, the most frequent first, as far as there are not too many."""
    ranked = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    lines = [
        f"{count:,} rows have {'' if len(kind) == everything else 'only '}{', '.join(kind)}"
        for kind, count in ranked[:MAX_KINDS]
    ]
    if rest := ranked[MAX_KINDS:]:
        lines.append(f"{sum(n for _, n in rest):,} rows have others of {len(rest)} kinds")
    return tuple(lines)


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
    origin: NDArray[np.str_],
    positions: Mapping[str, NDArray[np.int64]],
    words: str,
    lines: tuple[str, ...],
    modalities: Collection[str],
) -> Rows:
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if "labels" in raws:
        at = positions["labels"]
        labels = np.full(len(at), -1)
        labels[at >= 0], classes = _class_numbers(raws["labels"].values[at[at >= 0]])
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
    return Rows(data, origin, groups, labels, classes, covariates, words, lines)


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
        which = f"all labels are {classes[0]}" if len(classes) else "no row has a label"
        msg = f"{which}: coherence needs two classes, so leave --labels out"
        raise DataError(msg)
    if len(classes) > MOST_LABELS:
        msg = f"there are {len(classes):,} different labels, more than {MOST_LABELS:,}"
        raise DataError(msg)
    return numbers.astype(np.int64), tuple(str(c) for c in classes)
