"""Sparse modalities stay sparse on disk, covariates are kept beside them; both are checked."""

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from mvflow.core import Covariate, DataError, Modality, Source, UsageError, fingerprint
from mvflow.training import MappedColumn, Table
from mvflow_datasets import SplitData, Store, write_store
from mvflow_datasets.importing import ReadOptions, Wanted, import_data

ROWS, COLUMNS = 60, 17
BATCH = Covariate("batch", ("A", "B", "C"))
AGE = Covariate("age", None, 40.0, 12.0)


def matrix(seed=0, rows=ROWS):
    return sparse.random(rows, COLUMNS, 0.2, "coo", random_state=seed, dtype=np.float64)


def facts(rows, seed=0):
    rng = np.random.default_rng(seed)
    batch = np.array(BATCH.levels)[rng.integers(3, size=rows)]
    return {"batch": batch, "age": rng.normal(40, 12, rows)}


def store_at(path, x, covariates=None, specs=(), pairs=None):
    modalities = [Modality("x", (COLUMNS,)), Modality("y", (2,))]
    length = x.shape[0]
    y = np.arange(2.0 * length).reshape(length, 2)
    data = SplitData({"x": x, "y": y}, pairs=pairs, covariates=covariates or {})
    write_store(path, name="s", modalities=modalities, splits={"train": data}, covariates=specs)
    return Store.open(path)


@given(st.lists(st.integers(0, ROWS - 1), max_size=30), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_rows_are_those_of_the_matrix(tmp_path_factory, rows, seed):
    x = matrix(seed)
    with store_at(tmp_path_factory.mktemp("s") / "s.h5", x) as store:
        split = store["train"]
        np.testing.assert_array_equal(split.take(rows)["x"], x.toarray().astype("f4")[rows])
        column = split.columns()["x"].values
        np.testing.assert_array_equal(column[3:9], x.toarray().astype("f4")[3:9])
        assert column.shape == (ROWS, COLUMNS)
        assert store.verify() == []


def test_a_sparse_store_is_small_and_scipy_reads_it(tmp_path):
    x = sparse.random(2000, COLUMNS * 30, 0.01, "csr", random_state=0)
    data = SplitData({"x": x})
    path = tmp_path / "s.h5"
    modality = Modality("x", x.shape[1:])
    write_store(path, name="s", modalities=[modality], splits={"train": data})
    assert path.stat().st_size < 0.1 * 4 * x.shape[0] * x.shape[1]
    with h5py.File(path) as file:
        parts = tuple(file[f"train/x/{p}"][...] for p in ("data", "indices", "indptr"))
    back = sparse.csr_matrix(parts, shape=x.shape)
    np.testing.assert_array_equal(back.toarray(), x.toarray().astype(np.float32))
    with Store.open(path) as store:
        assert store.info()["splits"]["train"]["arrays"]["x"]["filled"] == pytest.approx(0.01)


def test_pairs_of_sparse_rows(tmp_path):
    x, at = matrix(), np.array([5, 5, 2])
    with store_at(tmp_path / "s.h5", x, pairs={"x": at, "y": at}) as store:
        assert len(store["train"]) == 3
        np.testing.assert_array_equal(
            store["train"].take([0, 2])["x"], x.toarray()[[5, 2]].astype("f4")
        )


def test_batches_of_a_table_are_dense_and_nothing_else_is(tmp_path):
    x = matrix()
    with store_at(tmp_path / "s.h5", x) as store:
        table = Table.of(store["train"])
        assert isinstance(table.columns["x"], MappedColumn)
        assert not isinstance(table.columns["y"], MappedColumn)
        seen = [batch["x"] for batch in table.each([torch.tensor([4, 9]), torch.tensor([1])])]
        np.testing.assert_array_equal(torch.cat(seen).numpy(), x.toarray()[[4, 9, 1]].astype("f4"))


@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_no_changed_byte_of_a_sparse_matrix_goes_unnoticed(tmp_path, part):
    path = tmp_path / "s.h5"
    with store_at(path, matrix()) as store:
        entry = store._manifest.arrays[f"train/x/{part}"]
    data = bytearray(path.read_bytes())
    data[entry.offset + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"train/x/{part} were altered"):
        Store.open(path)["train"].take(np.arange(ROWS))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p["indptr"].__setitem__(3, 0), "does not rise"),
        (lambda p: p["indptr"].__setitem__(-1, 999), "does not rise"),
        (lambda p: p["indices"].__setitem__(0, COLUMNS), "row 0 of train/x/indices holds 17"),
        (lambda p: p["data"].__setitem__(2, np.nan), "row 2 of train/x/data holds nan"),
        (lambda p: p.pop("data"), "train/x is missing|train/x/data is missing"),
    ],
)
def test_forged_matrices_are_refused(tmp_path, monkeypatch, change, reason):
    from mvflow_datasets import split_data

    made = split_data._sparse_parts

    def forged(matrix, modality):
        parts = {key.partition("/")[2]: x for key, x in made(matrix, modality).items()}
        change(parts)
        return {f"x/{key}": x for key, x in parts.items()}

    monkeypatch.setattr(split_data, "_sparse_parts", forged)
    with pytest.raises(DataError, match=reason):
        store_at(tmp_path / "s.h5", matrix())["train"].take(np.arange(ROWS))


