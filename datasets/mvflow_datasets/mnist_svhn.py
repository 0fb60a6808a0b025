"""MNIST and SVHN digits of the same class, paired at random (Shi et al. 2019; paper, A.1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError, Modality, generator
from mvflow_datasets.builders import Builder, Content, Parameter, SourceFile
from mvflow_datasets.digits import read_mnist, read_svhn
from mvflow_datasets.downloading import Download
from mvflow_datasets.writing import SplitData

__all__ = ["BUILDER", "MNIST_FILES", "pair_by_class"]

_MNIST = "the MNIST page of Yann LeCun, http://yann.lecun.com/exdb/mnist/"
_SVHN = "the SVHN page of Stanford ufldl, http://ufldl.stanford.edu/housenumbers/"
_PUBLISHED_SVHN_TRAIN = 73_257

_MNIST_COPY = "https://ossci-datasets.s3.amazonaws.com/mnist"
_SVHN_FOLDER = "http://ufldl.stanford.edu/housenumbers"

MNIST_FILES = tuple(
    SourceFile(name, _MNIST, "mnist", Download(f"{_MNIST_COPY}/{name}", name, size, checksum))
    for name, size, checksum in (
        ("train-images-idx3-ubyte.gz", 9_912_422, "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        ("train-labels-idx1-ubyte.gz", 28_881, "md5:d53e105ee54ea40749a09fcbcd1e9432"),
        ("t10k-images-idx3-ubyte.gz", 1_648_877, "md5:9fb629c4189551a2d022fa330f9573f3"),
        ("t10k-labels-idx1-ubyte.gz", 4_542, "md5:ec29112dd5afa0611ce80d1b7f02629c"),
    )
)
"""MNIST as published; fetched from the copy of the PyTorch project."""

_SVHN_FILES = tuple(
    SourceFile(name, _SVHN, "svhn", Download(f"{_SVHN_FOLDER}/{name}", name, size, checksum))
    for name, size, checksum in (
        ("train_32x32.mat", 182_040_794, "md5:e26dedcc434d2e4c54c9b2d4a06d8373"),
        ("test_32x32.mat", 64_275_384, "md5:eb5a983be6a315427106f1b164d9cef3"),
    )
)

_FILES = {  # split -> images, labels, SVHN
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "train_32x32.mat"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "test_32x32.mat"),
}


def pair_by_class(
    labels: Mapping[str, NDArray[np.int64]], pairings: int, rng: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """Positions of rows that share their class, one from each set, in random order.

    Per class every set is shuffled and all are zipped to the shortest; that is done `pairings`
    times with fresh shuffles.

    Args:
        labels: name of a set -> (rows,) classes.
        pairings: how often each class is shuffled and zipped.
        rng: source of the shuffles.

    Returns:
        Name of a set -> (pairs,) positions in that set.

    Examples:
        >>> classes = {"a": np.array([0, 1, 1]), "b": np.array([1, 0, 0])}
        >>> pairs = pair_by_class(classes, 1, np.random.default_rng(0))
        >>> bool(np.all(classes["a"][pairs["a"]] == classes["b"][pairs["b"]]))
        True
    """
    shared = set.intersection(*(set(np.unique(y).tolist()) for y in labels.values()))
    blocks = [np.empty((len(labels), 0), np.int64)]
    for _ in range(pairings):
        for digit in sorted(shared):
            shuffled = [rng.permutation(np.flatnonzero(y == digit)) for y in labels.values()]
            shortest = min(map(len, shuffled))
            blocks.append(np.stack([rows[:shortest] for rows in shuffled]))
    pairs = rng.permutation(np.concatenate(blocks, axis=1), axis=1)
    return dict(zip(labels, pairs, strict=True))


def _split(files: Mapping[str, Path], split: str, pairings: int, seed: int) -> SplitData:
    images, labels, svhn_file = (files[name] for name in _FILES[split])
    digits = {"mnist": read_mnist(images, labels), "svhn": read_svhn(svhn_file)}
    classes = {name: d.labels for name, d in digits.items()}
    pairs = pair_by_class(classes, pairings, generator(seed, "mnist-svhn", split))
    if not pairs["mnist"].size:
        msg = f"{images} and {svhn_file} have no digit in common: nothing can be paired"
        raise DataError(msg)
    return SplitData(
        arrays={name: d.images for name, d in digits.items()},
        labels=classes["mnist"][pairs["mnist"]],
        pairs=pairs,
    )


def _make(files: Mapping[str, Path], seed: int, *, pairings: int) -> Content:
    splits = {split: _split(files, split, pairings, seed) for split in _FILES}
    svhn_digits = len(np.asarray(splits["train"].arrays["svhn"]))
    subset = svhn_digits != _PUBLISHED_SVHN_TRAIN
    return Content(
        modalities=(
            Modality("mnist", (1, 28, 28), {"kind": "laplace", "scale": 0.75}),
            Modality("svhn", (3, 32, 32), {"kind": "laplace", "scale": 0.75}),
        ),
        splits=splits,
        note=f"SVHN subset ({svhn_digits:,} digits)" if subset else "",
    )


BUILDER = Builder(
    name="mnist-svhn",
    summary="handwritten digits and house numbers of the same class (Shi et al. 2019)",
    make=_make,
    parameters=(Parameter("pairings", 5, "how often each digit's images are paired anew"),),
    about=(
        "Per class both sets are shuffled and zipped to the shorter, several times with fresh "
        "shuffles. Every image is stored once; a row holds the positions of its two."
    ),
    licence="MNIST: CC BY-SA 3.0; SVHN: non-commercial use only",
    files=MNIST_FILES + _SVHN_FILES,
)
