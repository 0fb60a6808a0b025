"""Which rows belong together, and which part of the data each goes to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvflow.core import DataError, UsageError, generator

__all__ = ["divided", "joined", "split_shares"]

MOST_PAIRS = 10_000_000
PARTS = {2: ("train", "test"), 3: ("train", "validation", "test")}


def joined(
    keys: Mapping[str, NDArray[np.str_]], outer: Collection[str] = ()
) -> tuple[NDArray[np.str_], dict[str, NDArray[np.int64]]]:
    """Join: rows of each set for every combination of rows that share a key.

    Args:
        keys: name of a set -> (rows,) keys, which may repeat.
        outer: sets of which any one that has a key is enough (outer join); all others need it.

    Returns:
        The key of each combination, sorted, and name of a set -> positions in that set, -1 where
        it lacks the key.

    Raises:
        DataError: if no key is left, or there are too many combinations.

    Examples:
        >>> sets = {"a": np.array(["x", "y"]), "b": np.array(["y", "z", "y"])}
        >>> joined(sets)
        (array(['y', 'y'], dtype='<U1'), {'a': array([1, 1]), 'b': array([0, 2])})
        >>> joined(sets, outer=("a", "b"))[1]
        {'a': array([ 0,  1,  1, -1]), 'b': array([-1,  0,  2,  1])}
    """
    distinct = {name: np.unique(k) for name, k in keys.items()}
    needed = [distinct[name] for name in keys if name not in outer]
    if outer:
        needed.append(reduce(np.union1d, (distinct[name] for name in keys if name in outer)))
    common: NDArray[np.str_] = reduce(np.intersect1d, needed)
    if not len(common):
        listed = ", ".join(f"{name} has {str(k[0])!r}" for name, k in keys.items() if len(k))
        msg = f"no key occurs in all of {', '.join(keys)}: for example, {listed}"
        raise DataError(msg)
    order, start, count = {}, {}, {}
    for name, values in keys.items():
        order[name] = np.argsort(values, kind="stable")
        ranked = values[order[name]]
        start[name] = np.searchsorted(ranked, common, "left")
        count[name] = np.searchsorted(ranked, common, "right") - start[name]
    rows = {name: np.maximum(n, 1) for name, n in count.items()}
    sizes = reduce(np.multiply, (n.astype(np.float64) for n in rows.values()))
    if sizes.sum() > MOST_PAIRS:
        worst = common[int(np.argmax(sizes))]
        times = ", ".join(f"{n} {int(c[np.argmax(sizes)])} times" for n, c in count.items())
        msg = (
            f"the keys make {sizes.sum():.3g} combinations, more than {MOST_PAIRS:,}: "
            f"key {str(worst)!r} occurs in {times}; use keys that tell rows apart"
        )
        raise DataError(msg)
    block = np.repeat(np.arange(len(common)), sizes.astype(np.int64))
    ends = np.cumsum(sizes.astype(np.int64))
    within = np.arange(len(block)) - (ends - sizes.astype(np.int64))[block]
    positions = {}
    for name in reversed(list(keys)):
        within, digit = np.divmod(within, rows[name][block])
        has = count[name][block] > 0
        at = np.minimum(start[name][block] + digit, len(order[name]) - 1)
        positions[name] = np.where(has, order[name][at] if len(order[name]) else -1, -1)
    return common[block], {name: positions[name] for name in keys}


def split_shares(text: str) -> tuple[float, ...]:
    """Shares of the parts from text.

    Raises:
        UsageError: if they are not two or three positive numbers with the sum 1.

    Examples:
        >>> split_shares("0.8,0.1,0.1")
        (0.8, 0.1, 0.1)
    """
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    fits = len(shares) in PARTS and all(0 < s < 1 for s in shares)
    if not fits or abs(sum(shares) - 1) > 1e-6:
        msg = (
            f"the split is {text!r}: expected train,test or train,validation,test shares "
            "that sum to 1, as in 0.8,0.1,0.1"
        )
        raise UsageError(msg)
    return shares


def divided(groups: ArrayLike, shares: Sequence[float], seed: int) -> dict[str, NDArray[np.int64]]:
    """Rows of each part, in their order; rows of one group stay together.

    The groups are shuffled, then cut where the number of rows comes nearest to the shares.

    Args:
        groups: (rows,) group of each row.
        shares: of train and test, or of train, validation and test.
        seed: of the shuffle.

    Raises:
        DataError: if a part is left empty, or fewer than two rows are left to train on.

    Examples:
        >>> parts = divided(["a", "a", "b", "b", "b"], [0.6, 0.4], seed=0)
        >>> {name: rows.tolist() for name, rows in parts.items()}
        {'train': [2, 3, 4], 'test': [0, 1]}
    """
    names, member, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    order = generator(seed, "import", "split").permutation(len(names))
    rows = len(member)
    middle = np.cumsum(sizes[order]) - sizes[order] / 2
    cuts = np.round(np.cumsum(shares)[:-1] * rows)
    part = np.empty(len(names), np.int64)
    part[order] = np.searchsorted(cuts, middle, "right")
    out = {name: np.flatnonzero(part[member] == i) for i, name in enumerate(PARTS[len(shares)])}
    for name, members in out.items():
        if len(members) < (2 if name == "train" else 1):
            kind = "rows" if len(names) == rows else f"rows in {len(names)} groups"
            msg = (
                f"the {name} part of {rows} {kind} would have {len(members)}: "
                "bring more rows, or choose other shares (--split)"
            )
            raise DataError(msg)
    return out