@pytest.mark.bad_input
def test_sparse_values_that_a_likelihood_cannot_have_are_refused(tmp_path):
    x = sparse.csr_matrix(np.diag([1.0, 0.5, 2.0]))
    counts = [Modality("x", (3,), "negative-binomial")]
    with pytest.raises(DataError, match="modality 'x', row 1 contains 0.5: expected counts"):
        write_store(
            tmp_path / "s.h5", name="s", modalities=counts, splits={"t": SplitData({"x": x})}
        )
    with pytest.raises(DataError, match="'x' is sparse of shape"):
        write_store(
            tmp_path / "s.h5",
            name="s",
            modalities=[Modality("x", (4,))],
            splits={"t": SplitData({"x": x})},
        )


def test_covariates_come_encoded_beside_the_rows(tmp_path):
    values = facts(ROWS)
    with store_at(tmp_path / "s.h5", matrix(), values, [BATCH, AGE]) as store:
        split = store["train"]
        assert isinstance(split, Source)
        assert split.covariates == {"batch": BATCH, "age": AGE}
        rows = split.take([7, 3])
        np.testing.assert_array_equal(
            rows["covariates/batch"], BATCH.encode(values["batch"][[7, 3]])
        )
        expected = AGE.encode(values["age"].astype(np.float32)[[7, 3]])
        np.testing.assert_array_equal(rows["covariates/age"], expected)
        columns = split.columns()
        assert {n: c.values.shape for n, c in columns.items()}["covariates/batch"] == (ROWS, 3)
        assert store.info()["covariates"]["batch"] == {"levels": ["A", "B", "C"]}
    with h5py.File(tmp_path / "s.h5") as file:
        codes = file["train/covariates/batch"][...]
        assert np.array(BATCH.levels)[codes].tolist() == values["batch"].tolist()


def test_the_fingerprint_tells_covariates_and_sparse_values_apart(tmp_path):
    seen = set()
    other = Covariate("batch", ("A", "B", "C", "D"))
    changed = facts(ROWS)["batch"].copy()
    changed[0] = "A" if changed[0] != "A" else "B"
    for i, (x, batch, spec) in enumerate(
        [
            (matrix(), facts(ROWS)["batch"], BATCH),
            (matrix(1), facts(ROWS)["batch"], BATCH),
            (matrix(), changed, BATCH),
            (matrix(), facts(ROWS)["batch"], other),
        ]
    ):
        with store_at(tmp_path / f"{i}.h5", x, {"batch": batch}, [spec]) as store:
            seen.add(fingerprint(store["train"]))
    with store_at(tmp_path / "none.h5", matrix()) as store:
        seen.add(fingerprint(store["train"]))
    assert len(seen) == 5


