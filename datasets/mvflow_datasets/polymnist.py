"""PolyMNIST: digits of one class, each inverted out of a crop of its modality's photograph.

Sutter, Daunhawer and Vogt 2021 (arXiv:2105.02470); translated: Daunhawer et al. 2022
(arXiv:2110.04121); paper, A.2. Both are read from the published PNG files, or made anew from
MNIST and as many photographs as there shall be modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mvflow.core import Modality, UsageError, generator
from mvflow_datasets.builders import (
    Builder,
    Content,
    Parameter,
    SourceArchive,
    SourceFolder,
)
from mvflow_datasets.digits import read_mnist
from mvflow_datasets.downloading import Download
from mvflow_datasets.images import read_photograph
from mvflow_datasets.mnist_svhn import MNIST_FILES
from mvflow_datasets.paired_pngs import read_paired_pngs
from mvflow_datasets.writing import Blocks, SplitData

__all__ = ["BUILDER", "TRANSLATED", "downscaled_ink", "ink", "permuted_within_classes"]

SIDE, SMALL = 28, 21
SHIFTS = 7  # a small digit begins at rows and columns 0 to 6, as in the published code
_THRESHOLD = 128
_PUBLISHED_ROWS = {"train": 60_000, "test": 10_000}

_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
_PHOTOGRAPHS = SourceFolder(
    "polymnist-backgrounds",
    "a folder with a photograph for each modality, as JPEG or PNG",
    (".jpg", ".jpeg", ".png"),
    also=("photographs", "backgrounds"),
)


_ABOUT = (
    "A row shows one class in every modality, in a different handwriting each: every modality "
    "permutes the digits of a class anew. Ink is where MNIST is brighter than 128; there a random "
    "crop of the modality's photograph is inverted. Read from the published files, or rebuilt "
    "from MNIST and photographs: as many modalities as there are photographs."
)
_ABOUT_TRANSLATED = (
    " Before that each digit is scaled by 0.75 and put at a random place, 0 to 6 pixels from the "
    "upper left."
)


def permuted_within_classes(
    labels: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """A permutation of the rows that leaves the class of each place as it is, (rows,).

    Examples:
        >>> classes = np.array([0, 1, 1, 0, 1])
        >>> order = permuted_within_classes(classes, np.random.default_rng(0))
        >>> classes[order], np.sort(order)
        (array([0, 1, 1, 0, 1]), array([0, 1, 2, 3, 4]))
    """
    order = np.empty(len(labels), np.int64)
    for digit in np.unique(labels):
        rows = np.flatnonzero(labels == digit)
        order[rows] = rng.permutation(rows)
    return order


def ink(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """255 where a digit is brighter than 128 and 0 elsewhere, of the same shape.

    Examples:
        >>> ink(np.array([0, 128, 129, 255], np.uint8))
        array([  0,   0, 255, 255], dtype=uint8)
    """
    return np.where(digits > _THRESHOLD, 255, 0).astype(np.uint8)


def downscaled_ink(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`ink` of digits scaled by 0.75, (rows, 28, 28) -> (rows, 21, 21).

    As in the published code: bilinear, without a filter against aliasing, pixel centres aligned
    (new pixel i lies at (i + 1/2) / 0.75 - 1/2), cut down to whole numbers. The weights are
    sixths, so whole numbers give the exact result.

    Examples:
        >>> int(downscaled_ink(np.full((1, 28, 28), 129, np.uint8)).min())
        255
    """
    sixths = 8 * np.arange(SMALL) + 1  # 6 ((i + 1/2) / 0.75 - 1/2)
    low, share = np.divmod(sixths, 6)
    share = share.astype(np.uint16)
    x = digits.astype(np.uint16)
    x = x[:, low] * (6 - share)[:, None] + x[:, low + 1] * share[:, None]
    x = x[:, :, low] * (6 - share) + x[:, :, low + 1] * share
    return ink((x // 36).astype(np.uint8))


def _crops(
    photograph: NDArray[np.uint8], corners: NDArray[np.int64], start: int, stop: int
) -> NDArray[np.uint8]:
    windows = sliding_window_view(photograph, (SIDE, SIDE), axis=(1, 2))
    rows, columns = corners[start:stop].T
    return np.moveaxis(windows, 0, 2)[rows, columns]


def _pasted(small: NDArray[np.uint8], corners: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Small images on black, (rows, 21, 21) -> (rows, 28, 28)."""
    canvas = np.zeros((len(small), SIDE, SIDE), np.uint8)
    windows = sliding_window_view(canvas, (SMALL, SMALL), axis=(1, 2), writeable=True)
    windows[np.arange(len(small)), *corners.T] = small
    return canvas


def _images(
    photograph: NDArray[np.uint8],
    digits: NDArray[np.uint8],
    labels: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    translated: bool,
) -> Blocks:
    """One modality: row i shows some digit of class `labels[i]`."""
    n = len(labels)
    order = permuted_within_classes(labels, rng)
    free = np.array(photograph.shape[1:]) - SIDE + 1
    corners = rng.integers(free, size=(n, 2))
    shifts = rng.integers(SHIFTS, size=(n, 2))

    def make(start: int, stop: int) -> NDArray[np.uint8]:
        chosen = digits[order[start:stop], 0]
        shown = _pasted(downscaled_ink(chosen), shifts[start:stop]) if translated else ink(chosen)
        return _crops(photograph, corners, start, stop) ^ shown[:, None]  # x ^ 255 = 255 - x

    return Blocks((n, 3, SIDE, SIDE), make)


def _rebuilt(
    files: Mapping[str, Path], seed: int, name: str, modalities: int, *, translated: bool
) -> tuple[dict[str, SplitData], str]:
    folder = files[_PHOTOGRAPHS.name]
    places = _PHOTOGRAPHS.members(folder)
    if modalities > len(places):
        msg = (
            f"modalities is {modalities}: "
            f"expected at most {len(places)}, as many as {folder} holds"
        )
        raise UsageError(msg)
    places = places[: modalities or len(places)]
    photographs = [read_photograph(place, (SIDE, SIDE)) for place in places]
    splits = {}
    for split, names in _FILES.items():
        digits = read_mnist(*(files[n] for n in names))
        splits[split] = SplitData(
            arrays={
                f"m{k}": _images(
                    photograph,
                    digits.images,
                    digits.labels,
                    generator(seed, name, split, k),
                    translated=translated,
                )
                for k, photograph in enumerate(photographs)
            },
            labels=digits.labels,
        )
    used = ", ".join(f"m{k} {place.name}" for k, place in enumerate(places))
    return splits, f"rebuilt from MNIST and photographs ({used})"


def _published(place: Path, modalities: int) -> tuple[dict[str, SplitData], str]:
    splits = read_paired_pngs(place, (SIDE, SIDE), modalities)
    rows = {split: len(np.asarray(data.labels)) for split, data in splits.items()}
    if rows == _PUBLISHED_ROWS:
        return splits, ""
    return splits, f"subset ({', '.join(f'{split} {n:,}' for split, n in rows.items())} rows)"


def shrunk(images: Blocks, factor: int) -> Blocks:
    """Thumbnails of images: the mean of each `factor` by `factor` pixels, rounded.

    Examples:
        >>> image = np.array([[[[0, 255], [255, 255]]]], np.uint8)
        >>> next(iter(shrunk(Blocks((1, 1, 2, 2), lambda start, stop: image), 2)))[0, 0]
        array([[191]], dtype=uint8)
    """
    rows, channels, height, width = images.shape
    side = (height // factor, width // factor)

    def make(start: int, stop: int) -> NDArray[np.uint8]:
        parts = images.make(start, stop).reshape(-1, channels, side[0], factor, side[1], factor)
        return parts.mean((3, 5)).round().astype(np.uint8)

    return Blocks((rows, channels, *side), make)


def _builder(name: str, summary: str, archive: SourceArchive, *, translated: bool) -> Builder:
    def make(files: Mapping[str, Path], seed: int, *, modalities: int, shrink: int) -> Content:
        if SIDE % shrink:
            msg = f"shrink is {shrink}: expected a divisor of {SIDE}, the width of the images"
            raise UsageError(msg)
        if archive.name in files:
            splits, note = _published(files[archive.name], modalities)
        else:
            splits, note = _rebuilt(files, seed, name, modalities, translated=translated)
        side = SIDE // shrink
        if shrink > 1:
            note = ", ".join(filter(None, [note, f"thumbnails of {side} x {side} pixels"]))
            splits = {
                split: replace(data, arrays={m: shrunk(x, shrink) for m, x in data.arrays.items()})
                for split, data in splits.items()
            }
        specs = (
            Modality(m, (3, side, side), {"kind": "laplace", "scale": 0.75})
            for m in splits["train"].arrays
        )
        return Content(tuple(specs), splits, note)

    return Builder(
        name=name,
        summary=summary,
        make=make,
        parameters=(
            Parameter("modalities", 0, "how many; 0 for all there are", minimum=0),
            Parameter("shrink", 1, f"2 for thumbnails of {SIDE // 2} x {SIDE // 2} pixels"),
        ),
        files=(archive,),
        alternatives=((*MNIST_FILES, _PHOTOGRAPHS),),
        about=_ABOUT + (_ABOUT_TRANSLATED if translated else ""),
        licence=(
            "MNIST: CC BY-SA 3.0; photographs: that of each; "
            "published files: see the page that publishes them"
        ),
    )


BUILDER = _builder(
    "polymnist",
    "digits of one class on crops of a photograph per modality (Sutter et al. 2021)",
    SourceArchive(
        "MMNIST",
        "PolyMNIST.zip, the PNG files linked at https://github.com/thomassutter/MoPoE and kept at "
        "https://zenodo.org/record/4899160",
        "train/m0",
        also=("PolyMNIST",),
        download=Download(
            "https://zenodo.org/record/4899160/files/PolyMNIST.zip", at_most=4 * 10**9
        ),
    ),
    translated=False,
)
TRANSLATED = _builder(
    "translated-polymnist",
    "PolyMNIST with digits scaled by 0.75 at random places (Daunhawer et al. 2022)",
    SourceArchive(
        "PolyMNIST_translated_scale075",
        "made with the code of Daunhawer et al. 2022",
        "train/m0",
        also=("translated-polymnist",),
    ),
    translated=True,
)
