"""Small files that unpack to large ones are refused before they do; pipes are not waited for."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from mvflow.core import DataError
from mvflow.runs import load_torch
from mvflow_datasets import lzw
from mvflow_datasets.archives import open_files
from mvflow_datasets.digits import read_idx, read_svhn
from mvflow_datasets.images import read_photograph
from mvflow_datasets.importing.arrays import read_array
from mvflow_datasets.importing.reading import read_values
from mvflow_datasets.importing.references import Reference
from mvflow_datasets.strokes import read_unipen

MIB = 1 << 20
MEMORY = r"takes [\d,]+ MiB of memory, and 20 MiB are available"


@pytest.fixture
def little_memory(monkeypatch):
    """20 MiB are available; afterwards no more than that was taken."""
    monkeypatch.setattr("mvflow.core.memory.available_memory", lambda: 20 * MIB)
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * MIB


def test_a_zip_says_how_large_its_files_are(tmp_path, little_memory):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        with made.open("large", "w") as file:
            for _ in range(30):
                file.write(bytes(MIB))
        made.writestr("small", b"x")
    files = open_files(tmp_path / "a.zip")
    assert files.read("small") == b"x"
    with pytest.raises(DataError, match=f"a.zip/large {MEMORY}"):
        files.read("large")


def test_an_array_of_a_npz_that_does_not_fit(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(30 * MIB, np.uint8), y=np.zeros(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mvflow.core.memory.available_memory", lambda: 20 * MIB)
        assert len(read_array(Reference(tmp_path / "a.npz", "y")).values) == 3
        with pytest.raises(DataError, match=f"array 'x' of .*a.npz {MEMORY}"):
            read_array(Reference(tmp_path / "a.npz", "x"))


def test_tables_and_matrices_of_nothing_but_zeros(tmp_path):
    anndata = pytest.importorskip("anndata", reason="needs mvflow[omics]")
    pytest.importorskip("pyarrow", reason="needs mvflow[parquet]")
    zeros = np.zeros((10_000, 400), np.float64)  # 30 MiB
    anndata.AnnData(zeros).write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    pd.DataFrame(zeros).to_parquet(tmp_path / "a.parquet")
    for name in ("a.h5ad", "a.parquet"):
        path = tmp_path / name
        assert path.stat().st_size < 3 * MIB
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mvflow.core.memory.available_memory", lambda: 20 * MIB)
            with pytest.raises(DataError, match=f"{name} {MEMORY}"):
                read_values(Reference(path))


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.tar.gz", gzip.compress), ("a.tar.bz2", bz2.compress), ("a.tar.xz", lzma.compress)],
)
def test_a_packed_tar_of_nothing_but_zeros(tmp_path, monkeypatch, name, pack):
    monkeypatch.setattr("mvflow_datasets.archives._SMALL", MIB)
    for mib, good in ((1, True), (30, False)):
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as made:
            info = tarfile.TarInfo("x")
            info.size = mib * MIB // 2
            made.addfile(info, io.BytesIO(bytes(info.size)))
        (tmp_path / name).write_bytes(pack(tar.getvalue()))
        if good:
            assert open_files(tmp_path / name).read("x") == bytes(MIB // 2)
        else:
            with pytest.raises(DataError, match="unpacks to more than 100 times its size"):
                open_files(tmp_path / name)


def test_no_more_of_an_idx_is_unpacked_than_its_header_says(tmp_path, digits, little_memory):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    head = digits.idx(images)
    path = tmp_path / "x.gz"
    with gzip.open(path, "wb") as packer:
        packer.write(head)
        for _ in range(100):
            packer.write(bytes(MIB))
    with pytest.raises(DataError, match="has at least 41 bytes: expected 40"):
        read_idx(path, ndim=3)
    path.write_bytes(gzip.compress(head[:4] + b"\xff" * 12 + bytes(10)))
    with pytest.raises(DataError, match="takes .* MiB of memory, and 20 MiB are available"):
        read_idx(path, ndim=3)


def test_a_matlab_file_says_how_large_its_arrays_are(tmp_path, monkeypatch):
    x = np.zeros((32, 32, 3, 10_000), np.uint8)
    savemat(tmp_path / "a.mat", {"X": x, "y": np.ones((10_000, 1))}, do_compression=True)
    monkeypatch.setattr("mvflow.core.memory.available_memory", lambda: 20 * MIB)
    with pytest.raises(DataError, match=f"variable X in .*a.mat {MEMORY}"):
        read_svhn(tmp_path / "a.mat")


def test_a_picture_says_how_large_it_is(tmp_path, monkeypatch):
    Image.new("L", (3000, 3000)).save(tmp_path / "a.png")
    monkeypatch.setattr("mvflow.core.memory.available_memory", lambda: 20 * MIB)
    with pytest.raises(DataError, match=f"a.png, a picture of 3000 x 3000 pixels, {MEMORY}"):
        read_photograph(tmp_path / "a.png", (28, 28))


def test_tensors_that_do_not_fit(tmp_path, monkeypatch):
    torch.save((torch.zeros(30 * MIB, dtype=torch.uint8),), tmp_path / "a.pt")
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as stored,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for info in stored.infolist():
            small.writestr(info.filename, stored.read(info))
    (tmp_path / "a.pt").write_bytes(packed.getvalue())
    assert len(packed.getvalue()) < MIB
    monkeypatch.setattr("mvflow.core.memory.available_memory", lambda: 20 * MIB)
    with pytest.raises(DataError, match=f"a.pt {MEMORY}"):
        load_torch(tmp_path / "a.pt")


def test_lzw_of_one_letter(tmp_path, monkeypatch):
    """Codes that grow by one letter each: n of them stand for n²/2 letters."""
    bits = np.concatenate(
        [
            np.unpackbits(np.array([c], ">u2").view(np.uint8))[::-1][:9]
            for c in [65, *range(257, 500)]
        ]
    )
    data = b"\x1f\x9d\x90" + np.packbits(bits, bitorder="little").tobytes()
    assert lzw.unpack_z(data)[:100] == b"A" * 100
    monkeypatch.setattr(lzw, "MAX_UNPACKED", 1000)
    with pytest.raises(DataError, match="data unpacks to more than 1,000 bytes"):
        lzw.unpack_z(data)


READERS = {
    "idx": lambda path: read_idx(path, ndim=1),
    "mat": read_svhn,
    "photograph": lambda path: read_photograph(path, (2, 2)),
    "strokes": read_unipen,
    "tensors": load_torch,
    "archive": open_files,
    "folder": lambda path: open_files(path.parent).read(path.name),
}


@pytest.mark.parametrize("reader", READERS)
def test_nobody_waits_for_a_pipe(tmp_path, reader):
    os.mkfifo(tmp_path / "q")
    with pytest.raises(DataError, match="cannot read .*q: it is a named pipe, expected a file"):
        READERS[reader](tmp_path / "q")


def test_a_pipe_cannot_be_imported(tmp_path):
    os.mkfifo(tmp_path / "q.csv")
    code = "from mvflow_cli.main import run; import sys; sys.exit(run(sys.argv[1:]))"
    words = ["data", "import", tmp_path / "o.h5", "--modality", f"x={tmp_path / 'q.csv'}"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=env,
    )
    assert done.returncode == 1
    assert "q.csv: it is a named pipe" in done.stderr
