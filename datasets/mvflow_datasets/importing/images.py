"""A folder of images of one size, one for each row, in natural order of their names."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvflow.core import DataError
from mvflow.core.memory import check_memory
from mvflow_datasets.importing.references import HINT, Raw, ReadOptions, Reference

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


def read_images(at: Reference, options: ReadOptions | None = None) -> Raw:
    """All images of a folder as (rows, channels, height, width), keyed by their names.

    8-bit images stay uint8, 16-bit ones become float32 in [0, 1], TIFFs of other numbers float32
    as they are. Pages of a TIFF become channels. Transparency is dropped; a rotation noted by the
    camera is carried out. A file without a byte is a missing image.

    Raises:
        DataError: if a file cannot be read, has several frames and is no TIFF, or two files
            differ in size, in channels or in pages.
    """
    if at.part:
        msg = f"{at.path} is a folder and has no part {at.part!r}: leave ':{at.part}' out"
        raise DataError(msg)
    files = image_files(at.path)
    empty = np.array([file.stat().st_size == 0 for file in files])
    if empty.any() and (options is None or not options.takes_missing):
        file = files[int(np.argmax(empty))]
        msg = f"{file} cannot be read as an image: it has no bytes; {HINT}"
        raise DataError(msg)
    if empty.all():
        msg = f"folder {at.path}: all {len(files)} images are empty files"
        raise DataError(msg)
    first, pages = _pixels(files[int(np.argmin(empty))])
    check_memory(len(files) * first.nbytes, f"folder {at.path}")
    values = np.empty((len(files), *first.shape), first.dtype)
    for row, file in enumerate(files):
        image = first if empty[row] or file is files[0] else _pixels(file)[0]
        if image.shape != first.shape or image.dtype != first.dtype:
            msg = (
                f"{files[0]} is {_size(first)}, but {file} is {_size(image)}: "
                "bring all images of a modality to one size and kind first"
            )
            raise DataError(msg)
        values[row] = image
    keys = np.array([f.stem for f in files], np.str_)
    note = f"in order of names, {files[0].name} first, {files[-1].name} last"
    if pages > 1:
        note += f"; the {pages} pages of each file became channels"
    return Raw(values, keys=keys, note=note, lacks=empty if empty.any() else None)


def _pixels(file: Path) -> tuple[NDArray[Any], int]:
    """(channels, height, width), and how many pages the channels are from."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if file.suffix.lower() in {".tif", ".tiff"}:
                return _tiff(file)
            return _picture(file), 1
    except DataError:
        raise
    except (
        *(OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError),
        *(struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
    ) as error:
        msg = f"{file} cannot be read as an image: {_reason(error)}"
        raise DataError(msg) from error


def _picture(file: Path) -> NDArray[Any]:
    """A picture that pillow reads, of 8 bits per channel or of 16 bits of grey."""
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        if (frames := getattr(opened, "n_frames", 1)) > 1:
            msg = (
                f"{file} has {frames} frames: save them as single images, or as pages of a .tif, "
                "which become channels"
            )
            raise DataError(msg)
        if opened.format == "PNG" and _png_depth(file) == (16, True):
            msg = (
                f"{file} is a .png with 16 bits per channel of colour, of which 8 would be "
                "dropped: save it as .tif"
            )
            raise DataError(msg)
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16") or (image.mode == "I" and opened.format == "PNG"):
            return (np.asarray(image, np.float32) / 65535)[None]
        if image.mode in {"I", "F"}:
            msg = f"{file} has {image.mode}-mode pixels: expected 8 or 16 bits per channel"
            raise DataError(msg)
        grey = image.mode in {"1", "L", "LA"}
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _png_depth(file: Path) -> tuple[int, bool]:
    """Bits per channel of a PNG, and whether it has more channels than grey."""
    with file.open("rb") as opened:
        header = opened.read(26)
    return header[24], header[25] != 0


def _tiff(file: Path) -> tuple[NDArray[Any], int]:
    """All pages of a TIFF, whatever its numbers, one behind the other as channels."""
    from tifffile import TiffFile, TiffFileError

    try:
        with TiffFile(file) as opened:
            series = opened.series
            shapes = [each.shape for each in series]
            if not series:
                msg = "it has no pages"
                raise ValueError(msg)
            if len(series) > 1:
                msg = f"{file} has pages of {len(series)} shapes ({shapes[:3]}): expected one"
                raise DataError(msg)
            check_memory(series[0].nbytes, str(file))
            x, axes = series[0].asarray(), series[0].axes
    except TiffFileError as error:
        msg = f"{file} cannot be read as an image: {_reason(error)}"
        raise DataError(msg) from error
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        return _packed_tiff(file)
    if not axes.endswith(("YX", "YXS")):
        msg = f"{file} has the axes {axes}: expected pages of height and width"
        raise DataError(msg)
    if axes.endswith("S"):
        x = np.moveaxis(x, -1, -3)
        colours = x.shape[-3] if x.shape[-3] < 4 else 3  # the fourth is transparency
        x = x[..., : 1 if colours == 2 else colours, :, :]
    samples = x.shape[-3] if axes.endswith("S") or "S" in axes else 1
    channels = x.reshape(-1, *x.shape[-2:])
    return _numbers(channels), len(channels) // samples


def _packed_tiff(file: Path) -> tuple[NDArray[Any], int]:
    """A TIFF whose compression only pillow knows: pages of 8 bits, or of 16 bits of grey."""
    from PIL import Image, ImageSequence

    with Image.open(file) as opened:
        pages = [
            np.asarray(page.copy() if page.mode.startswith("I;16") else page.convert(mode))
            for page in ImageSequence.Iterator(opened)
            for mode in ["L" if page.mode in {"1", "L", "LA"} else "RGB"]
        ]
    planes = [p[None] if p.ndim == 2 else np.moveaxis(p, -1, 0) for p in pages]
    return _numbers(np.concatenate(planes)), len(pages)


def _numbers(x: NDArray[Any]) -> NDArray[Any]:
    """Pixels as they are kept: bytes, 16 bits in [0, 1], other numbers as they are."""
    if x.dtype == bool:
        return x.astype(np.uint8) * np.uint8(255)
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind == "c":
        msg = "its pixels are complex numbers"
        raise ValueError(msg)
    return x.astype(np.float32) / 65535 if x.dtype == np.uint16 else x.astype(np.float32)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return str(error.strerror)
    text = " ".join(str(error).split())
    return "its header is damaged" if "cannot identify" in text or not text else text


def _size(image: NDArray[Any]) -> str:
    channels, height, width = image.shape
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    return f"{width}x{height} {kind} of {8 if image.dtype == np.uint8 else 16} bits"
