"""Two stores made from one: rows that lack a modality, and the rows that are left without them.

    python -m benchmarks.thinned mnist-svhn.h5 --out thinned --by svhn --share 0.5

Of a share of the distinct items of one modality no row is complete: each row that has one of them
keeps one of its modalities, drawn at random. `incomplete.h5` has all rows, `dropped.h5` those that
are complete. Test rows stay complete. What a model trained on each is worth, beside one trained on
the store itself, says what training on incomplete rows brings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvflow.core import generator
from mvflow_datasets import SplitData, Store, write_store

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
        names = [m.name for m in store["train"].modalities]
        columns = {split: store[split].columns() for split in store.splits}
        labels = {split: store[split].labels for split in store.splits}
        pairs = np.stack([columns["train"][n].index for n in names], 1)
        rng = generator(options.seed, "thinned")
        thin = thinned(pairs, names.index(options.by), options.share, rng)
        for name, rows in (("incomplete", np.arange(len(thin))), ("dropped", _complete(thin))):
            splits = {
                split: SplitData(
                    {n: columns[split][n].values for n in names},
                    labels=labels[split],
                    pairs={n: columns[split][n].index for n in names},
                )
                for split in store.splits
            }
            train = splits["train"]
            splits["train"] = SplitData(
                train.arrays,
                labels=labels["train"][rows],
                pairs=dict(zip(names, thin[rows].T, strict=True)),
            )
            path = options.out / f"{name}.h5"
            note = f"{store.note}; {name}, {options.share:.0%} of {options.by}".removeprefix("; ")
            write_store(
                path,
                name=store.name,
                modalities=store["train"].modalities,
                splits=splits,
                note=note,
            )
            print(f"{path}: {len(rows):,} rows, {len(_complete(thin[rows])):,} of them complete")


def _complete(pairs: NDArray[np.int64]) -> NDArray[np.intp]:
    return np.flatnonzero((pairs >= 0).all(1))


if __name__ == "__main__":
    main()
