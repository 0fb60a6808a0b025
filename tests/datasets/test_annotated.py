"""AnnData and MuData files: as their libraries write them now, and as they once did."""

import warnings

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from mvflow.core import MvflowError
from mvflow_datasets import Store
from mvflow_datasets.importing import Wanted, import_data

anndata = pytest.importorskip("anndata", reason="needs mvflow[omics]")
ROWS = 40
CELLS = [f"cell{i}" for i in range(ROWS)]
GENES = [f"gene{j}" for j in range(5)]
KINDS = np.array(["T", "B"])[np.arange(ROWS) % 2]
STRINGS = h5py.string_dtype()


def counts(seed=0):
    return np.random.default_rng(seed).poisson(1.0, (ROWS, 5)).astype(np.float32) * 7


def check(path, x, where=""):
    """Import a matrix with its labels, and find names, order and values as they were."""
    out = path.with_suffix(".out.h5")
    wanted = Wanted(
        {"a": f"{path}{where}"},
        labels=f"{path}:kind",
        transforms={"a": "none"},
    )
    import_data(out, wanted)
    with Store.open(out) as store:
        seen = []
        for name in store.splits:
            split, rows = store[name], store.about(f"rows/{name}")
            at = [CELLS.index(cell) for cell in rows]
            np.testing.assert_array_equal(split.take(np.arange(len(split)))["a"], x[at])
            names = [store.class_names[label] for label in split.labels.tolist()]
            assert names == KINDS[at].tolist()
            seen += at
        assert sorted(seen) == list(range(ROWS))
        assert store.about("a/names").tolist() == GENES


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_written_by_the_present_anndata(tmp_path, form):
    x = counts()
    made = anndata.AnnData(
        form(x),
        obs=pd.DataFrame({"kind": pd.Categorical(KINDS)}, CELLS),
        var=pd.DataFrame(index=GENES),
        layers={"raw": form(x + 1)},
        obsm={"pca": x[:, :2] - 3},
    )
    made.write_h5ad(tmp_path / "a.h5ad")
    check(tmp_path / "a.h5ad", x)
    check(tmp_path / "a.h5ad", x + 1, ":layers/raw")
    import_data(tmp_path / "o.h5", Wanted({"p": f"{tmp_path}/a.h5ad:obsm/pca"}))


def frame(file, axis, index, version, nullable=False, kinds=None):
    """A data frame as anndata 0.7 (version 0.1.0) and later ones (0.2.0) write it."""
    group = file.create_group(axis)
    group.attrs.update({"encoding-type": "dataframe", "encoding-version": version})
    group.attrs["_index"] = "_index"
    columns = [] if kinds is None else ["kind"]
    group.attrs.create("column-order", np.array(columns, object), dtype=STRINGS)
    texts(group, "_index", index, version, nullable)
    if kinds is None:
        return
    categories, codes = np.unique(kinds, return_inverse=True)
    if version == "0.1.0":  # categories lie beside the columns
        texts(group.create_group("__categories"), "kind", categories, version)
        column = group.create_dataset("kind", data=codes.astype(np.int8))
        column.attrs["categories"] = group["__categories/kind"].ref
        column.attrs["ordered"] = False
        return
    column = group.create_group("kind")
    column.attrs.update(
        {"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False}
    )
    array(column, "codes", codes.astype(np.int8))
    texts(column, "categories", categories, version, nullable)


def array(group, name, x):
    made = group.create_dataset(name, data=x)
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def texts(group, name, values, version, nullable=False):
    if nullable:
        within = group.create_group(name)
        within.attrs.update(
            {"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"}
        )
        texts(within, "values", values, version)
        array(within, "mask", np.zeros(len(values), bool))
        return
    made = group.create_dataset(name, data=np.array(values, object), dtype=STRINGS)
    if version != "0.1.0":
        made.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})


def matrix(file, x, version):
    made = file.create_group("X")
    kind = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": x.shape}
    made.attrs.update(kind)
    packed = sparse.csr_matrix(x)
    for key in ("data", "indices", "indptr"):
        values = getattr(packed, key)
        if version == "0.1.0":
            made[key] = values
        else:
            array(made, key, values)


