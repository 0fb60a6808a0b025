"""Files of weights that others have written: dense numbers come in, and nothing else does."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mvflow.core import DataError
from mvflow.runs import read_state_dict


def weights():
    return torch.nn.Linear(3, 2).state_dict()


class Code:
    """What pickle would run."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_weights_come_back_to_the_bit_whoever_wrote_them(tmp_path, save):
    save(weights_ := weights(), tmp_path / "a.pth")
    found = read_state_dict(tmp_path / "a.pth")
    assert found.tensors.keys() == weights_.keys()
    assert all(torch.equal(found.tensors[k], v) for k, v in weights_.items())


ODD = {
    "no weights but a Linear|would run torch.nn": torch.nn.Linear(2, 1),
    "would run posix.mkdir": {"w": Code()},
    "holds no weights but a list": [torch.ones(1)],
    "holds no weights but a dict": {},
    "'w' holds values that are not finite": {"w": torch.tensor([1.0, np.nan])},
    "'w' holds values that are not .* numbers": {"v": torch.ones(1), "w": torch.tensor(np.inf)},
    "'w' is no dense array of real numbers": {"w": torch.ones(1, dtype=torch.complex64)},
    "'sparse' is no dense array": {"sparse": torch.eye(3).to_sparse()},
    "'meta' is no dense array": {"meta": torch.empty(10, device="meta")},
    "'huge' is no dense array": {"huge": torch.ones(1).expand(10**12)},
}


@pytest.mark.bad_input
@pytest.mark.parametrize("message", ODD)
def test_what_is_no_array_of_finite_numbers_is_refused(tmp_path, monkeypatch, message):
    monkeypatch.chdir(tmp_path)
    torch.save(ODD[message], tmp_path / "a.pth")
    with pytest.raises(DataError, match=message):
        read_state_dict(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.bad_input
@pytest.mark.parametrize("save", [torch.save, save_file])
def test_damage_is_refused_or_changes_numbers_alone(tmp_path, save):
    path, rng = tmp_path / "a.pth", np.random.default_rng(0)
    save(weights(), path)
    whole = path.read_bytes()
    for _ in range(150):
        changed = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            found = read_state_dict(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert all(v.isfinite().all() for v in found.tensors.values())
