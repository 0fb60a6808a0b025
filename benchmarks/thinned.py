"""Two stores made from one: rows that lack a modality, and the rows that are left without them.

    python -m benchmarks.thinned mnist-svhn.h5 --out thinned --by svhn --share 0.5

Of a share of the distinct items of one modality no row is complete: each row that has one of them
keeps one of its modalities, drawn at random. `incomplete.h5` has all rows, `dropped.h5` those that
are complete. Test rows stay complete. What a model trained on each is worth, beside one trained on
the store itself, says what training on incomplete rows brings; `mvflow complete` makes a third
store of both.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvflow.core import generator
from mvflow_datasets import Store
from mvflow_datasets.rewriting import only_rows, rewrite_store

__all__ = ["main", "thinned"]


def thinned(
    pairs: NDArray[np.int64], column: int, share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Positions (rows, modalities) with -1 where a modality is left out.

    Args:
        pairs: positions of each row's items in the arrays of their modalities.
        column: of the modality whose items are drawn.
        share: of these items, of which no row stays complete.
        rng: draws the items, and what each of their rows keeps.
    """
    items = np.unique(pairs[:, column])
    chosen = rng.choice(items, round(share * len(items)), replace=False)
    at = np.flatnonzero(np.isin(pairs[:, column], chosen))
    kept = rng.integers(pairs.shape[1], size=len(at))
    thin = pairs.copy()
    thin[at] = -1
    thin[at, kept] = pairs[at, kept]
    return thin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the two stores")
    parser.add_argument("--by", required=True, help="modality whose items are drawn")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with Store.open(options.store) as store:
        split = store["train"]
        names, data = [m.name for m in split.modalities], split.data()
        all_rows, row_names = np.arange(len(split)), split.row_names
        pairs = data.pairs or dict.fromkeys(names, all_rows)
        rng = generator(options.seed, "thinned")
        given = np.stack([np.asarray(pairs[n]) for n in names], 1)
        thin = thinned(given, names.index(options.by), options.share, rng)
        data = replace(data, pairs=dict(zip(names, thin.T, strict=True)))
        for name, rows in (("incomplete", all_rows), ("dropped", _complete(thin))):
            path = rewrite_store(
                options.out / f"{name}.h5",
                store,
                {split.name: only_rows(data, rows)},
                row_names={split.name: np.array(row_names)[rows]} if row_names else None,
                note=f"{name}, {options.share:.0%} of {options.by}",
            )
            print(f"{path}: {len(rows):,} rows, {len(_complete(thin[rows])):,} of them complete")


def _complete(pairs: NDArray[np.int64]) -> NDArray[np.intp]:
    return np.flatnonzero((pairs >= 0).all(1))


if __name__ == "__main__":
    main()