LAYOUTS = {"0.7": ("0.1.0", False), "0.10": ("0.2.0", False), "0.13": ("0.2.0", True)}


@pytest.mark.parametrize("writer", LAYOUTS)
def test_layouts_of_other_versions(tmp_path, writer):
    version, nullable = LAYOUTS[writer]
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        if version != "0.1.0":
            file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        matrix(file, counts(), version)
        frame(file, "obs", CELLS, version, nullable, KINDS)
        frame(file, "var", GENES, version, nullable)
    check(tmp_path / "a.h5ad", counts())


@pytest.mark.parametrize("writer", LAYOUTS)
def test_missing_categories_are_missing_in_every_layout(tmp_path, writer):
    version, nullable = LAYOUTS[writer]
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        matrix(file, counts(), version)
        frame(file, "obs", CELLS, version, nullable, KINDS)
        frame(file, "var", GENES, version, nullable)
        codes = file["obs/kind"] if version == "0.1.0" else file["obs/kind/codes"]
        codes[3] = -1
    with pytest.raises(MvflowError, match="kind, row 3 is missing"):
        check(tmp_path / "a.h5ad", counts())


def test_written_by_the_present_mudata(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of changes to come
        mudata = pytest.importorskip("mudata", reason="needs mvflow[omics]")
        parts = {
            name: anndata.AnnData(
                x,
                obs=pd.DataFrame({"kind": pd.Categorical(KINDS[:n])}, CELLS[:n])[::step],
                var=pd.DataFrame(index=[f"{name}:{g}" for g in GENES]),
            )
            for name, x, n, step in (("rna", counts(), ROWS, 1), ("adt", counts(1)[:35], 35, 1))
        }
        made = mudata.MuData(parts)
        made.obs["batch"] = pd.Categorical(np.array(["x", "y"])[np.arange(len(made)) // 20])
        made.obs["x:kind"] = pd.Categorical(KINDS)
        made.write(tmp_path / "a.h5mu")
    path = tmp_path / "a.h5mu"
    for labels in ("batch", "x:kind", "rna/kind"):
        wanted = Wanted({"omics": str(path)}, labels=f"{path}:{labels}")
        done = import_data(tmp_path / "out.h5", wanted)
    with pytest.raises(MvflowError, match="did you mean 'rna/kind'"):
        import_data(tmp_path / "no.h5", Wanted({"omics": str(path)}, labels=f"{path}:rna_kind"))
    assert "dropped rows without a partner: 5 of omics-rna" in " ".join(done.understood)
    with Store.open(tmp_path / "out.h5") as store:
        assert [m.name for m in store.modalities] == ["omics-adt", "omics-rna"]
        assert store.about("omics-adt/names").tolist() == [f"adt:{g}" for g in GENES]
        assert store.class_names == {0: "B", 1: "T"}
    import_data(tmp_path / "out.h5", Wanted({"only": f"{path}:adt"}))


@pytest.mark.bad_input
@pytest.mark.parametrize("place", ["X", "layers/raw", "obs/kind"])
def test_links_to_other_files_are_not_followed(tmp_path, place):
    """A file from somebody else must not bring one's own into a store."""
    made = anndata.AnnData(
        counts(),
        obs=pd.DataFrame({"kind": pd.Categorical(KINDS)}, CELLS),
        var=pd.DataFrame(index=GENES),
        layers={"raw": counts()},
    )
    for name in ("own", "foreign"):
        made.write_h5ad(tmp_path / f"{name}.h5ad")
    path = tmp_path / "foreign.h5ad"
    with h5py.File(path, "r+") as file:
        del file[place]
        file[place] = h5py.ExternalLink(str(tmp_path / "own.h5ad"), f"/{place}")
    with pytest.raises(MvflowError, match="lies in another file: only the file itself is read"):
        check(path, counts(), ":layers/raw" if place == "layers/raw" else "")
    with h5py.File(path, "r+") as file:
        del file[place]
        layout = h5py.VirtualLayout((ROWS, 5), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "own.h5ad"), "X", (ROWS, 5))
        file.create_virtual_dataset(place, layout)
    with pytest.raises(MvflowError, match="lies in another file"):
        check(path, counts(), ":layers/raw" if place == "layers/raw" else "")
