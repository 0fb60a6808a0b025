"""Small stores, and small files of the forms in which MNIST and SVHN are published."""

import gzip
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.io import savemat

from mvflow.core import Modality
from mvflow_datasets import SplitData, write_store

MODALITIES = (
    Modality("image", (1, 2, 3), {"kind": "laplace", "scale": 0.75}),
    Modality("score", (4,), "normal", weight=2.0),
    Modality("class", (5,), "categorical"),
)


def split_data(rows, seed=0, *, paired=False):
    """A split of all kinds of modality; paired, its arrays have 7, 3 and 11 distinct rows."""
    rng = np.random.default_rng(seed)
    n = dict.fromkeys(("image", "score", "class"), rows)
    if paired:
        n = {"image": 7, "score": 3, "class": 11}
    return SplitData(
        arrays={
            "image": rng.integers(256, size=(n["image"], 1, 2, 3), dtype=np.uint8),
            "score": rng.normal(size=(n["score"], 4)).astype(np.float32),
            "class": rng.integers(5, size=n["class"]),
        },
        labels=rng.integers(3, size=rows),
        pairs={m: rng.integers(k, size=rows) for m, k in n.items()} if paired else None,
        factors={"width": rng.normal(size=rows), "writer": rng.integers(9, size=rows)},
    )


def save(path, splits, **changes):
    """Write splits of `MODALITIES` under the name `small`."""
    return write_store(
        path, **({"name": "small", "modalities": MODALITIES, "splits": splits} | changes)
    )


@pytest.fixture(scope="session")
def small():
    """The helpers above, as test modules cannot import this one."""
    return SimpleNamespace(modalities=MODALITIES, split_data=split_data, save=save)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of our own, in which we are."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that the examples of a property may share."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture
def store_path(tmp_path):
    """A store with a paired and an unpaired split."""
    splits = {"train": split_data(40, 1, paired=True), "test": split_data(12, 2)}
    return save(tmp_path / "small.h5", splits, builder={"name": "none"}, sources={"a.gz": "00"})


def idx(array):
    """Bytes of an idx file of unsigned bytes."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write_digits(folder, *, mnist=(60, 30), svhn=(40, 20), seed=0, zipped=True):
    """All six files of MNIST-SVHN; each image holds its class and its row, to be recognised."""
    rng = np.random.default_rng(seed)
    for sub in ("mnist", "svhn"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for (ours, theirs), n, m in zip(
        (("train", "train"), ("t10k", "test")), mnist, svhn, strict=True
    ):
        y = rng.integers(10, size=n)
        images = np.zeros((n, 28, 28), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = y, np.arange(n)
        for name, array in (
            (f"{ours}-images-idx3-ubyte", images),
            (f"{ours}-labels-idx1-ubyte", y),
        ):
            data = idx(array)
            if zipped:
                (folder / "mnist" / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))
            else:
                (folder / "mnist" / name).write_bytes(data)
        y = rng.integers(10, size=m)
        x = np.zeros((32, 32, 3, m), np.uint8)
        x[0, 0, 0], x[3, 5, 2] = y, np.arange(m)
        published = {"X": x, "y": np.where(y == 0, 10, y)[:, None].astype(np.uint8)}
        savemat(folder / "svhn" / f"{theirs}_32x32.mat", published)
    return folder


@pytest.fixture(scope="session")
def digits():
    """Writers of published files."""
    return SimpleNamespace(write=write_digits, idx=idx)
