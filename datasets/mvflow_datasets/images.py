"""Reading pictures, as (3, height, width) bytes; pillow decodes them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mvflow.core import DataError
from mvflow.core.files import read_bytes
from mvflow.core.memory import check_memory

__all__ = ["decode_rgb", "read_photograph"]

MAX_BYTES = 1 << 28
"""Bytes that the file of a photograph may have."""


def decode_rgb(data: bytes, place: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An RGB picture of a known size from the bytes of its file.

    Args:
        data: a PNG or a JPEG.
        place: where it was found, for the message.
        size: expected height and width.

    Returns:
        (3, height, width).

    Raises:
        DataError: if the file is damaged, or the picture has another size or other channels.
    """
    picture = _opened(data, place)
    if picture.size != size[::-1] or picture.mode != "RGB":
        wide, high = picture.size
        msg = (
            f"{place} is a picture of {high} x {wide} pixels, mode {picture.mode}: "
            f"expected {size[0]} x {size[1]}, mode RGB"
        )
        raise DataError(msg)
    return _pixels(picture, place)


def read_photograph(place: Path, at_least: tuple[int, int]) -> NDArray[np.uint8]:
    """A photograph of any size from `at_least` on, (3, height, width); grey ones become RGB.

    Raises:
        DataError: if the file cannot be read or the picture is too small.
    """
    data = read_bytes(place, MAX_BYTES)
    pixels = _pixels(_opened(data, place), place)
    high, wide = pixels.shape[1:]
    if high < at_least[0] or wide < at_least[1]:
        msg = (
            f"{place} has {high} x {wide} pixels: "
            f"expected a photograph of at least {at_least[0]} x {at_least[1]}"
        )
        raise DataError(msg)
    return pixels


# pillow's decoders fail on damaged files in many ways, not with OSError alone
# (SyntaxError, ValueError, struct.error, zlib.error...).


def _opened(data: bytes, place: Path) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Exception as error:
        msg = f"{place} is not a PNG or JPEG that can be read: download it again"
        raise DataError(msg) from error


def _pixels(picture: Image.Image, place: Path) -> NDArray[np.uint8]:
    wide, high = picture.size
    check_memory(12 * wide * high, f"{place}, a picture of {high} x {wide} pixels,")
    try:
        rgb = np.asarray(picture.convert("RGB"))
    except Exception as error:
        msg = f"{place} is truncated or damaged ({error}): download it again"
        raise DataError(msg) from error
    return np.ascontiguousarray(rgb.transpose(2, 0, 1))