@pytest.mark.bad_input
def test_covariates_that_do_not_fit_are_refused(tmp_path):
    path, values = tmp_path / "s.h5", facts(ROWS)
    with pytest.raises(DataError, match="unknown level of covariate 'batch' 'Z'"):
        store_at(path, matrix(), {"batch": ["Z"] * ROWS}, [BATCH])
    with pytest.raises(DataError, match="covariate 'batch' has 59 values for 60 rows"):
        store_at(path, matrix(), {"batch": values["batch"][1:]}, [BATCH])
    with pytest.raises(DataError, match=r"covariates \['age', 'batch'\] are needed"):
        store_at(path, matrix(), {"batch": values["batch"]}, [BATCH, AGE])


def test_the_order_of_covariates_is_that_of_names_whatever_is_given(tmp_path):
    values = facts(ROWS)
    for i, specs in enumerate(([BATCH, AGE], [AGE, BATCH])):
        store_at(tmp_path / f"{i}.h5", matrix(), values, specs).close()
    assert (tmp_path / "0.h5").read_bytes() == (tmp_path / "1.h5").read_bytes()


# Imported


def test_covariates_of_a_table_are_paired_and_typed(tmp_path):
    values = facts(ROWS)
    ids = [f"p{i}" for i in range(ROWS)]
    frame = pd.DataFrame({"id": ids, **values, "site": np.arange(ROWS) % 2})
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "c.csv", index=False)
    x = pd.DataFrame(matrix().toarray(), ids).add_prefix("g")
    x.to_csv(tmp_path / "x.csv")
    at = f"{tmp_path}/c.csv"
    done = import_data(
        tmp_path / "out.h5",
        Wanted(
            {"x": f"{tmp_path}/x.csv"},
            covariates={n: f"{at}:{n}" for n in ("batch", "age", "site")},
            options={f"covariates/{n}": ReadOptions(index="id") for n in ("batch", "age", "site")},
        ),
    )
    assert "covariate site: 2 classes (0, 1) (--covariate-kind)" in done.understood
    with Store.open(tmp_path / "out.h5") as store:
        train = store["train"]
        at = [ids.index(key) for key in store.about("rows/train")]
        age = store.covariates["age"]
        assert age.mean == pytest.approx(values["age"][at].mean())
        assert age.scale == pytest.approx(values["age"][at].std())
        taken = train.take(np.arange(len(train)))
        batch = taken["covariates/batch"].argmax(1)
        assert np.array(BATCH.levels)[batch].tolist() == values["batch"][at].tolist()


def test_covariates_of_obs(tmp_path):
    anndata = pytest.importorskip("anndata", reason="needs mvflow[omics]")
    values = facts(ROWS)
    obs = pd.DataFrame(values, [f"c{i}" for i in range(ROWS)])
    anndata.AnnData(matrix().toarray(), obs=obs).write_h5ad(tmp_path / "a.h5ad")
    wanted = Wanted(
        {"x": f"{tmp_path}/a.h5ad"}, covariates={"batch": "obs:batch", "age": "obs:age"}
    )
    import_data(tmp_path / "out.h5", wanted)
    with Store.open(tmp_path / "out.h5") as store:
        assert store.covariates["batch"] == BATCH
        assert store.covariates["age"].levels is None
    np.save(tmp_path / "x.npy", np.eye(40))
    wanted = Wanted({"x": f"{tmp_path}/x.npy"}, covariates={"b": "obs:batch"})
    with pytest.raises(UsageError, match="no modality is from .h5ad"):
        import_data(tmp_path / "o.h5", wanted)


def test_kinds_of_covariates_can_be_overruled(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(ROWS, 2)) + 3)
    np.save(tmp_path / "c.npy", np.arange(ROWS) % 5)
    place = {"c": f"{tmp_path}/c.npy"}
    for kind, levels in ((None, 5), ("categorical", 5), ("continuous", None)):
        kinds = {} if kind is None else {"c": kind}
        wanted = Wanted({"x": f"{tmp_path}/x.npy"}, covariates=place, covariate_kinds=kinds)
        import_data(tmp_path / "out.h5", wanted)
        with Store.open(tmp_path / "out.h5") as store:
            found = store.covariates["c"].levels
            assert (None if found is None else len(found)) == levels
