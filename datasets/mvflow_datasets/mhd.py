"""MHD, the Multimodal Handwritten Digits of Vasco et al. (2022), as published (paper, A.3).

Read are `mhd_train.pt` and `mhd_test.pt`, each a tuple (or list) saved by `torch.save`, of

1. labels, (rows,), whole numbers 0 to 9;
2. images, (rows, 1, 28, 28) in [0, 1];
3. trajectories, (rows, 200): 100 x, then 100 y downwards, scaled to [0, 1];
4. sounds, (rows, 4, 32, 32) in [0, 1]: a mel spectrogram of 128 bands by 32 frames, cut along
   the bands into four; put together and transposed to (rows, 1, 32 frames, 128 bands);
5. and what undoes the scaling of trajectories and sounds, `{"max": ..., "min": ...}` each: not
   kept, and read only so far as it is numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mvflow.core import DataError, Modality
from mvflow_datasets.builders import Builder, Content, SourceFile
from mvflow_datasets.writing import SplitData

__all__ = ["BUILDER", "MODALITIES"]

_WHERE = "https://github.com/miguelsvasco/multimodal_handwritten_digits"
_FILES = {"train": "mhd_train.pt", "test": "mhd_test.pt"}
_PARTS = ("labels", "images", "trajectories", "sounds")

FRAMES, BANDS = 32, 128

MODALITIES = (
    # Table E.7 divides by three channels although the images have one.
    Modality("image", (1, 28, 28), "normal", weight=FRAMES * BANDS / (3 * 28 * 28)),
    Modality("trajectory", (200,), "normal", weight=FRAMES * BANDS / 200),
    Modality("sound", (1, FRAMES, BANDS), "normal", weight=1.0),
)
"""Shapes of MHD; distributions and weights of the paper's experiment (E.4 and Table E.7)."""


def _split(path: Path) -> SplitData:
    from mvflow.runs import load_torch

    content = load_torch(path)
    if not isinstance(content, tuple | list) or len(content) < len(_PARTS):
        actual = type(content).__name__
        actual += f" of {len(content)}" if hasattr(content, "__len__") else ""
        msg = f"{path} holds {actual}: expected a tuple of {', '.join(_PARTS)} and two scalings"
        raise DataError(msg)
    labels, images, trajectories, sounds = (
        _array(path, name, part) for name, part in zip(_PARTS, content, strict=False)
    )
    rows = len(labels)
    _check(path, "labels", labels, labels.dtype.kind in "iu" and labels.ndim == 1, "(rows,)")
    if rows and not 0 <= labels.min() <= labels.max() <= 9:
        msg = f"{path}: labels run from {labels.min()} to {labels.max()}, expected 0 to 9"
        raise DataError(msg)
    _check(path, "images", images, images.shape == (rows, 1, 28, 28), f"({rows}, 1, 28, 28)")
    right = trajectories.shape == (rows, 200)
    _check(path, "trajectories", trajectories, right, f"({rows}, 200)")
    right = sounds.shape[:1] == (rows,) and sounds.shape[-1] == FRAMES
    right &= sounds.size == rows * BANDS * FRAMES
    _check(path, "sounds", sounds, right, f"({rows}, 4, 32, 32)")
    return SplitData(
        arrays={
            "image": images,
            "trajectory": trajectories,
            "sound": sounds.reshape(rows, 1, BANDS, FRAMES).swapaxes(2, 3),
        },
        labels=labels,
    )


def _array(path: Path, name: str, part: Any) -> NDArray[Any]:
    import torch

    if not isinstance(part, torch.Tensor):
        msg = f"{path}: {name} are a {type(part).__name__}, expected a tensor"
        raise DataError(msg)
    return part.detach().cpu().numpy()


def _check(path: Path, name: str, array: NDArray[Any], right: bool, expected: str) -> None:
    if not right:
        msg = f"{path}: {name} are {array.dtype} of shape {array.shape}, expected {expected}"
        raise DataError(msg)


def _make(files: Mapping[str, Path], seed: int) -> Content:
    return Content(MODALITIES, {split: _split(files[name]) for split, name in _FILES.items()})


BUILDER = Builder(
    name="mhd",
    summary="digits as image, pen trajectory and spoken word (Vasco et al. 2022)",
    make=_make,
    files=tuple(SourceFile(name, _WHERE, "MHD") for name in _FILES.values()),
    about=(
        "Read as published, 50,000 rows for training and 10,000 for testing, with "
        "`weights_only=True`: a file that would run code is refused. Shapes and likelihoods are "
        "those of `pendigits-speech`, its rebuild from public sources."
    ),
    licence="see the page that publishes it",
)
