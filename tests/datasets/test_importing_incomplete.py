"""Importing incomplete data: outer joins, what missing values mean, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import sparse

from mvflow.core import DataError, MvflowError, row_presence
from mvflow_datasets import Store
from mvflow_datasets.importing import ReadOptions, Wanted, import_data
from mvflow_datasets.importing.pairing import joined
from mvflow_datasets.importing.transforms import TRANSFORMS, fit_units

keys_of_a_set = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5).map(np.array)


@given(st.lists(keys_of_a_set, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_the_outer_join_is_that_of_pandas_and_holds_the_inner_one(sets):
    keys = {str(i): k for i, k in enumerate(sets)}
    merged = pd.DataFrame({"key": sets[0], "0": np.arange(len(sets[0]))})
    for name, k in list(keys.items())[1:]:
        merged = merged.merge(pd.DataFrame({"key": k, name: np.arange(len(k))}), "outer", "key")
    expected = merged.fillna(-1).set_index("key").astype(int)
    found, positions = joined(keys, outer=keys)
    rows = list(zip(found.tolist(), *(positions[n].tolist() for n in keys), strict=True))
    assert sorted(rows) == sorted(expected[list(keys)].itertuples(name=None))
    assert found.tolist() == sorted(found.tolist())
    complete = {row for row in rows if min(row[1:]) >= 0}
    try:
        inner_keys, inner = joined(keys)
    except MvflowError:
        assert not complete
        return
    assert complete == {*zip(inner_keys.tolist(), *(inner[n].tolist() for n in keys), strict=True)}


# Files


def table(rows, columns, name, seed=0, share=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(5, 2, (len(rows), columns))
    x[rng.random(x.shape) < share] = np.nan
    return pd.DataFrame(x, index=rows, columns=[f"{name}{j}" for j in range(columns)])


def overlapping(share=0.0):
    """Two tables that name their rows, of which 40 are in both."""
    a = table([f"r{i}" for i in range(60)], 3, "a", 0, share)
    return a, table([f"r{i}" for i in range(90, 19, -1)], 2, "b", 1, share)


def imported(path="out.h5", missing=None, **wanted):
    options = {"": ReadOptions(missing=missing)}
    return import_data(path, Wanted(**{"options": options, **wanted}))


def read_back(path="out.h5"):
    """All rows of a store in the units of the files, by name, NaN where a value is absent."""
    frames, labels = {}, []
    with Store.open(path) as store:
        for split in store.splits:
            rows, names = store[split], store.about(f"rows/{split}")
            batch = rows.take(np.arange(len(rows)))
            for m in store.modalities:
                x = store.units[m.name].restore(batch[m.name].astype(np.float64))
                mask = batch.get(f"present/{m.name}", np.ones(len(rows), bool))
                mask = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
                frame = pd.DataFrame(np.where(mask, x, np.nan).reshape(len(rows), -1), names)
                frames[m.name] = pd.concat([frames.get(m.name), frame])
            if rows.labels is not None:
                labels.append(pd.Series(rows.labels, names))
    return frames, pd.concat(labels) if labels else None


@pytest.mark.parametrize("kind", ["csv", "parquet", "h5ad"])
def test_an_outer_join_of_files_is_that_of_pandas(here, kind):
    a, b = overlapping(share=0.2)
    for name, frame in (("a", a), ("b", b)):
        if kind == "h5ad":
            anndata = pytest.importorskip("anndata", reason="needs mvflow[omics]")
            anndata.AnnData(frame).write_h5ad(f"{name}.h5ad")
        else:
            getattr(frame, f"to_{kind}")(f"{name}.{kind}")
    done = imported(
        modalities={"a": f"a.{kind}", "b": f"b.{kind}"}, missing="values", join="outer"
    )
    found, _ = read_back()
    merged = a.join(b, how="outer")
    for name, frame in (("a", a), ("b", b)):
        expected = merged[frame.columns]
        # float32 in the store, of values around 5
        np.testing.assert_allclose(found[name].loc[expected.index], expected, rtol=1e-5)
    assert "91 rows, paired by key (outer join)" in done.understood
    lines = {"40 rows have a, b", "20 rows have only a", "31 rows have only b"}
    # rows of which all values are missing lack the modality as well
    lacking = {n: int(f.isna().all(axis=1).sum()) for n, f in (("a", a), ("b", b))}
    assert sum(lacking.values()) or lines < {*done.understood}


def test_inner_rows_are_those_outer_rows_that_have_all(here):
    a, b = overlapping()
    a.to_csv("a.csv")
    b.to_csv("b.csv")
    files = {"a": "a.csv", "b": "b.csv"}
    inner = imported("inner.h5", modalities=files)
    imported("outer.h5", modalities=files, join="outer")
    (some, _), (more, _) = read_back("inner.h5"), read_back("outer.h5")
    complete = more["a"].notna().all(axis=1) & more["b"].reindex(more["a"].index).notna().all(
        axis=1
    )
    assert {*some["a"].index} == {*complete.index[complete]}
    for name, x in some.items():
        np.testing.assert_allclose(x, more[name].loc[x.index], rtol=1e-5)
    words = "40 rows, paired by key; dropped rows without a partner: 20 of a, 31 of b"
    assert f"{words} (--join outer keeps them)" in inner.understood


def test_what_a_missing_value_means(here):
    """Beside complete rows of b: a row of a with a gap lacks a, or that value alone."""
    a, b = table(range(80), 3, "a", share=0.1), table(range(80), 2, "b", 1)
    np.save("a.npy", a)
    b.to_csv("b.csv", index=False)
    files = {"a": "a.npy", "b": "b.csv"}
    gaps = a.isna().to_numpy()
    imported("row.h5", modalities=files, missing="row", join="outer")
    imported("values.h5", modalities=files, missing="values", join="outer")
    imported("inner.h5", modalities=files, missing="row")
    by_row, by_value = (read_back(f"{n}.h5")[0]["a"].sort_index() for n in ("row", "values"))
    order = a.index.astype(str)
    assert (by_row.loc[order].isna().to_numpy() == gaps.any(1)[:, None]).all()
    assert (by_value.loc[order].isna().to_numpy() == gaps).all()
    assert {*read_back("inner.h5")[0]["a"].index} == {*order[~gaps.any(1)]}
    rest = ~gaps.any(1)
    np.testing.assert_allclose(by_row.loc[order[rest]], a[rest], rtol=1e-5)


@pytest.mark.parametrize("step", TRANSFORMS)
@pytest.mark.parametrize("seed", range(3))
def test_units_are_those_of_the_values_that_are_there(step, seed):
    rng = np.random.default_rng(seed)
    x = rng.gamma(2, 3, (200, 1))
    holes = rng.random(200) < 0.3
    some = fit_units(np.where(holes[:, None], np.nan, x), [step], is_image=False)
    expected = fit_units(x[~holes], [step], is_image=False)
    np.testing.assert_allclose(some.apply(x), expected.apply(x), rtol=1e-9, atol=1e-12)
    with_nan = some.apply(np.where(holes[:, None], np.nan, x))
    np.testing.assert_array_equal(np.isnan(with_nan[:, 0]), holes)


def test_all_zero_rows_are_data(here):
    a = table([f"r{i}" for i in range(50)], 3, "a")
    a.iloc[7] = 0
    a.to_csv("a.csv")
    table(a.index[:30], 2, "b", 1).to_csv("b.csv")
    imported(modalities={"a": "a.csv", "b": "b.csv"}, join="outer")
    found, _ = read_back()
    np.testing.assert_allclose(found["a"].loc["r7"], 0, atol=1e-6)
    assert found["b"].loc["r40"].isna().all()


def test_labels_may_be_missing(here):
    a = table([f"r{i}" for i in range(60)], 3, "a")
    a.to_csv("a.csv")
    table(a.index, 2, "b", 1).to_csv("b.csv")
    rng = np.random.default_rng(0)
    kinds = pd.Series(rng.choice(["x", "y", None], 50), a.index[:50], name="kind")
    kinds.to_csv("kinds.csv")
    wanted = {"modalities": {"a": "a.csv", "b": "b.csv"}, "labels": "kinds.csv:kind"}
    done = imported(missing="row", join="outer", **wanted)
    _, labels = read_back()
    expected = kinds.reindex(a.index).map({"x": 0, "y": 1}).fillna(-1).astype(int)
    assert labels.loc[a.index].tolist() == expected.tolist()
    unknown = int((expected < 0).sum())
    assert f"labels: 2 classes (x, y); {unknown} rows have none" in done.understood
    with pytest.raises(DataError, match=r"kinds.csv, line \d+, column 'kind' is missing"):
        imported(join="outer", **wanted)
    pd.Series(["x", "y"], ["q0", "q1"], name="kind").to_csv("kinds.csv")
    with pytest.raises(DataError, match="^no row has a label: .* leave --labels out"):
        imported(missing="row", join="outer", **wanted)


def test_a_modality_of_mudata_has_the_rows_that_its_mask_says(here):
    mudata = pytest.importorskip("mudata", reason="needs mvflow[omics]")
    anndata = pytest.importorskip("anndata", reason="needs mvflow[omics]")
    a, b = overlapping()
    mudata.set_options(pull_on_update=False)
    made = mudata.MuData({"rna": anndata.AnnData(a), "protein": anndata.AnnData(b)})
    made.write_h5mu("cells.h5mu")
    imported(modalities={"x": "cells.h5mu"}, join="outer")
    found, _ = read_back()
    for name in ("rna", "protein"):
        has = pd.Series(np.asarray(made.obsm[name]).reshape(-1), made.obs_names)
        assert (found[f"x-{name}"].notna().all(axis=1) == has.loc[found["x-rna"].index]).all()


def test_an_empty_image_file_is_a_missing_image(here):
    (here / "scans").mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        file = here / "scans" / f"r{i}.png"
        Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(file)
    for i in (0, 5):
        (here / "scans" / f"r{i}.png").write_bytes(b"")
    table([f"r{i}" for i in range(40)], 2, "b").to_csv("b.csv")
    files = {"scan": "scans", "b": "b.csv"}
    imported(modalities=files, missing="row", join="outer")
    found, _ = read_back()
    lacks = found["scan"].isna().all(axis=1)
    assert {*lacks.index[lacks]} == {"r0", "r5"}
    with pytest.raises(
        DataError, match=r"r0.png cannot be read as an image: it has no bytes; --m"
    ):
        imported(modalities=files)


# Bad input


def sparse_with_a_hole(path):
    anndata = pytest.importorskip("anndata", reason="needs mvflow[omics]")
    matrix = sparse.random(40, 6, 0.5, "csr", random_state=0)
    matrix.data[3] = np.nan
    anndata.AnnData(matrix, pd.DataFrame(index=[f"r{i}" for i in range(40)])).write_h5ad(path)


def test_rows_of_a_sparse_matrix_may_be_missing(here):
    sparse_with_a_hole("a.h5ad")
    table([f"r{i}" for i in range(40)], 2, "b").to_csv("b.csv")
    imported(modalities={"a": "a.h5ad", "b": "b.csv"}, missing="row", join="outer")
    with Store.open("out.h5") as store:
        lacks = sum(int((~row_presence(store[s])["a"]).sum()) for s in store.splits)
    assert lacks == 1


OUTER = {"join": "outer"}
BAD = {
    "a cell": (
        {},
        {},
        r"a.csv, line 4, column 'a1' is missing: .*--missing row .*--missing values",
    ),
    "a value": ({"a": "a.npy"}, {}, r"a.npy, row 2, column 1 is nan: .*--missing row .*values"),
    "infinity": ({"a": "inf.npy"}, {"missing": "values"}, "inf.npy, row 3, column 0 is inf"),
    "text": (
        {"a": "text.csv"},
        {"missing": "values"},
        r"line 3, column 'a0' is '\?': expected num",
    ),
    "join": ({}, {"join": "outter"}, "unknown join 'outter': did you mean 'outer'"),
    "meaning": ({}, {"missing": "rows"}, "unknown meaning of missing values 'rows': did you mean"),
    "nothing links": (
        {"b": "far.csv"},
        {**OUTER, "missing": "values"},
        "nothing links 'a' with 'b': no row has one of each",
    ),
    "nowhere": ({"a": "void.csv"}, {**OUTER, "missing": "row"}, "void.csv: no row has a value"),
    "no row left": (
        {"a": "odd.csv", "b": "even.csv"},
        {"missing": "row"},
        "no row has all of a, b: --join outer keeps",
    ),
    "a column": (
        {"a": "column.csv"},
        {"missing": "values"},
        "^modality 'a': no row to train on has a value of 'a1': leave out what no row has$",
    ),
    "covariate": (
        {},
        {**OUTER, "missing": "values", "covariates": {"age": "age.csv:age"}},
        r"covariates/age has no value for row 'r4\d'",
    ),
    "sparse": (
        {"a": "a.h5ad"},
        {**OUTER, "missing": "values"},
        "a.h5ad is sparse, .* say --missing row, or save it as a dense matrix",
    ),
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    rows = [f"r{i}" for i in range(50)]
    a = table(rows, 2, "a")
    a.iloc[2, 1] = np.nan
    a.to_csv(folder / "a.csv")
    np.save(folder / "a.npy", a)
    bad = a.fillna(0).to_numpy(copy=True)
    bad[3, 0] = np.inf
    np.save(folder / "inf.npy", bad)
    odd = a.fillna(0.5).astype(str)
    odd.iloc[1, 0] = "?"
    odd.to_csv(folder / "text.csv")
    a.assign(a0=np.nan, a1=np.nan).to_csv(folder / "void.csv")
    a.assign(a1=np.nan).to_csv(folder / "column.csv")
    table(rows, 2, "b", 1).to_csv(folder / "b.csv")
    table([f"s{i}" for i in range(50)], 2, "b", 1).to_csv(folder / "far.csv")
    for name, first in (("odd", 0), ("even", 1)):
        x = table(rows, 1, name[0])
        x.iloc[first::2] = np.nan
        x.to_csv(folder / f"{name}.csv")
    pd.DataFrame({"age": np.arange(40)}, rows[:40]).to_csv(folder / "age.csv")
    sparse_with_a_hole(folder / "a.h5ad")
    return folder


@pytest.mark.bad_input
@pytest.mark.parametrize("what", BAD)
def test_incomplete_input_that_cannot_be_used_is_one_sentence(
    bad_files, tmp_path, monkeypatch, what
):
    monkeypatch.chdir(bad_files)
    files, wanted, message = BAD[what]
    with pytest.raises(MvflowError, match=message):
        imported(tmp_path / "out.h5", modalities={"a": "a.csv", "b": "b.csv"} | files, **wanted)
    assert not (tmp_path / "out.h5").exists()
