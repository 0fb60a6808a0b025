"""A folder of images of one size, one for each row, in natural order of their names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError
from mvflow_datasets.importing.references import Raw, Reference

__all__ = ["image_files", "natural", "read_images"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def natural(name: str) -> tuple[Any, ...]:
    """Sort key in which `img2` comes before `img10`.

    Examples:
        >>> sorted(["img10", "img2", "img1"], key=natural)
        ['img1', 'img2', 'img10']
    """
    parts = re.split(r"(\d+)", name)
    return tuple((int(p), p) if i % 2 else (p, "") for i, p in enumerate(parts))


def image_files(folder: Path) -> list[Path]:
    """Images directly in a folder, in natural order of their names.

    Raises:
        DataError: if there are none, or two differ only in their suffix.
    """
    files = [
        p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
    ]
    if not files:
        below = (
            " (it has subfolders: name one)" if any(p.is_dir() for p in folder.iterdir()) else ""
        )
        msg = f"folder {folder} has no images{below}: known are {', '.join(sorted(SUFFIXES))}"
        raise DataError(msg)
    files.sort(key=lambda p: natural(p.name))
    seen: dict[str, Path] = {}
    for file in files:
        other = seen.setdefault(file.stem, file)
        if other is not file:
            msg = f"{other} and {file} have one name, which tells rows apart: remove one"
            raise DataError(msg)
    return files


def read_images(at: Reference) -> Raw:
    """All images of a folder as (rows, channels, height, width), keyed by their names.

    8-bit images stay uint8, 16-bit grey ones become float32 in [0, 1]. Transparency is dropped;
    a rotation noted by the camera is carried out.

    Raises:
        DataError: if a file cannot be read, or two files differ in size or in channels.
    """
    if at.part:
        msg = f"{at.path} is a folder and has no part {at.part!r}: leave ':{at.part}' out"
        raise DataError(msg)
    files = image_files(at.path)
    first = _pixels(files[0])
    values = np.empty((len(files), *first.shape), first.dtype)
    for row, file in enumerate(files):
        image = first if row == 0 else _pixels(file)
        if image.shape != first.shape or image.dtype != first.dtype:
            msg = (
                f"{files[0]} is {_size(first)}, but {file} is {_size(image)}: "
                "bring all images of a modality to one size and kind first"
            )
            raise DataError(msg)
        values[row] = image
    keys = np.array([f.stem for f in files], np.str_)
    return Raw(values, keys=keys, note=f"in order of names, {_ends(files)}")


def _pixels(file: Path) -> NDArray[Any]:
    """(channels, height, width)."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                image = ImageOps.exif_transpose(opened)
                if image.mode.startswith("I;16"):
                    return (np.asarray(image, np.float32) / 65535)[None]
                if image.mode in {"I", "F"}:
                    msg = f"{file} has {image.mode}-mode pixels: expected 8 or 16 bits per channel"
                    raise DataError(msg)
                grey = image.mode in {"1", "L", "LA"}
                pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except DataError:
        raise
    except (
        *(OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError),
        Image.DecompressionBombWarning,
    ) as error:
        msg = f"{file} cannot be read as an image: {_reason(error)}"
        raise DataError(msg) from error
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return str(error.strerror)
    text = " ".join(str(error).split())
    return "its header is damaged" if "cannot identify" in text else text


def _size(image: NDArray[Any]) -> str:
    channels, height, width = image.shape
    kind = {1: "grey", 3: "colour"}[channels]
    return f"{width}x{height} {kind} of {16 if image.dtype == np.float32 else 8} bits"


def _ends(files: Sequence[Path]) -> str:
    return f"{files[0].name} first, {files[-1].name} last"
