"""Speed of shuffled batches from a store, against a plain NumPy memory map; prints Markdown.

    python -m benchmarks.store                   # a store of noise, made for the purpose
    python -m benchmarks.store --quick
    python -m benchmarks.store polymnist.h5      # mvflow data build polymnist polymnist.h5 ...
    python -m benchmarks.store --device cuda

Every turn reads the same fresh shuffle in every way, all modalities of each batch. The rows are
read once beforehand, so they come from the page cache. MB are those of the store (10^6 bytes,
as stored, whatever they become), seconds those on the wall. The ratio is the median over turns.

The store of noise has the form of MNIST-SVHN: 60,000 and 73,257 images, of which 280,340 rows
take one each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from benchmarks.common import (
    Report,
    Rows,
    add_options,
    parsed,
    script_parser,
    synchronise,
    turn_by_turn,
)
from mvflow.core import Modality
from mvflow.training import Table
from mvflow_datasets import Split, SplitData, Store, write_store

PLAIN = "NumPy memory map"
ROWS = 280_340
IMAGES = {"mnist": (60_000, (1, 28, 28)), "svhn": (73_257, (3, 32, 32))}
"""Modality -> distinct images and the shape of each."""
QUICK = {"batches": 10, "turns": 3, "share": 0.02}


def main() -> None:
    arguments = _arguments()
    report = Report(__doc__.splitlines()[0].removesuffix("; prints Markdown."), arguments, "h5py")
    with _store(arguments) as store:
        report.found["data"] = {k: v for k, v in store.info().items() if k != "path"}
        rows = _measured(arguments, store, store[arguments.split])
    report.add("reading", f"Batches of {arguments.batch} rows, in random order.", rows)


@contextmanager
def _store(arguments: argparse.Namespace) -> Iterator[Store]:
    """The store that was asked for, or one of noise that is removed in the end."""
    if arguments.store is not None:
        with Store.open(arguments.store) as store:
            yield store
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.h5"
        _write_noise(path, arguments.share)
        with Store.open(path) as store:
            yield store


def _write_noise(path: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    counts = {name: max(1, round(share * count)) for name, (count, _) in IMAGES.items()}
    rows = max(1, round(share * ROWS))
    arrays = {
        name: rng.integers(0, 256, (counts[name], *shape), np.uint8)
        for name, (_, shape) in IMAGES.items()
    }
    pairs = {name: rng.integers(0, count, rows) for name, count in counts.items()}
    split = SplitData(arrays=arrays, labels=rng.integers(0, 10, rows), pairs=pairs)
    modalities = [Modality(name, shape, "laplace") for name, (_, shape) in IMAGES.items()]
    write_store(path, name="noise", modalities=modalities, splits={"train": split})


def _measured(arguments: argparse.Namespace, store: Store, split: Split) -> Rows:
    read = arguments.batch * min(arguments.batches, len(split) // arguments.batch)
    if read == 0:
        raise SystemExit(f"{len(split)} rows are fewer than a batch of {arguments.batch}")
    rng, shuffled = np.random.default_rng(0), np.empty((0, arguments.batch), np.int64)

    def shuffle() -> None:
        nonlocal shuffled
        shuffled = rng.permutation(len(split))[:read].reshape(-1, arguments.batch)

    def over(take_all: Callable[[np.ndarray], Any]) -> Callable[[], None]:
        def read_all() -> None:
            take_all(shuffled)
            synchronise(arguments.device)

        return read_all

    ways = {name: over(take) for name, take in _ways(store, split, arguments.device).items()}
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
            "rows/s": round(read / float(np.median(each))),
            "times memory map": round(float(np.median(plain / np.array(each))), 2),
        }
        for name, each in seconds.items()
    ]


def _ways(store: Store, split: Split, device: str) -> Mapping[str, Callable[[np.ndarray], Any]]:
    """By name, what reads all batches of a shuffle, (batches, rows) positions."""
    columns = split.columns()
    with h5py.File(store.path, "r") as file:
        places = {name: file[split.name][name].id.get_offset() for name in columns}
    maps = [
        (np.memmap(store.path, c.values.dtype, "r", places[name], c.values.shape), c.index)
        for name, c in columns.items()
    ]
    held, streamed = Table.of(split, device), Table.of(split, device, budget=0)

    def plain(at: np.ndarray) -> None:
        for values, index in maps:
            values[at if index is None else index[at]]

    def stored(at: Tensor) -> None:
        for c in held.columns.values():
            c.gather(at)

    return {
        PLAIN: partial(_one_by_one, plain),
        "Split.take": partial(_one_by_one, split.take),
        "Table, held, as stored": lambda all_of: _one_by_one(stored, _on(device, all_of)),
        "Table, held, as floats": lambda all_of: _emptied(held.each(_on(device, all_of))),
        "Table, streamed, as floats": lambda all_of: _emptied(streamed.each(_on(device, all_of))),
    }


def _on(device: str, positions: np.ndarray) -> Tensor:
    return torch.from_numpy(positions).to(device)


def _one_by_one(take: Callable[[Any], Any], batches: Iterable[Any]) -> None:
    for batch in batches:
        take(batch)


def _emptied(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass


def _arguments() -> argparse.Namespace:
    parser = script_parser("store", __doc__)
    parser.add_argument("store", type=Path, nargs="?", help="by default one of noise is made")
    parser.add_argument("--split", default="train")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=100, help="per turn")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the size, of a store of noise"
    )
    add_options(parser)
    return parsed(parser, "store", QUICK)


if __name__ == "__main__":
    main()
