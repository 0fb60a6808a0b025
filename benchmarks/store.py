"""Speed of shuffled batches from a store, against a plain NumPy memory map; prints Markdown.

    mvflow data build polymnist polymnist.h5 --source DIR
    python benchmarks/store.py polymnist.h5

Every turn reads the same fresh shuffle in every way, all modalities of each batch. The rows are
read once beforehand, so they come from the page cache. MB are those of the store (10^6 bytes,
as stored, whatever they become), seconds those on the wall. The ratio is the median over turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Rows, about, markdown, turn_by_turn

from mvflow.runs import write_json
from mvflow.training.table import Table
from mvflow_datasets import Split, Store

PLAIN = "NumPy memory map"


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    with Store.open(arguments.store) as store:
        rows = _measured(arguments, store[arguments.split])
        data = {key: value for key, value in store.info().items() if key != "path"}
    print(markdown(rows))
    write_json(arguments.out, {"about": about("h5py"), "data": data, "reading": rows})


def _measured(arguments: argparse.Namespace, split: Split) -> Rows:
    read = arguments.batch * min(arguments.batches, len(split) // arguments.batch)
    rng, shuffled = np.random.default_rng(0), np.empty((0, arguments.batch), np.int64)

    def shuffle() -> None:
        nonlocal shuffled
        shuffled = rng.permutation(len(split))[:read].reshape(-1, arguments.batch)

    def over(take: Callable[[np.ndarray], Any]) -> Callable[[], None]:
        def read_all() -> None:
            for batch in shuffled:
                take(batch)

        return read_all

    ways = {name: over(take) for name, take in _ways(split).items()}
    seconds = turn_by_turn(ways, arguments.turns + 1, time.perf_counter, shuffle)
    seconds = {name: each[1:] for name, each in seconds.items()}  # the first one warms up
    per_row = sum(c.values.nbytes // max(1, len(c.values)) for c in split.columns().values())
    plain = np.array(seconds[PLAIN])
    return [
        {
            "read by": name,
            "median MB/s": round(read * per_row / 1e6 / float(np.median(each))),
            "slowest": round(read * per_row / 1e6 / max(each)),
            "fastest": round(read * per_row / 1e6 / min(each)),
            "times memory map": round(float(np.median(plain / np.array(each))), 2),
        }
        for name, each in seconds.items()
    ]


def _ways(split: Split) -> dict[str, Callable[[np.ndarray], Any]]:
    columns = list(split.columns().values())
    if not all(isinstance(c.values, np.memmap) for c in columns):
        raise SystemExit("the store is not contiguous: there is no memory map to compare with")
    table = Table.of(split)
    return {
        PLAIN: lambda at: [c.values[at if c.index is None else c.index[at]] for c in columns],
        "Split.take": split.take,
        "Table, as stored": lambda at: [
            c.gather(torch.from_numpy(at)) for c in table.columns.values()
        ],
        "Table, as floats": lambda at: table.gather(torch.from_numpy(at)),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=100, help="per turn")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/store.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
