"""What goes wrong with files: each is one sentence with the path, and no old store is lost."""

import dataclasses
import errno
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
    assert refusal(tmp_path / "no.h5").endswith("build one with 'mvflow data build'")


def test_a_folder(tmp_path):
    assert "it is a folder" in refusal(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file(store_path, share):
    data = store_path.read_bytes()
    store_path.write_bytes(data[: int(len(data) * share)])
    assert "truncated or not an HDF5 file" in refusal(store_path)


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("no HDF5 here")
    assert "truncated or not an HDF5 file" in refusal(path)


def test_hdf5_of_other_people(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    assert "not an mvflow store" in refusal(path)


def test_a_store_of_the_future(store_path):
    with h5py.File(store_path, "r+") as file:
        file.attrs["format_version"] = 2
    assert (
        "written by a newer mvflow (store format 2, this one reads up to 1): upgrade"
        in refusal(store_path)
    )


def replace(file, key, values):
    del file[key]
    file[key] = values


DAMAGES = {
    "/train/image is missing": lambda f: f.__delitem__("train/image"),
    "/train is missing": lambda f: f.__delitem__("train"),
    "attribute 'modalities' is missing": lambda f: f.attrs.__delitem__("modalities"),
    "attribute 'format_version' is missing": lambda f: f.attrs.__delitem__("format_version"),
    "invalid literal for int": lambda f: f.attrs.__setitem__("format_version", "one"),
    "Expecting": lambda f: f.attrs.__setitem__("splits", "{"),
    "a modality has no name": lambda f: f.attrs.__setitem__(
        "modalities", '[{"nom": 1, "shape": [1]}]'
    ),
    "likelihood": lambda f: f.attrs.__setitem__(
        "modalities", '[{"name": "image", "shape": [1], "likelihood": "poisson"}]'
    ),
    "/train/labels has shape (39,), expected 40 rows": lambda f: replace(
        f, "train/labels", np.zeros(39, int)
    ),
    "/train/factors/width has shape": lambda f: replace(f, "train/factors/width", np.zeros(41)),
    "/test/score has 11 rows, expected 12": lambda f: replace(
        f, "test/score", np.zeros((11, 4), np.float32)
    ),
    "/train/score is float64": lambda f: replace(f, "train/score", np.zeros((3, 4))),
    "expected uint8 or float32 of shape ('rows', 1, 2, 3)": lambda f: replace(
        f, "train/image", np.zeros((7, 2, 3), np.uint8)
    ),
    "/train/pairs points outside the 3 rows of 'score'": lambda f: replace(
        f, "train/pairs", np.full((40, 3), 3, np.int32)
    ),
    "/train/pairs points outside the 7 rows of 'image'": lambda f: replace(
        f, "train/pairs", np.full((40, 3), -1, np.int32)
    ),
    "/train/pairs is int32 of shape (40, 2)": lambda f: replace(
        f, "train/pairs", np.zeros((40, 2), np.int32)
    ),
    "/train/pairs is float32": lambda f: replace(f, "train/pairs", np.zeros((40, 3), np.float32)),
    "safe": lambda f: replace(f, "train/labels", np.zeros(40)),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_store(store_path, what):
    with h5py.File(store_path, "r+") as file:
        DAMAGES[what](file)
    sentence = refusal(store_path)
    assert "is damaged" in sentence
    assert what in sentence
    assert sentence.endswith("build it or copy it again")


def test_a_refused_file_is_not_held_open(store_path):
    with h5py.File(store_path, "r+") as file:
        del file["train"]
    refusal(store_path)
    with h5py.File(store_path, "r+"):  # HDF5 refuses to write what it has open for reading
        pass


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
        reason = os.strerror(errno.ENOSPC)
        assert str(caught.value) == f"cannot write store {path}: {reason}; nothing was changed"
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
    pytest.importorskip("resource")
    path = tmp_path / "s.h5"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    reason = os.strerror(errno.EFBIG)
    assert done.stdout == f"cannot write store {path}: {reason}; nothing was changed\n"
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


def test_a_place_where_nothing_can_be_written(small, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DataError, match="^cannot write store .*; nothing was changed$"):
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


@pytest.mark.parametrize("names", [["labels"], ["pairs"], ["factors"], ["a", "a"], []])
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
