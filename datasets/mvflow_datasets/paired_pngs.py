"""Reading PolyMNIST as published: `{train,test}/m{k}/{index}.{class}.png`, paired by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError, UsageError
from mvflow_datasets.archives import Files, open_files
from mvflow_datasets.images import decode_rgb
from mvflow_datasets.writing import Blocks, SplitData

__all__ = ["read_paired_pngs"]

SPLITS = ("train", "test")
_PLACE = re.compile(r"(?:^|/)(train|test)/m(\d+)/([^/]+\.png)$")
_NAME = re.compile(r"(\d+)\.(\d+)\.png")


@dataclass(frozen=True, slots=True, order=True)
class _Image:
    """What the name of a file says; the same image of all modalities shows the same class.

    The published indices count the images of one class, so only both together name an image.
    """

    index: int
    label: int

    def __str__(self) -> str:
        return f"{self.index}.{self.label}.png"


_Named = dict[_Image, str]  # image -> path in the folder or archive


def read_paired_pngs(place: Path, size: tuple[int, int], modalities: int) -> dict[str, SplitData]:
    """Splits `train` and `test`, whose images are decoded while a store is written.

    Rows are sorted by index, then class, wherever and in whatever order the files lie.

    Args:
        place: the folder or the archive that holds `train` and `test`.
        size: height and width of every image.
        modalities: how many of the folders m0, m1... to read; 0 for all.

    Raises:
        DataError: if a folder or an image is missing, two files are the same image, a name cannot
            be understood, or the archive is damaged.
        UsageError: if there are fewer modalities than asked for.
    """
    files = open_files(place)
    images = _images_of(files)
    count = _count(place, images)
    if modalities > count:
        msg = f"modalities is {modalities}: expected at most {count}, as many as {place} holds"
        raise UsageError(msg)
    return {
        split: _split(
            files, {k: images[split, k] for k in range(modalities or count)}, split, size
        )
        for split in SPLITS
    }


def _images_of(files: Files) -> dict[tuple[str, int], _Named]:
    """Split and number of the modality -> its images."""
    images: dict[tuple[str, int], _Named] = defaultdict(dict)
    for path in files.names:
        place = _PLACE.search(path)
        if place is None or place[3].startswith("."):
            continue
        name = _NAME.fullmatch(place[3])
        if name is None:
            msg = f"{files.place / path}: expected a name such as 17.4.png, image 17 of class 4"
            raise DataError(msg)
        image, folder = _Image(int(name[1]), int(name[2])), images[place[1], int(place[2])]
        if image in folder:
            both = " and ".join(sorted([path, folder[image]]))
            msg = f"{files.place} has image {image} twice, as {both}: remove one"
            raise DataError(msg)
        folder[image] = path
    return dict(images)


def _count(place: Path, images: Iterable[tuple[str, int]]) -> int:
    """Number of modalities, which both splits have without a gap."""
    numbers = {k for _, k in images} or {0}
    for split in SPLITS:
        for k in range(max(numbers) + 1):
            if (split, k) not in images:
                msg = (
                    f"{place} has no images {split}/m{k}/<index>.<class>.png: "
                    "expected the published PNG files of train and test, complete"
                )
                raise DataError(msg)
    return max(numbers) + 1


def _split(files: Files, named: dict[int, _Named], split: str, size: tuple[int, int]) -> SplitData:
    for k, images in named.items():
        if images.keys() != named[0].keys():
            raise _unpaired(files.place / split, named[0], images, k)
    rows = sorted(named[0])
    return SplitData(
        arrays={
            f"m{k}": _decoded(files, [images[row] for row in rows], size)
            for k, images in named.items()
        },
        labels=np.array([row.label for row in rows], np.int64),
    )


def _unpaired(place: Path, first: _Named, other: _Named, k: int) -> DataError:
    """The first image that only one of the two has, and the class that the other gives it."""
    image = min(first.keys() ^ other.keys())
    (has, mine), (lacks, theirs) = sorted(
        [(0, first), (k, other)], key=lambda numbered: image not in numbered[1]
    )
    own, instead = ([i for i in named if i.index == image.index] for named in (mine, theirs))
    if len(own) == len(instead) == 1:
        return DataError(
            f"{place}: m{has} has {image} where m{lacks} has {instead[0]}: "
            "images that belong together have the same index and class"
        )
    return DataError(
        f"{place}: m{lacks} has no {image}, which m{has} has: images are paired by name, "
        "and none may be missing"
    )


def _decoded(files: Files, names: list[str], size: tuple[int, int]) -> Blocks:
    def make(start: int, stop: int) -> NDArray[np.uint8]:
        chosen = names[start:stop]
        return np.stack([decode_rgb(files.read(n), files.place / n, size) for n in chosen])

    return Blocks((len(names), 3, *size), make)
