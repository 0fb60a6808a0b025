"""`mvflow embed`: posterior means into AnnData and MuData files, by name, nothing else changed."""

import numpy as np
import pandas as pd
import pytest

anndata = pytest.importorskip("anndata", reason="needs anndata: pip install 'mvflow[omics]'")
mudata = pytest.importorskip("mudata", reason="needs mudata: pip install 'mvflow[omics]'")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Files with 120 cells of two modalities, and a run that is trained on them."""
    from mvflow_cli.main import run

    folder = tmp_path_factory.mktemp("cells")
    rng = np.random.default_rng(0)
    z = rng.normal(size=(120, 2))
    obs = pd.DataFrame({"kind": ["x", "y"] * 60}, index=[f"cell{i}" for i in range(120)])
    parts = {}
    for name, width in (("rna", 4), ("protein", 3)):
        var = pd.DataFrame(index=[f"{name}{j}" for j in range(width)])
        x = z @ rng.normal(size=(2, width)) + 0.1 * rng.normal(size=(120, width))
        parts[name] = anndata.AnnData(x.astype(np.float32), obs=obs.copy(), var=var)
        parts[name].write_h5ad(folder / f"{name}.h5ad")
    mudata.set_options(pull_on_update=False)  # as it will be by default
    mudata.MuData(parts).write(folder / "both.h5mu")
    pairs = [f"--modality={name}={folder / name}.h5ad" for name in parts]
    assert run(["data", "import", str(folder / "own.h5"), *pairs]) == 0
    new = ["new", str(folder / "run"), "--store", str(folder / "own.h5"), "--recipe", "auto"]
    assert run([*new, "--quick", "--set", "joint.epochs=1", "--set", "flows.epochs=1"]) == 0
    assert run(["train", str(folder / "run")]) == 0
    return folder


@pytest.mark.parametrize("target", ["rna.h5ad", "both.h5mu"])
def test_embeddings_are_those_of_the_model_by_name(mvflow, cells, target, tmp_path):
    from mvflow.estimators import load
    from mvflow.runs import RunDirectory

    file = tmp_path / target
    file.write_bytes((cells / target).read_bytes())
    shuffled = anndata.read_h5ad(cells / "rna.h5ad")[::-1].copy()
    shuffled.write_h5ad(tmp_path / "given.h5ad")
    both = (
        "--given",
        f"rna={tmp_path / 'given.h5ad'}",
        "--given",
        f"protein={cells}/protein.h5ad",
    )
    found = mvflow("embed", cells / "run", *both, "--into", file)
    assert found.code == 0, found
    made = (mudata.read_h5mu if file.suffix == ".h5mu" else anndata.read_h5ad)(file)
    units = RunDirectory.open(cells / "run").units()
    rows = {
        name: units[name].apply(anndata.read_h5ad(cells / f"{name}.h5ad").X).astype(np.float32)
        for name in ("rna", "protein")
    }
    mean, deviation = load(cells / "run").encode(rows)
    np.testing.assert_allclose(made.obsm["X_mvflow"], mean, atol=1e-5)  # float32 networks
    np.testing.assert_allclose(made.obsm["X_mvflow_sd"], deviation, atol=1e-5)
    before = (mudata.read_h5mu if file.suffix == ".h5mu" else anndata.read_h5ad)(cells / target)
    assert made.obs_names.tolist() == before.obs_names.tolist()
    pd.testing.assert_frame_equal(made.obs, before.obs)


def test_what_is_there_is_not_overwritten_and_other_rows_are_refused(refused, cells, tmp_path):
    file = tmp_path / "a.h5ad"
    data = anndata.read_h5ad(cells / "rna.h5ad")
    data.obsm["X_mvflow"] = np.zeros((120, 1))
    data.write_h5ad(file)
    before = file.read_bytes()
    start = ("embed", cells / "run", "--given", f"rna={cells}/rna.h5ad", "--n", 2, "--into")
    assert "already: choose another --key" in refused(*start, file, code=2)
    assert file.read_bytes() == before
    data[:60].copy().write_h5ad(file)
    assert "60 rows, but 120 were embedded" in refused(*start, file, code=1)
    assert ".h5ad or .h5mu" in refused(*start, tmp_path / "a.csv", code=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5ad"]


def test_gaps_and_named_rows_are_taken_as_impute_takes_them(mvflow, refused, cells, tmp_path):
    """A table with an index column and an empty cell, its rows named as those of the file."""
    rows = anndata.read_h5ad(cells / "rna.h5ad")[:20].copy()
    table = rows.to_df()
    table.iloc[3, 0] = np.nan
    table.insert(0, "cell", rows.obs_names)
    table.to_csv(tmp_path / "rna.csv", index=False)
    rows.write_h5ad(tmp_path / "into.h5ad")
    protein = anndata.read_h5ad(cells / "protein.h5ad")[rows.obs_names].to_df()
    protein.to_csv(tmp_path / "protein.csv", index_label="cell")
    both = [w for n in ("rna", "protein") for w in ("--given", f"{n}={tmp_path}/{n}.csv")]
    words = ("embed", cells / "run", *both, "--index", "cell")
    into = ("--n", 4, "--into", tmp_path / "into.h5ad")
    assert "is missing" in refused(*words, "--missing", "refuse", *into, code=1)
    found = mvflow(*words, "--missing", "row", *into)
    assert found.code == 0, found
    assert np.isfinite(anndata.read_h5ad(tmp_path / "into.h5ad").obsm["X_mvflow"]).all()


def test_rows_of_which_nothing_is_given_are_nan_and_named_as_in_python(mvflow, cells, tmp_path):
    from mvflow.estimators import load
    from mvflow.runs import RunDirectory

    rows = anndata.read_h5ad(cells / "rna.h5ad")[:9].copy()
    table = rows.to_df()
    table.iloc[[4, 7]] = np.nan
    table.to_csv(tmp_path / "rna.csv")
    rows.write_h5ad(tmp_path / "into.h5ad")
    given = ("--given", f"rna={tmp_path}/rna.csv", "--missing", "row", "--n", 4)
    found = mvflow("embed", cells / "run", *given, "--into", tmp_path / "into.h5ad")
    assert found.code == 0, found
    assert "2 of 9 rows lack rna and are NaN: 'cell4', 'cell7'" in found.out
    made = anndata.read_h5ad(tmp_path / "into.h5ad").obsm
    assert np.isnan(made["X_mvflow"]).any(1).nonzero()[0].tolist() == [4, 7]
    model, units = load(cells / "run"), RunDirectory.open(cells / "run").units()["rna"]
    x = np.ma.masked_invalid(units.apply(table.to_numpy()).astype(np.float32))
    with pytest.warns(UserWarning, match=r"^rows 4, 7 have none of rna: the answer is NaN there$"):
        both = model.transform({"rna": x}, n=4, return_std=True)
    for key, expected in zip(("X_mvflow", "X_mvflow_sd"), both, strict=True):
        np.testing.assert_allclose(made[key], expected, atol=1e-5)  # float32 networks
