"""Stores of format 1: `format-1.h5` was written by mvflow 0.1."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from mvflow.core import DataError, Modality, UsageError
from mvflow.estimators.converting import _old_fingerprint
from mvflow_datasets import Store
from mvflow_datasets.converting import convert_store

OLD = Path(__file__).parent / "format-1.h5"
TRAIN = "13c8c8cf2a3a042c2a71e3ef1f27cf17fe8b0957d6152b90d2577e7d918fc6d0"
"""What mvflow 0.1 recorded in a run as the fingerprint of the training rows."""


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copyfile(OLD, tmp_path / "copy.h5"))


def test_all_that_an_old_store_holds_is_in_the_new_one(tmp_path):
    with Store.open(convert_store(OLD, tmp_path / "new.h5")) as new, h5py.File(OLD) as old:
        assert new.verify() == []
        assert new.modalities == (
            Modality("m0", (2,), {"kind": "laplace", "scale": 0.75}),
            Modality("m1", (3,), weight=2.0),
        )
        assert (new.name, new.note, new.sources) == ("old", "made by mvflow 0.1", {"a": "00" * 32})
        assert new.builder == {"name": "b", "parameters": {"rows": 60}, "seed": 0}
        assert new.splits == ("train", "test")
        for name in new.splits:
            split, stored = new[name], old[name]
            rows = split.take(range(len(split)))
            for j, m in enumerate(("m0", "m1")):
                np.testing.assert_array_equal(rows[m], stored[m][:][stored["pairs"][:, j]])
            np.testing.assert_array_equal(split.labels, stored["labels"])
            assert set(split.factors) == {"size", "kind"}
            for factor, values in split.factors.items():
                np.testing.assert_array_equal(values, stored["factors"][factor])
        assert new.about("m1/names").tolist() == ["a", "b", "ü"]
        assert new.about("m1/shift").tolist() == [0, 1, 2]


def test_the_new_store_has_the_fingerprint_that_old_runs_recorded(tmp_path):
    with Store.open(convert_store(OLD, tmp_path / "new.h5")) as new:
        assert _old_fingerprint(new["train"]) == TRAIN
        assert _old_fingerprint(new["test"]) != TRAIN


def test_an_old_store_is_refused_with_the_command_that_converts_it():
    with pytest.raises(DataError, match=r"run 'mvflow data convert .*format-1.h5 NEW.h5'"):
        Store.open(OLD)


@pytest.mark.parametrize("key", ["train/m0", "test/m1", "train/labels", "test/factors/size"])
def test_an_altered_old_store_is_refused(copy, tmp_path, key):
    with h5py.File(copy, "r+") as file:
        file[key][0] = 1 - file[key][0]
    with pytest.raises(DataError, match=r"copy.h5 is damaged .its content does not fit"):
        convert_store(copy, tmp_path / "new.h5")
    assert not (tmp_path / "new.h5").exists()


def external(file, secret):
    file["train/labels"] = h5py.ExternalLink(str(secret), "x")


def soft(file, secret):
    file["train/labels"] = h5py.SoftLink("/test/labels")


def stored_elsewhere(file, secret):
    file.create_dataset("train/labels", (60,), "i8", external=[(str(secret), 0, 480)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((60,), "i8")
    layout[:] = h5py.VirtualSource(str(secret), "x", (60,))
    file.create_virtual_dataset("train/labels", layout)


@pytest.mark.parametrize("lead", [external, soft, stored_elsewhere, virtual])
def test_nothing_outside_an_old_store_is_read(copy, tmp_path, lead):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(60)
    with h5py.File(copy, "r+") as file:
        del file["train/labels"]
        lead(file, secret)
    with pytest.raises(DataError, match=r"copy.h5 is damaged .*train/labels is"):
        convert_store(copy, tmp_path / "new.h5")


def test_only_whole_old_stores_are_converted(copy, tmp_path):
    new = convert_store(copy, tmp_path / "new.h5")
    with pytest.raises(UsageError, match=r"new.h5 exists already"):
        convert_store(copy, new)
    with pytest.raises(DataError, match=r"new.h5 is not a store of format 1"):
        convert_store(new, tmp_path / "newer.h5")
    copy.write_bytes(copy.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"copy.h5 is damaged"):
        convert_store(copy, tmp_path / "newer.h5")
    with pytest.raises(DataError, match=r"there is no file"):
        convert_store(tmp_path / "none.h5", tmp_path / "newer.h5")
