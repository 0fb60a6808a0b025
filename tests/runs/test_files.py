"""Files are whole or not there, and a damaged one says so in a sentence."""

import errno
import json

import pytest
import torch

from mvflow.core import DataError
from mvflow.runs import read_json, read_tensors, write_atomically, write_json, write_tensors


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
    assert about == {"key": "k", "n": 1}
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


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(DataError, match="nothing.safetensors is missing or damaged"):
        read_tensors(tmp_path / "nothing.safetensors")
