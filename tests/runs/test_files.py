"""Weights and rows are whole or not there, and a damaged file says so in a sentence."""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mvflow.core import DataError
from mvflow.runs import read_tensors, weights_hash, write_tensors
from mvflow.runs.files import read_array, write_array


def test_tensors_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_tensors(path, TENSORS, {})
    old = path.read_bytes()

    def half(path, data):
        path.write_text(data[: len(data) // 2].decode("latin1"), "latin1")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", half)
        with pytest.raises(DataError, match="w.safetensors: the disk is full"):
            write_tensors(path, {"n": torch.zeros(9)}, {}, previous=tmp_path / "previous")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == old


TENSORS = {
    "weight": torch.arange(6.0).view(2, 3).T,
    "count": torch.tensor(3),
    "radius": torch.tensor(torch.inf),
    "half": torch.ones(2, dtype=torch.bfloat16),
}


def test_tensors_round_trip_to_the_bit(tmp_path):
    write_tensors(tmp_path / "w.safetensors", TENSORS, {"key": "k", "n": 1})
    found, about = read_tensors(tmp_path / "w.safetensors")
    assert about == {"key": "k", "n": 1, "sha256": weights_hash(TENSORS)}
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_tensors_that_share_memory_are_kept(tmp_path):
    base = torch.arange(4.0)
    write_tensors(tmp_path / "w.safetensors", {"a": base, "b": base[:2]}, {})
    assert torch.equal(read_tensors(tmp_path / "w.safetensors")[0]["b"], base[:2])


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-3], lambda b: b"x" * 20 + b[20:]])
def test_damaged_weights_are_named(tmp_path, damage):
    path = tmp_path / "joint.safetensors"
    write_tensors(path, TENSORS, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="joint.safetensors is missing or damaged"):
        read_tensors(path)


def test_any_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "joint.safetensors"
    write_tensors(path, TENSORS, {"key": "k"})
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    kept = whole.index(b'"key'.replace(b'"', b'\\"'))  # inside the JSON of `about`
    for at in (kept + 3, *range(start, len(whole))):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DataError, match="is missing or damaged"):
            read_tensors(path)


def test_files_of_other_programs_are_no_weights_of_a_run(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(
        DataError, match="w.safetensors is missing or damaged .*no header of mvflow"
    ):
        read_tensors(tmp_path / "w.safetensors")


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(DataError, match="nothing.safetensors is missing or damaged"):
        read_tensors(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("sizes", [[5], [2, 2, 1]])
def test_rows_written_in_blocks_are_a_plain_array(tmp_path, sizes):
    path = tmp_path / "a" / "rows.npy"
    rows = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    write_array(path, np.split(rows, np.cumsum(sizes)[:-1]), 5)
    found = read_array(path)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(np.load(path), rows)
    assert list(path.parent.iterdir()) == [path]


def test_no_changed_or_missing_byte_of_rows_goes_unnoticed(tmp_path):
    path = tmp_path / "rows.npy"
    write_array(path, [np.arange(6.0).reshape(2, 3)], 2)
    whole = path.read_bytes()
    damaged = [whole[:i] for i in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    for content in (*damaged, whole + b"\0", bytes(4)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="rows.npy is missing or damaged"):
            read_array(path)


def test_rows_on_a_full_disk_leave_nothing(tmp_path):
    def blocks():
        yield np.zeros((2, 3))
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match=r"rows.npy: the disk is full; nothing .* is lost"):
        write_array(tmp_path / "rows.npy", blocks(), 4)
    assert list(tmp_path.iterdir()) == []
