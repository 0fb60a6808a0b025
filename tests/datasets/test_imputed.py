"""What is filled in: summaries of draws in the units and names of the files, and their files."""

import numpy as np
import pandas as pd
import pytest

from mvflow.core import Modality, Units, UsageError
from mvflow_datasets.imputed import summarise_draws, write_imputed

N, ROWS = 4000, 3
NAMES = [f"p{i}" for i in range(ROWS)]


def test_numbers_have_means_and_quantiles_in_their_units():
    """Against the log-normal distribution: draws of log(1 + x) are N(1, .5^2) after scaling."""
    rng = np.random.default_rng(0)
    units = Units(
        ("a", "b"),
        shift=np.array([1.0, 0]),
        scale=np.array([0.5, 2]),
        log1p=np.array([True, False]),
    )
    draws = rng.normal(size=(N, ROWS, 2))
    table = summarise_draws(draws, Modality("x", (2,)), units, 0.8, row_names=NAMES)
    assert table.mean.index.tolist() == NAMES
    # Four standard errors of a mean, and of a quantile (density .175 there), of N draws.
    spread = np.exp(1.125) * np.sqrt(np.exp(0.25) - 1)
    assert np.abs(table.mean["a"] - (np.exp(1.125) - 1)).max() < 4 * spread / N**0.5
    error = 4 * np.sqrt(0.1 * 0.9 / N) / 0.175
    low, high = (np.log1p(end["a"]) for end in (table.lower, table.upper))
    np.testing.assert_allclose(low, 1 - 0.5 * 1.2816, atol=0.5 * error)
    np.testing.assert_allclose(high, 1 + 0.5 * 1.2816, atol=0.5 * error)
    np.testing.assert_allclose(table.upper["b"], 2 * 1.2816, atol=2 * error)


def test_margins_widen_in_the_units_of_the_store():
    units = Units(("a",), scale=np.array([3.0]))
    draws = np.random.default_rng(0).normal(size=(50, 2, 1))
    plain = summarise_draws(draws, Modality("x", (1,)), units)
    wide = summarise_draws(draws, Modality("x", (1,)), units, margin=[0.5])
    np.testing.assert_allclose(wide.upper - plain.upper, 1.5, atol=1e-12)
    np.testing.assert_allclose(plain.lower - wide.lower, 1.5, atol=1e-12)


def test_widened_ends_are_values_that_a_column_can_hold():
    draws = np.random.default_rng(0).poisson(2.0, size=(200, 4, 2)).astype(np.float32)
    wide = summarise_draws(draws, Modality("x", (2,), "poisson"), Units(("a", "b")), margin=9.0)
    assert (wide.lower == 0).all(None)
    assert (wide.upper > 9).all(None)
    draws, flags = (draws > 1).astype(np.float32), Modality("x", (2,), "bernoulli")
    bits = summarise_draws(draws, flags, Units(("a", "b")), margin=3.0)
    assert (bits.lower == 0).all(None)
    assert (bits.upper == 1).all(None)


def test_classes_have_the_most_frequent_one_and_its_share():
    draws = np.array([[0, 2], [1, 2], [1, 0], [1, 2]])
    units = Units(classes=("x", "y", "z"))
    table = summarise_draws(draws, Modality("kind", (3,), "categorical"), units)
    assert table.mean["kind"].tolist() == ["y", "z"]
    assert table.lower["kind"].tolist() == [0.75, 0.75]
    mixed = np.stack([draws.astype(float), draws + 0.5], -1)
    units = Units(("kind", "dose"), levels={"kind": ("x", "y", "z")}, shift=np.array([0, 10.0]))
    table = summarise_draws(mixed, Modality("c", (2,), "normal"), units)
    assert table.mean["kind"].tolist() == ["y", "z"]
    assert table.mean["dose"].tolist() == [11.25, 12.0]


def tables():
    draws = np.random.default_rng(0).normal(size=(50, ROWS, 2))
    units = Units(("g1", "g2"))
    return {"rna": summarise_draws(draws, Modality("rna", (2,)), units, row_names=NAMES)}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_tables_have_names_means_and_ends(tmp_path, suffix):
    path, made = tmp_path / f"a{suffix}", tables()
    write_imputed(path, made, 0.9)
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs mvflow[parquet]")
        back = pd.read_parquet(path)
    else:
        back = pd.read_csv(path, sep="\t" if suffix == ".tsv" else ",", index_col=0)
    assert back.index.tolist() == NAMES
    assert back.columns.tolist()[:3] == ["g1", "g1 [5 %]", "g1 [95 %]"]
    np.testing.assert_allclose(back["g2 [95 %]"], made["rna"].upper["g2"], rtol=1e-12)
    write_imputed(path, {**made, "adt": made["rna"]}, 0.9)
    two = (
        pd.read_parquet(path)
        if suffix == ".parquet"
        else pd.read_csv(path, sep=None, engine="python")
    )
    assert "adt:g1 [5 %]" in two.columns


def test_annotated_files_have_ends_as_layers(tmp_path):
    anndata = pytest.importorskip("anndata", reason="needs mvflow[omics]")
    made = tables()
    write_imputed(tmp_path / "a.h5ad", made, 0.9)
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert (back.obs_names.tolist(), back.var_names.tolist()) == (NAMES, ["g1", "g2"])
    np.testing.assert_array_equal(back.X, made["rna"].mean)
    np.testing.assert_array_equal(back.layers["upper"], made["rna"].upper)
    with pytest.raises(UsageError, match="holds one modality: choose one with --targets"):
        write_imputed(tmp_path / "b.h5ad", {**made, "adt": made["rna"]}, 0.9)
    with pytest.raises(UsageError, match=r"ends in '.txt': known are .csv"):
        write_imputed(tmp_path / "b.txt", made, 0.9)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]
