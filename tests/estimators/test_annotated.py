"""Models of AnnData and MuData objects: equal names and order, likelihoods, covariates."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mvflow import JNF
from mvflow.core import MvflowError

anndata = pytest.importorskip("anndata", reason="needs mvflow[omics]")
mudata = pytest.importorskip("mudata", reason="needs mvflow[omics]")
mudata.set_options(pull_on_update=False)

CELLS, GENES = [f"c{i}" for i in range(60)], [f"g{j}" for j in range(6)]


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"batch": list("AB") * 30, "age": rng.normal(50, 9, 60)}, index=CELLS)
    counts = rng.poisson(rng.gamma(0.5, 20.0, size=(60, 6)))
    rna = anndata.AnnData(
        sparse.csr_matrix(np.log1p(counts)),
        obs=obs,
        var=pd.DataFrame(index=GENES),
        layers={"counts": sparse.csr_matrix(counts)},
    )
    scan = anndata.AnnData(rng.normal(40, 5, size=(50, 3)), obs=pd.DataFrame(index=CELLS[9:59]))
    made = mudata.MuData({"rna": rna, "scan": scan})
    made.obs["batch"] = obs["batch"].reindex(made.obs_names)
    return made


def test_rows_are_those_of_the_object_in_its_order(cells):
    model, rows = JNF.from_mudata(cells, layers={"rna": "counts"})
    assert rows.row_names == tuple(cells.obs_names)
    assert rows.units["rna"].names == tuple(GENES)
    x = rows.take(np.arange(len(rows)))
    at = [CELLS.index(cell) for cell in rows.row_names]
    np.testing.assert_array_equal(x["rna"], cells["rna"].layers["counts"].toarray()[at])
    has = np.isin(rows.row_names, cells["scan"].obs_names)
    np.testing.assert_array_equal(x["present/scan"], has)
    names = [*cells["scan"].obs_names]
    where = [names.index(cell) for cell in np.array(rows.row_names)[has]]
    back = rows.units["scan"].restore(x["scan"][has])
    np.testing.assert_allclose(back, cells["scan"].X[where], rtol=1e-5)
    kinds = {n: m.likelihood.kind for n, m in model.config.modalities.items()}
    assert kinds == {"rna": "negative-binomial", "scan": "normal"}


def test_covariates_come_from_obs_and_the_model_can_be_trained(cells):
    cells = cells[cells.obs_names.isin(cells["scan"].obs_names)].copy()
    model, rows = JNF.from_mudata(
        cells, "joint.epochs=2", layers={"rna": "counts"}, covariates=["batch", "rna:age"]
    )
    assert {c.name: c.levels for c in model.config.covariate_specs()} == {
        "batch": ("A", "B"),
        "age": None,
    }
    model.fit(rows, seed=0)
    batch = rows.take([0, 1, 2])
    assert np.isfinite(model.encode(batch)[0]).all()
    given = {name: x for name, x in batch.items() if name != "scan"}
    assert model.generate(given, 4, targets=["scan"])["scan"].shape == (4, 3, 3)


def test_matrices_of_one_object(cells):
    rna = cells["rna"]
    rna.obsm["pair"] = pd.DataFrame({"u": np.arange(60.0), "v": 3.0}, index=rna.obs_names)
    matrices = {"x": "X", "pair": "obsm/pair"}
    _, rows = JNF.from_anndata(rna, matrices=matrices, covariates=["batch"])
    assert rows.units["pair"].names == ("u", "v")
    restored = rows.units["pair"].restore(rows.take([7])["pair"])
    np.testing.assert_allclose(restored, [[7.0, 3.0]], rtol=1e-5)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": {"dna": "counts"}}, "unknown modality 'dna'"),
        ({"layers": {"rna": "count"}}, "modality 'rna': unknown matrix 'layers/count'"),
        ({"covariates": ["batsch"]}, "unknown column of obs 'batsch'"),
        ({"covariates": ["scan:batch"]}, "unknown column of obs 'batch'"),
    ],
)
def test_what_is_not_there_is_named(cells, options, message):
    with pytest.raises(MvflowError, match=message):
        JNF.from_mudata(cells, **options)


@pytest.mark.bad_input
def test_missing_values_are_named_by_cell(cells):
    cells["scan"].X[3, 1] = np.nan
    with pytest.raises(MvflowError, match=f"'scan', X, cell '{CELLS[12]}': nan is no number"):
        JNF.from_mudata(cells)
    rna = cells["rna"]
    rna.obs["batch"] = rna.obs["batch"].where(rna.obs_names != CELLS[30])
    with pytest.raises(MvflowError, match=f"'batch' is missing for cell '{CELLS[30]}'"):
        JNF.from_anndata(rna, matrices={"rna": "X"}, covariates=["batch"])
