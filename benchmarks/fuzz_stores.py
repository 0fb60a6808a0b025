"""Damaged and forged stores by the thousand: none crashes, hangs, surprises or lies.

    python -m benchmarks.fuzz_stores --cases 10000

Case n is the same in every run. Damage (bits, blocks, edits through HDF5) must be refused, or
leave what is read as it was. Whoever forges a store, hashes and all, may change what it holds;
then it is refused, or what is read is such as a store may hold.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.cases import SECONDS, main
from mvflow.core import DataError, Modality, check_batch
from mvflow_datasets import SplitData, Store, write_store
from mvflow_datasets.manifest import Manifest
from mvflow_datasets.opened import OpenedFile

ODD: tuple[Any, ...] = (None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1.5, float("nan"))
ODD += ("", "x" * 70, "../a", [], {})
"""What is put in place of a value of a manifest."""


def make(path: Path, seed: int = 0) -> Path:
    """Write a small store with all that a store may hold."""
    rng = np.random.default_rng(seed)
    specs = [
        Modality("image", (1, 4, 4), "bernoulli"),
        Modality("vec", (3,)),
        Modality("cls", (4,), "categorical"),
    ]
    arrays = {
        "image": rng.integers(0, 256, (9, 1, 4, 4), np.uint8),
        "vec": rng.normal(size=(20, 3)).astype(np.float32),
        "cls": rng.integers(0, 4, 20),
    }
    pairs = {"image": rng.integers(-1, 9, 20), "vec": np.arange(20), "cls": np.arange(20)}
    labels, factors = rng.integers(-1, 4, 20), {"f": rng.normal(size=20)}
    return write_store(
        path,
        name="fuzz",
        modalities=specs,
        splits={
            "train": SplitData(arrays, labels, pairs, factors),
            "test": SplitData(
                {k: x[:9] for k, x in arrays.items()},
                labels[:9],
                present={"vec": rng.random((9, 3)) < 0.5},
            ),
        },
        builder={"name": "b", "parameters": {"rows": 1}, "seed": 0},
        sources={"a": "00"},
        about={"vec/names": np.array(["a", "b", "ü"]), "vec/shift": np.zeros(3)},
    )


def content(path: Path) -> list[Any]:
    """All that can be read, and checks of it; a store that is refused raises DataError."""
    values: list[Any] = []
    with Store.open(path) as store:
        json.dumps(store.info())
        values += [store.name, store.note, store.builder, store.sources, store.modalities]
        for key in ("vec/names", "vec/shift"):
            values.append(np.asarray(store.about(key)).tolist())
        for name in store.splits:
            split = store[name]
            rows = split.take(range(len(split)))
            check_batch({m.name: rows[m.name] for m in store.modalities}, store.modalities)
            assert all(len(x) == len(split) for x in rows.values())
            held = {"labels": split.labels, **split.factors}
            assert all(x is None or len(x) == len(split) for x in held.values())
            assert split.labels is None or (split.labels >= -1).all()
            values.append({k: None if x is None else x.tolist() for k, x in (rows | held).items()})
    return values


def flip(rng: random.Random, data: bytearray, folder: Path) -> None:
    """Flip bits."""
    for _ in range(rng.choice([1, 1, 1, 8, 64])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray, folder: Path) -> None:
    """Overwrite a block."""
    start, size = rng.randrange(len(data)), rng.choice([1, 8, 100, 4096])
    data[start : start + size] = rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size)])


def resize(rng: random.Random, data: bytearray, folder: Path) -> None:
    """Remove or insert a block."""
    at = rng.randrange(len(data))
    if rng.random() < 0.5:
        del data[at : at + rng.choice([1, 64, len(data)])]
    else:
        data[at:at] = data[: rng.choice([1, 64, 4096])]


def splice(rng: random.Random, data: bytearray, folder: Path) -> None:
    """Take a block of another store."""
    other = (folder / "other.h5").read_bytes()
    start = rng.randrange(64, len(data))  # from the beginning, it would be the other store
    size = rng.choice([64, 1024, len(data)])
    data[start : start + size] = other[start : start + size]


def edit(rng: random.Random, data: bytearray, folder: Path) -> None:
    """Through HDF5: a value, a link out of the file, storage elsewhere, a virtual dataset."""
    path = folder / "edited.h5"
    path.write_bytes(data)
    with h5py.File(path, "r+") as file:
        key = rng.choice(["train/vec", "train/labels", "test/image", "test/cls", "train/pairs"])
        shape, dtype = file[key].shape, file[key].dtype
        kind = rng.randrange(5)
        if kind == 0:
            file[key][0] = 3
        else:
            del file[key]
        if kind == 1:
            file[key] = h5py.ExternalLink("other.h5", key)
        elif kind == 2:
            file[key] = h5py.SoftLink("/test/vec")
        elif kind == 3:
            file.create_dataset(key, shape, dtype, external=[("other.h5", 0, 1 << 20)])
        elif kind == 4:
            file.create_dataset(key, shape, dtype, chunks=True, compression="gzip")
    data[:] = path.read_bytes()


def forge(rng: random.Random, data: bytearray, folder: Path) -> None:
    """Alter a value somewhere in the manifest, and hash it anew."""
    path = folder / "forged.h5"
    path.write_bytes(data)
    values = json.loads(Manifest.read(OpenedFile(path))._text())
    for _ in range(rng.choice([1, 1, 2, 5])):
        node = values
        while True:
            at = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            inner = node[at]
            if not isinstance(inner, dict | list) or not inner or rng.random() < 0.1:
                break
            node = inner
        how = rng.random()
        if how < 0.1 and isinstance(node, dict):
            del node[at]
        elif how < 0.3 and isinstance(inner, int):
            node[at] = inner + rng.choice([-1, 1, 64, 1 << 40])
        else:
            node[at] = rng.choice(ODD)
    text = json.dumps(values).encode()
    if rng.random() < 0.05:
        text = text.replace(b"{", b"[" * 30_000, 1)
    head = Manifest.encode(type("Forged", (), {"_text": lambda self: text, "format_version": 3})())
    data[: len(head)] = head


DAMAGES = (flip, overwrite, resize, splice, edit)


def case(folder: Path, intact: bytes, expected: list[Any], number: int) -> str:
    """What is wrong with one case; empty if nothing is."""
    rng = random.Random(number)
    mutate = rng.choice([*DAMAGES, forge, forge])
    data = bytearray(intact)
    mutate(rng, data, folder)
    path = folder / "case.h5"
    path.write_bytes(data)
    begin = time.process_time()
    try:
        values = content(path)
        if mutate is not forge and values != expected:
            return f"{mutate.__name__}: other values were read"
    except DataError as error:
        if "\n" in str(error) or str(path) not in str(error):
            return f"{mutate.__name__}: not a sentence about the file: {error!r}"
    except Exception as error:
        return f"{mutate.__name__}: {error!r}"
    seconds = time.process_time() - begin
    return f"{mutate.__name__}: {seconds:.0f} s" if seconds > SECONDS else ""


def prepared(folder: Path) -> Callable[[int], str]:
    """What is wrong with a case, as a function of its number; two stores are made for it."""
    make(folder / "other.h5", seed=1)
    path = make(folder / "intact.h5")
    return partial(case, folder, path.read_bytes(), content(path))


if __name__ == "__main__":
    main("Damaged and forged stores.", prepared)
