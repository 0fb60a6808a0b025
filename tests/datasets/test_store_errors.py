"""What goes wrong with files: each is one sentence with the path, and no old store is lost."""

import dataclasses
import errno
import gc
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from mvflow.core import DataError, Modality
from mvflow_datasets import SplitData, Store, write_store

pytestmark = pytest.mark.bad_input


def refusal(path):
    """The sentence with which a file is refused."""
    with pytest.raises(DataError) as caught:
        Store.open(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


def test_a_missing_file(tmp_path):
    sentence = refusal(tmp_path / "no.h5")
    assert sentence.startswith(f"there is no store at {tmp_path / 'no.h5'}: ")
    assert "'mvflow data import'" in sentence
    assert "'mvflow data build'" in sentence


def test_a_folder(tmp_path):
    assert "it is a folder" in refusal(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file(store_path, share):
    data = store_path.read_bytes()
    store_path.write_bytes(data[: int(len(data) * share)])
    sentence = refusal(store_path)
    if share > 0.1:
        assert f"is damaged (it has {int(len(data) * share):,} bytes, expected" in sentence or (
            "its manifest was altered" in sentence
        )
    assert "build it" in sentence


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("no HDF5 here")
    assert "is not an mvflow store, or its beginning is damaged" in refusal(path)


def test_hdf5_of_other_people(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    assert "is an HDF5 file but not an mvflow store of format 2" in refusal(path)


@pytest.mark.parametrize(("version", "cure"), [(1, "build it anew"), (4, "upgrade mvflow")])
def test_a_store_of_another_time(store_path, version, cure):
    data = store_path.read_bytes()
    store_path.write_bytes(data.replace(b"mvflow-store 2", b"mvflow-store %d" % version, 1))
    sentence = refusal(store_path)
    assert f"mvflow (store format {version}, this one reads 2 and 3): {cure}" in sentence


def test_a_refused_file_is_not_held_open(store_path):
    store_path.write_bytes(store_path.read_bytes()[:-1])
    refusal(store_path)
    gc.collect()
    handles = Path("/proc/self/fd").iterdir()
    assert str(store_path.resolve()) not in [os.path.realpath(handle) for handle in handles]


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "a long story of addresses and buffers")


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("failure", [no_space, interrupted])
@pytest.mark.parametrize("after", [0, 3])
def test_a_failed_write_leaves_the_old_store(
    small, tmp_path, monkeypatch, failure, after, existing
):
    path = tmp_path / "s.h5"
    if existing:
        small.save(path, {"train": small.split_data(5)})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real, calls = h5py.Group.create_dataset, []

    def fails_after(*args, **kwargs):
        calls.append(args)
        return (failure if len(calls) > after else real)(*args, **kwargs)

    monkeypatch.setattr(h5py.Group, "create_dataset", fails_after)
    expected = KeyboardInterrupt if failure is interrupted else DataError
    with pytest.raises(expected) as caught:
        small.save(path, {"train": small.split_data(50)})
    if expected is DataError:
        reason = "the disk is full; nothing that was there is lost"
        assert str(caught.value) == f"cannot write {path}: {reason}"
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


FULL_DISK = """
import resource, sys
import numpy as np
from mvflow.core import DataError, Modality
from mvflow_datasets import SplitData, write_store
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    write_store(sys.argv[1], name="big", modalities=[Modality("a", (1000,))],
        splits={"train": SplitData({"a": np.zeros((1000, 1000), np.uint8)})})
except DataError as error:
    print(error)
"""


def test_a_file_that_may_not_grow_is_one_sentence(tmp_path):
    pytest.importorskip("resource", reason="limits of a process are of Unix")
    path = tmp_path / "s.h5"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"cannot write {path}: file too large\n"
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


def test_a_place_where_nothing_can_be_written(small, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DataError, match=f"^cannot write {file}/s.h5: not a directory$"):
        small.save(file / "s.h5", {"train": small.split_data(2)})


def spoilt(small, change):
    data = small.split_data(6, paired=True)
    return dataclasses.replace(data, **change(data))


NAN = np.where(np.arange(12).reshape(3, 4) == 9, np.nan, 0)
REFUSED = {
    r"^split 'test': modality 'score', row 2 contains nan": lambda d: {
        "arrays": d.arrays | {"score": NAN}
    },
    r"^split 'test': modality 'image' has shape": lambda d: {
        "arrays": d.arrays | {"image": np.zeros((7, 6), np.uint8)}
    },
    r"^split 'test': one array per modality is needed": lambda d: {"arrays": {"score": NAN}},
    r"^split 'test': one pairs per modality": lambda d: {"pairs": {"score": np.zeros(6, int)}},
    r"^split 'test': pairs of 'score' run from 0 to 3: expected .* its 3 rows": lambda d: {
        "pairs": d.pairs | {"score": np.array([0, 1, 2, 3, 0, 0])}
    },
    r"^split 'test': pairs of 'image': expected 5 whole": lambda d: {
        "pairs": d.pairs | {"score": np.zeros(5, int)}
    },
    r"^split 'test': pairs of 'score': .* float64": lambda d: {
        "pairs": d.pairs | {"score": np.zeros(6)}
    },
    r"^split 'test': labels: expected 6 whole numbers, got int64 of shape \(4,\)": lambda d: {
        "labels": np.zeros(4, np.int64)
    },
    r"^split 'test': labels: row 2 is -2, expected a class from 0 on, or -1 where": lambda d: {
        "labels": np.array([0, 1, -2, 2, 0, 0])
    },
    r"^split 'test': factor 'who': expected 6 numbers, got <U1": lambda d: {
        "factors": {"who": list("abcdef")}
    },
    r"^split 'test': '\.\.' cannot name": lambda d: {"factors": {"..": np.zeros(6)}},
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_data_that_do_not_fit_are_refused_before_anything_is_written(small, tmp_path, pattern):
    splits = {"train": small.split_data(3), "test": spoilt(small, REFUSED[pattern])}
    with pytest.raises(DataError, match=pattern):
        small.save(tmp_path / "s.h5", splits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "names", [["labels"], ["pairs"], ["factors"], ["present"], ["a", "a"], []]
)
def test_names_that_a_store_cannot_hold(tmp_path, names):
    with pytest.raises(DataError, match="expected at least one, different names, and none of"):
        write_store(
            Path(tmp_path / "s.h5"),
            name="x",
            modalities=[Modality(name, (1,)) for name in names],
            splits={"train": SplitData({name: np.zeros((2, 1)) for name in names})},
        )


@pytest.mark.parametrize("split", ["", "a/b", ".", ".."])
def test_split_names_that_a_store_cannot_hold(small, tmp_path, split):
    with pytest.raises(DataError, match="cannot name a split"):
        small.save(tmp_path / "s.h5", {split: small.split_data(2)})
