"""MHD from small files of the published form."""

import os
import re

import numpy as np
import pytest
import torch

from mvflow.core import DataError
from mvflow_datasets import Store
from mvflow_datasets.mhd import BUILDER

ROWS = {"train": 7, "test": 3}


def published(rows, seed=0):
    """Labels, images, trajectories, sounds and the scalings of the last two."""
    make = torch.Generator().manual_seed(seed)
    return (
        torch.randint(10, (rows,), generator=make),
        torch.rand((rows, 1, 28, 28), generator=make),
        torch.rand((rows, 200), generator=make),
        torch.rand((rows, 4, 32, 32), generator=make),
        {"max": torch.tensor(1.5), "min": -1.25},
        {"max": np.float32(2.0), "min": np.float64(-11.5)},
    )


@pytest.fixture
def files(tmp_path):
    (tmp_path / "raw" / "MHD").mkdir(parents=True)
    for split, rows in ROWS.items():
        torch.save(published(rows), tmp_path / "raw" / "MHD" / f"mhd_{split}.pt")
    return tmp_path / "raw"


def built(files, tmp_path, name="s.h5"):
    return Store.open(BUILDER.build(tmp_path / name, source=files))


def test_rows_are_as_published_and_sounds_are_put_together(files, tmp_path):
    with built(files, tmp_path) as store:
        assert store.splits == ("train", "test")
        for split, rows in ROWS.items():
            labels, images, trajectories, sounds, *_ = published(rows)
            taken = store[split].take(np.arange(rows))
            np.testing.assert_array_equal(store[split].labels, labels)
            np.testing.assert_array_equal(taken["image"], images)
            np.testing.assert_array_equal(taken["trajectory"], trajectories)
            assert taken["sound"].shape == (rows, 1, 32, 128)
            for band in range(128):
                quarter = sounds[:, band // 32, band % 32]
                np.testing.assert_array_equal(taken["sound"][:, 0, :, band], quarter)


def test_the_modalities_are_those_of_the_paper(files, tmp_path):
    with built(files, tmp_path) as store:
        assert {m.name: m.shape for m in store.modalities} == {
            "image": (1, 28, 28), "trajectory": (200,), "sound": (1, 32, 128)
        }  # fmt: skip
        assert {m.likelihood for m in store.modalities} == {"normal"}
        assert [m.weight for m in store.modalities] == pytest.approx([1.741, 20.48, 1], abs=1e-3)
        assert set(store.sources) == {"mhd_train.pt", "mhd_test.pt"}


def test_the_old_format_and_a_list_hold_the_same_data(files, tmp_path):
    with built(files, tmp_path) as store:
        fingerprint = store.fingerprint
    for split, rows in ROWS.items():
        path = files / "MHD" / f"mhd_{split}.pt"
        torch.save(list(published(rows)), path, _use_new_zipfile_serialization=False)
    with built(files, tmp_path, "old.h5") as store:
        assert store.fingerprint == fingerprint


class Runs:
    """Unpickled, it would make a folder."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


def saved(**changes):
    """Save the published parts, some replaced."""

    def save(path):
        names = ("label", "image", "trajectory", "sound", "a", "b")
        parts = dict(zip(names, published(7), strict=True))
        torch.save(tuple((parts | changes).values()), path)

    return save


BAD = {
    "code": (saved(a=Runs()), r"is refused: .* would run [\w.]*mkdir$"),
    "old code": (
        lambda f: torch.save([Runs()], f, _use_new_zipfile_serialization=False),
        "is refused",
    ),
    "an array": (saved(image=np.zeros(3)), r"is refused: .* would run numpy[\w.]*_reconstruct$"),
    "empty": (lambda f: f.write_bytes(b""), "is truncated or not a file of torch.save"),
    "text": (lambda f: f.write_bytes(b"no tensors here" * 9), "is truncated or not a file of"),
    "cut": (lambda f: f.write_bytes(f.read_bytes()[:-100]), "is truncated or not a file of"),
    "half": (lambda f: f.write_bytes(f.read_bytes()[:20000]), "is truncated or not a file of"),
    "a tensor": (lambda f: torch.save(torch.zeros(2), f), "holds Tensor of 2: expected a tuple"),
    "a number": (lambda f: torch.save(3, f), "holds int: expected a tuple of labels, images"),
    "two parts": (
        lambda f: torch.save(published(7)[:2], f),
        "holds tuple of 2: expected a tuple of labels",
    ),
    "no tensor": (saved(sound={"a": 1}), "sounds are a dict, expected a tensor"),
    "fewer": (saved(image=torch.zeros(6, 1, 28, 28)), r"images are .* \(6, 1, 28, 28\), expected"),
    "flat": (saved(image=torch.zeros(7, 784)), r"of shape \(7, 784\), expected \(7, 1, 28, 28\)"),
    "points": (saved(trajectory=torch.zeros(7, 100)), r"expected \(7, 200\)"),
    "bands": (saved(sound=torch.zeros(7, 3, 32, 32)), r"expected \(7, 4, 32, 32\)"),
    "frames": (saved(sound=torch.zeros(7, 128, 16, 2)), r"expected \(7, 4, 32, 32\)"),
    "one-hot": (saved(label=torch.zeros(7, 10)), r"labels are float32 of shape \(7, 10\), exp"),
    "label 10": (saved(label=torch.full((7,), 10)), "labels run from 10 to 10, expected 0 to 9"),
    "nan": (saved(trajectory=torch.full((7, 200), torch.nan)), "split 'train': .*trajectory"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("damage", BAD)
def test_a_damaged_file_is_named_with_what_was_expected(files, tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    spoil, pattern = BAD[damage]
    path = files / "MHD" / "mhd_train.pt"
    spoil(path)
    with pytest.raises(DataError, match=pattern) as caught:
        built(files, tmp_path)
    assert damage == "nan" or str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "s.h5").exists()


@pytest.mark.bad_input
def test_missing_files_are_listed_with_where_they_are_published(tmp_path):
    with pytest.raises(DataError, match=re.escape("mhd_train.pt (https://github.com/")):
        built(tmp_path, tmp_path)
