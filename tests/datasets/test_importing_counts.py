"""Values that a likelihood takes in no other units than their own are stored as they are."""

import numpy as np
import pytest

from mvflow.core import MvflowError
from mvflow_datasets import Store
from mvflow_datasets.importing import Wanted, import_data, read_units


def imported(folder, x, **wanted):
    np.save(folder / "x.npy", x)
    kinds = {"x": "negative-binomial"}
    return import_data(
        folder / "out.h5", Wanted({"x": str(folder / "x.npy")}, likelihoods=kinds, **wanted)
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
def test_counts_stay_counts(tmp_path, dtype):
    x = np.random.default_rng(0).poisson(4.0, size=(40, 5)).astype(dtype)
    done = imported(tmp_path, x)
    assert any("left as they are; negative-binomial" in line for line in done.understood)
    units = read_units(tmp_path / "out.h5")["x"]
    with Store.open(tmp_path / "out.h5") as store:
        assert store.modalities[0].likelihood == "negative-binomial"
        found = store["train"].take(np.arange(len(store["train"])))["x"]
        assert found.dtype == np.float32
        rows = {tuple(row) for row in x.tolist()}
        assert {tuple(row) for row in found.tolist()} <= rows
        np.testing.assert_array_equal(units.restore(found), found)


@pytest.mark.bad_input
def test_what_are_no_counts_is_refused(tmp_path):
    x = np.random.default_rng(0).poisson(4.0, size=(40, 5))
    with pytest.raises(MvflowError, match="'x' is negative-binomial: .* cannot be transformed"):
        imported(tmp_path, x, transforms={"x": "log1p"})
    with pytest.raises(MvflowError, match="'x', row .*: expected counts, whole numbers from 0"):
        imported(tmp_path, x + 0.5)
