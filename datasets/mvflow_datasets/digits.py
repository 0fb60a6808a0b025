"""Readers of digit images in the forms in which they are published: idx files and SVHN's .mat."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError
from mvflow.core.files import open_regular
from mvflow.core.memory import check_memory

__all__ = ["Digits", "read_idx", "read_mnist", "read_svhn"]


class Digits(NamedTuple):
    """Images of digits and what they show."""

    images: NDArray[np.uint8]
    """(digits, channels, height, width)"""
    labels: NDArray[np.int64]
    """(digits,), 0 to 9"""


def read_mnist(images: Path, labels: Path) -> Digits:
    """Read a pair of MNIST's idx files, gzipped or not.

    Raises:
        DataError: if a file is damaged or the two do not belong together.
    """
    pixels = read_idx(images, ndim=3)
    if pixels.shape[1:] != (28, 28):
        msg = f"{images} holds images of {pixels.shape[1:]} pixels: expected (28, 28)"
        raise DataError(msg)
    return _digits(pixels[:, None], read_idx(labels, ndim=1), images, labels)


def read_svhn(path: Path) -> Digits:
    """Read SVHN's cropped digits: `X` 32 x 32 x 3 x N uint8, `y` 1...10 where 10 means 0.

    Raises:
        DataError: if the file is damaged or of another form.
    """
    x, y = _read_mat(path, "X", "y")
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3):
        msg = f"{path}: X is {x.dtype} of shape {x.shape}, expected uint8 of (32, 32, 3, N)"
        raise DataError(msg)
    labels = y.reshape(-1).astype(np.int64)
    if labels.size and (labels.min() < 1 or labels.max() > 10):
        msg = f"{path}: y runs from {labels.min()} to {labels.max()}, expected 1 to 10"
        raise DataError(msg)
    return _digits(x.transpose(3, 2, 0, 1), labels % 10, path, path)


def read_idx(path: Path, *, ndim: int) -> NDArray[np.uint8]:
    """Read an array of unsigned bytes with `ndim` dimensions from an idx file, gzipped or not.

    Raises:
        DataError: if the file is damaged or of another form.
    """
    header = 4 + 4 * ndim
    magic = bytes([0, 0, 8, ndim])
    with open_regular(path) as raw:
        is_packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if is_packed else raw
        head = _read(file, header, path)
        if head[:4] != magic:
            msg = f"{path} begins with {head[:4].hex()}: expected {magic.hex()}, an idx of bytes"
            raise DataError(msg)
        if len(head) < header:
            msg = f"{path} has {len(head)} bytes: expected a header of {header}"
            raise DataError(msg)
        shape = tuple(int(n) for n in np.frombuffer(head[4:], ">u4"))
        size = math.prod(shape)
        check_memory(size, f"an array of shape {shape} in {path}")
        data = _read(file, size + 1, path)  # and not more, whatever it unpacks to
    if len(data) != size:
        more = "at least " if len(data) > size else ""
        actual = header + len(data)
        msg = f"{path} has {more}{actual} bytes: expected {header + size} for {shape}"
        raise DataError(msg)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read(file: IO[bytes], size: int, path: Path) -> bytes:
    try:
        return file.read(size)
    except (EOFError, OSError, zlib.error) as error:
        msg = f"{path} is truncated or damaged ({error}): download it again"
        raise DataError(msg) from error


def _read_mat(path: Path, *names: str) -> list[NDArray[Any]]:
    from scipy.io import loadmat, whosmat  # slow to import, and only SVHN needs it

    try:
        with open_regular(path) as file:
            for name, shape, _ in whosmat(file):
                if name in names:
                    check_memory(8 * math.prod(shape), f"variable {name} in {path}")
            file.seek(0)
            arrays = loadmat(file, variable_names=names)
    except DataError:
        raise
    except Exception as error:  # scipy's reader fails on damaged files in many ways
        msg = f"{path} is truncated or not a MATLAB file ({error}): download it again"
        raise DataError(msg) from error
    if missing := [name for name in names if name not in arrays]:
        msg = f"{path} has no variable {' and '.join(missing)}: expected {' and '.join(names)}"
        raise DataError(msg)
    return [np.asarray(arrays[name]) for name in names]


def _digits(
    pixels: NDArray[np.uint8], labels: NDArray[Any], images_from: Path, labels_from: Path
) -> Digits:
    if len(pixels) != len(labels):
        msg = f"{images_from} has {len(pixels)} images but {labels_from} {len(labels)} labels"
        raise DataError(msg)
    if len(labels) and labels.max() > 9:
        msg = f"{labels_from} has a label {labels.max()}: expected 0 to 9"
        raise DataError(msg)
    return Digits(np.ascontiguousarray(pixels), labels.astype(np.int64))
