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
        expected = {"inputs": "standardised", "dispersion": "column"}
        assert store.modalities[0].likelihood == {"kind": "negative-binomial", **expected}
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


@pytest.mark.parametrize("columns", [20, 120])
def test_counts_are_taken_for_counts(tmp_path, columns):
    """The sum of a row is its library size where there are many columns, as in sequencing."""
    rng = np.random.default_rng(1)
    x = rng.poisson(rng.gamma(0.5, 20.0, size=(60, columns)))
    np.save(tmp_path / "x.npy", x)
    done = import_data(tmp_path / "out.h5", Wanted({"x": str(tmp_path / "x.npy")}))
    with Store.open(tmp_path / "out.h5") as store:
        likelihood = store.modalities[0].likelihood
    assert likelihood.get("library", "none") == ("observed" if columns >= 100 else "none")
    assert ("library size of each row" in done.understood[0]) == (columns >= 100)


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).integers(18, 90, size=(60, 4)),  # such as ages
        np.random.default_rng(1).poisson(2.0, size=(60, 4)),  # never 10 or more
        np.random.default_rng(2).poisson(30.0, size=(60, 4)) + 0.5,
        np.random.default_rng(3).integers(-9, 90, size=(60, 4)),
    ],
)
def test_other_numbers_are_not(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    import_data(tmp_path / "out.h5", Wanted({"x": str(tmp_path / "x.npy")}))
    with Store.open(tmp_path / "out.h5") as store:
        assert store.modalities[0].likelihood_part.kind == "normal"
