"""Folders of images: nothing of a file is dropped without a word."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from mvflow.core import MvflowError
from mvflow_datasets import Store
from mvflow_datasets.importing import Wanted, import_data
from mvflow_datasets.importing.images import read_images
from mvflow_datasets.importing.references import Reference

ROWS = 6


def rng(seed=0):
    return np.random.default_rng(seed)


def folder(tmp_path, images, save, suffix=".tif"):
    (tmp_path / "scan").mkdir()
    for i, image in enumerate(images):
        save(tmp_path / "scan" / f"s{i}{suffix}", image)
    return Reference(tmp_path / "scan")


def by_pillow(path, image, **options):
    pages = [Image.fromarray(page) for page in (image if image.ndim > 2 else [image])]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)


def shared(shape, dtype):
    top = {np.uint8: 255, np.uint16: 65535}.get(dtype)
    return rng().integers(top, size=(ROWS, *shape)).astype(dtype)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_pages_of_tiffs_become_channels(tmp_path, compression):
    x = shared((5, 12, 16), np.uint8)
    raw = read_images(folder(tmp_path, x, lambda p, i: by_pillow(p, i, compression=compression)))
    np.testing.assert_array_equal(raw.values, x)
    assert "the 5 pages of each file became channels" in raw.note


@pytest.mark.parametrize(
    ("shape", "dtype", "channels"),
    [
        ((12, 16), np.uint16, 1),
        ((12, 16, 3), np.uint16, 3),
        ((12, 16, 4), np.uint16, 3),
        ((5, 12, 16), np.uint16, 5),
        ((2, 12, 16, 3), np.uint8, 6),
        ((12, 16), np.float32, 1),
        ((12, 16), np.int16, 1),
    ],
)
def test_tiffs_of_all_kinds_of_numbers(tmp_path, shape, dtype, channels):
    kind = np.dtype(dtype).kind
    x = (
        rng().normal(0, 500, (ROWS, *shape)).astype(dtype)
        if kind in "fi"
        else shared(shape, dtype)
    )
    photometric = "rgb" if shape[-1] in {3, 4} else "minisblack"
    extra = {"extrasamples": ["unassalpha"]} if shape[-1] == 4 else {}
    raw = read_images(
        folder(tmp_path, x, lambda p, i: tifffile.imwrite(p, i, photometric=photometric, **extra))
    )
    expected = x[..., :3] if shape[-1] == 4 else x
    if photometric == "rgb":
        expected = np.moveaxis(expected, -1, -3)
    expected = expected.reshape(ROWS, channels, 12, 16).astype(np.float64)
    scale = {np.uint16: 65535}.get(dtype, 1)
    np.testing.assert_allclose(raw.values, expected / scale, rtol=1e-6)  # of float32
    assert raw.values.dtype == (np.uint8 if dtype == np.uint8 else np.float32)


def test_pages_come_through_the_import_and_are_said(tmp_path):
    x = rng().integers(255, size=(20, 3, 16, 16)).astype(np.uint8)
    folder(tmp_path, x, by_pillow)
    done = import_data(tmp_path / "s.h5", Wanted({"scan": f"{tmp_path}/scan"}))
    assert "3 pages of each file became channels" in done.understood[0]
    with Store.open(tmp_path / "s.h5") as store:
        assert store.modalities[0].shape == (3, 16, 16)
        rows = [int(name.removeprefix("s")) for name in store["train"].row_names]
        taken = store["train"].take(np.arange(len(rows)))["scan"]
        np.testing.assert_array_equal(taken, x[rows])


@pytest.mark.bad_input
@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_animations_are_refused(tmp_path, suffix):
    at = folder(tmp_path, shared((3, 12, 16), np.uint8), by_pillow, suffix)
    with pytest.raises(MvflowError, match=r"s0\.\w+ has 3 frames: save them as single images"):
        read_images(at)


@pytest.mark.bad_input
def test_bits_that_would_be_dropped_are_refused(tmp_path):
    """Written by hand, for pillow writes no such file."""
    import struct
    import zlib

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(8 * 6) for _ in range(8)))
    (tmp_path / "scan").mkdir()
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)
    (tmp_path / "scan" / "a.png").write_bytes(png + chunk(b"IEND", b""))
    with pytest.raises(MvflowError, match="16 bits per channel of colour, of which 8 would be"):
        read_images(Reference(tmp_path / "scan"))


@pytest.mark.bad_input
def test_damaged_and_odd_tiffs_are_one_sentence(tmp_path, monkeypatch):
    at = folder(tmp_path, shared((12, 16), np.uint8), by_pillow)
    whole = (at.path / "s0.tif").read_bytes()
    for data in (b"", b"II*\0nonsense", whole[: len(whole) // 2], b"hello"):
        (at.path / "s0.tif").write_bytes(data)
        with pytest.raises(MvflowError, match="s0.tif cannot be read as an image") as caught:
            read_images(at)
        assert "\n" not in str(caught.value)
    with tifffile.TiffWriter(at.path / "s0.tif") as file:
        for side in (8, 9):
            file.write(np.zeros((side, side), np.uint8))
    with pytest.raises(MvflowError, match="has pages of 2 shapes"):
        read_images(at)
    by_pillow(at.path / "s0.tif", shared((3, 12, 16), np.uint8)[0])
    with pytest.raises(MvflowError, match="s0.tif is 16x12 colour .* but .*s1.tif is 16x12 grey"):
        read_images(at)
    monkeypatch.setattr("mvflow.core.memory.available_memory", lambda: 1 << 20)
    monkeypatch.setattr("mvflow.core.memory._SMALL", 100)
    tifffile.imwrite(at.path / "s0.tif", np.zeros((2000, 2000), np.uint8), compression="zlib")
    with pytest.raises(MvflowError, match="takes 4 MiB of memory, and 1 MiB are available"):
        read_images(at)
