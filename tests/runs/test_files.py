"""Files are whole or not there, and a damaged one says so in a sentence."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mvflow.core import DataError
from mvflow.runs import (
    read_json,
    read_tensors,
    weights_hash,
    write_atomically,
    write_json,
    write_tensors,
)
from mvflow.runs.files import append_line, read_array, write_array


def fails(error):
    def write(path):
        path.write_text("half")
        raise error

    return write


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), ValueError("bug"), KeyboardInterrupt()]
)
def test_what_was_there_stays_when_writing_fails(tmp_path, old, error):
    path = tmp_path / "file"
    if old is not None:
        path.write_text(old)
    with pytest.raises(DataError if isinstance(error, OSError) else type(error)):
        write_atomically(path, fails(error))
    assert (path.read_text() if path.exists() else None) == old
    assert list(tmp_path.iterdir()) == ([path] if old else [])  # no temporary file is left


@pytest.mark.parametrize("error", [None, OSError(errno.ENOSPC, "full")])
def test_the_file_that_was_there_is_kept_when_it_is_replaced(tmp_path, error):
    path, previous = tmp_path / "file", tmp_path / "previous"
    for text in ("1", "2"):
        write_atomically(path, lambda p, t=text: p.write_text(t), previous=previous)
    assert (path.read_text(), previous.read_text()) == ("2", "1")
    if error is None:
        write_atomically(path, lambda p: p.write_text("3"), previous=previous)
        assert (path.read_text(), previous.read_text()) == ("3", "2")
    else:
        with pytest.raises(DataError):
            write_atomically(path, fails(error), previous=previous)
        assert (path.read_text(), previous.read_text()) == ("2", "1")
    assert sorted(tmp_path.iterdir()) == [path, previous]


def test_content_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    did = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle):
        did.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    def watched_replace(old, new):
        did.append((Path(old), Path(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_atomically(tmp_path / "file", lambda p: p.write_text("whole"))
    temporary = did[0]
    assert temporary.name.startswith(".file.")
    assert did == [temporary, (temporary, tmp_path / "file"), tmp_path]


def test_the_disk_is_full_in_earnest():
    with pytest.raises(DataError, match="cannot write /dev/full: the disk is full; nothing"):
        append_line(Path("/dev/full"), "x")


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


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot write .*: the disk is full; nothing .* is lost"):
        write_atomically(tmp_path / "file", fails(OSError(errno.ENOSPC, "full")))


def test_a_place_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write .*inner"):
        write_json(tmp_path / "file" / "inner", {})


def test_json_round_trip(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"c": "ü"}}
    write_json(tmp_path / "deep" / "v.json", value)
    assert read_json(tmp_path / "deep" / "v.json") == value
    assert list(json.loads((tmp_path / "deep" / "v.json").read_text())) == ["a", "b"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="manifest.json is damaged"):
        read_json(path)


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
