"""New files are read as import read the old ones: columns by name, and the store's transform."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

from mvflow.core import MvflowError, Units
from mvflow_datasets import Store
from mvflow_datasets.importing import (
    ModalityRows,
    Wanted,
    import_data,
    join_rows,
    pair_rows,
    read_modality,
)

ROWS = 40


def rng(seed=0):
    return np.random.default_rng(seed)


def stored_rows(path, name):
    """All rows of a store in the order of the file, its specification and its units."""
    with Store.open(path) as store:
        values = [store[s].take(np.arange(len(store[s])))[name] for s in store.splits]
        names = [n for s in store.splits for n in store[s].row_names]
        modality = {m.name: m for m in store.modalities}[name]
        return dict(zip(names, np.concatenate(values), strict=True)), modality, store.units[name]


def check(tmp_path, reference, again=None, names=None, **wanted):
    """What is read again, from the same values perhaps in another file, is what the store has."""
    import_data(tmp_path / "s.h5", Wanted({"x": str(reference)}, **wanted))
    rows, modality, units = stored_rows(tmp_path / "s.h5", "x")
    read = read_modality(again or reference, modality, units)
    keys = names or (map(str, range(ROWS)) if read.row_names is None else read.row_names)
    expected = np.stack([rows[str(key)] for key in keys])
    if expected.dtype == np.uint8 and read.values.dtype == np.float32:
        expected = expected.astype(np.float32) / 255  # bits are stored as bytes
    np.testing.assert_array_equal(read.values, expected)
    return read


VALUES = {
    "numbers": rng().normal(50, 9, (ROWS, 3)),
    "single": rng(1).normal(50, 9, ROWS),
    "counts": rng(2).poisson(1.5, (ROWS, 8)) * 5,
    "flags": rng(3).integers(2, size=(ROWS, 4)),
    "classes": rng(4).integers(2, 5, size=ROWS),
    "texts": np.array(["01", "b", "c"])[np.arange(ROWS) % 3],
    "series": rng(5).normal(size=(ROWS, 30, 5)) + 7,
    "image": rng(6).integers(256, size=(ROWS, 8, 8), dtype=np.uint8),
    "colour": rng(7).integers(256, size=(ROWS, 8, 9, 3), dtype=np.uint8),
    "bytes": rng(8).integers(2, size=(ROWS, 9, 9), dtype=np.uint8) * 255,
    "bits": rng(9).integers(2, size=(ROWS, 9, 9), dtype=np.uint8),
    "scan": rng(10).normal(-500, 300, (ROWS, 1, 8, 8)),
}


@pytest.mark.parametrize("name", VALUES)
def test_arrays(tmp_path, name):
    np.save(tmp_path / "x.npy", VALUES[name])
    check(tmp_path, tmp_path / "x.npy")


@pytest.mark.parametrize("transform", ["none", "standardise", "log1p", "quantile"])
def test_columns_of_tables_are_found_by_name(tmp_path, transform):
    names = [f"s{i}" for i in range(ROWS)]
    frame = pd.DataFrame(np.abs(VALUES["numbers"]), names, ["a", "b", "c"])
    frame.to_csv(tmp_path / "x.csv")
    new = frame.assign(note="text", d=1.0)[["c", "note", "a", "d", "b"]].iloc[::-1]
    new.to_csv(tmp_path / "new.csv", sep=";", decimal=",")
    read = check(tmp_path, tmp_path / "x.csv", tmp_path / "new.csv", transforms={"x": transform})
    assert read.row_names.tolist() == names[::-1]
    said = any("in the units of its file" in note for note in read.notes)
    assert said == (transform != "none")


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_genes_of_annotated_files_are_found_by_name(tmp_path, form):
    anndata = pytest.importorskip("anndata", reason="needs mvflow[omics]")
    x = VALUES["counts"].astype(np.float32)
    obs = pd.DataFrame(index=[f"c{i}" for i in range(ROWS)])
    var = pd.DataFrame(index=[f"g{j}" for j in range(8)])
    anndata.AnnData(form(x), obs=obs, var=var).write_h5ad(tmp_path / "x.h5ad")
    order = [3, 1, 7, 0, 2, 6, 5, 4]
    new = anndata.AnnData(x[:, order], obs=obs, var=var.iloc[order])
    new.write_h5ad(tmp_path / "new.h5ad")
    check(tmp_path, tmp_path / "x.h5ad", tmp_path / "new.h5ad")


def test_folders_of_images(tmp_path):
    (tmp_path / "scan").mkdir()
    for i, image in enumerate(VALUES["colour"]):
        Image.fromarray(image).save(tmp_path / "scan" / f"s{i}.png")
    check(tmp_path, tmp_path / "scan")


@pytest.mark.bad_input
def test_what_does_not_fit_is_one_sentence(tmp_path):
    frame = pd.DataFrame(VALUES["numbers"], columns=["a", "b", "c"])
    frame.to_csv(tmp_path / "x.csv", index=False)
    import_data(tmp_path / "s.h5", Wanted({"x": f"{tmp_path}/x.csv"}, transforms={"x": "log1p"}))
    _, modality, units = stored_rows(tmp_path / "s.h5", "x")
    frame.rename(columns={"b": "B"}).to_csv(tmp_path / "y.csv", index=False)
    with pytest.raises(MvflowError, match=r"y.csv lacks 1 of the 3 columns of the store \(b\)"):
        read_modality(tmp_path / "y.csv", modality, units)
    np.save(tmp_path / "y.npy", VALUES["counts"])
    with pytest.raises(MvflowError, match=r"y.npy has rows of shape \(8,\): 'x' has \(3,\)"):
        read_modality(tmp_path / "y.npy", modality, units)
    frame.assign(a=-5).to_csv(tmp_path / "y.csv", index=False)
    with pytest.raises(MvflowError, match="are -5 at least once: log1p needs 0 or more"):
        read_modality(tmp_path / "y.csv", modality, units)
    np.save(tmp_path / "k.npy", VALUES["texts"])
    import_data(tmp_path / "s.h5", Wanted({"x": f"{tmp_path}/k.npy"}))
    _, modality, units = stored_rows(tmp_path / "s.h5", "x")
    np.save(tmp_path / "k.npy", np.array(["b", "d"]))
    with pytest.raises(MvflowError, match="unknown class in values of .*k.npy 'd'"):
        read_modality(tmp_path / "k.npy", modality, units)


def test_rows_of_several_files_are_paired_by_name():
    def rows(names):
        values = np.array([[ord(n)] for n in names])
        return ModalityRows(values, np.array(list(names)), ())

    paired = pair_rows(
        {"a": rows("xyz"), "b": rows("zxy"), "c": ModalityRows(np.eye(3), None, ())}
    )
    np.testing.assert_array_equal(paired["b"], paired["a"])
    for other in ("zxw", "zx", "zxx"):
        with pytest.raises(MvflowError, match="a and b name their rows differently"):
            pair_rows({"a": rows("xyz"), "b": rows(other)})


def test_without_units_nothing_is_changed(tmp_path):
    np.save(tmp_path / "x.npy", VALUES["numbers"])
    import_data(tmp_path / "s.h5", Wanted({"x": f"{tmp_path}/x.npy"}, transforms={"x": "none"}))
    _, modality, _ = stored_rows(tmp_path / "s.h5", "x")
    read = read_modality(tmp_path / "x.npy", modality, Units())
    np.testing.assert_array_equal(read.values, VALUES["numbers"].astype(np.float32))
    assert not read.notes


def test_joined_rows_are_those_of_any_file_in_their_order():
    rng = np.random.default_rng(0)
    files = {"a": "xyzw", "b": "vzx", "c": "yu"}
    frames = {n: pd.DataFrame(rng.normal(size=(len(k), 2)), list(k)) for n, k in files.items()}
    rows, names = join_rows(
        {n: ModalityRows(f.to_numpy(), np.array(f.index, str), ()) for n, f in frames.items()}
    )
    assert names.tolist() == list("xyzwvu")
    for name, frame in frames.items():
        expected = frame.reindex(names)
        here = expected.notna().to_numpy()
        assert (rows[name].present == here).all()
        np.testing.assert_array_equal(rows[name].values, expected.fillna(0).to_numpy())


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("other", "message"),
    [("xx", "b names two rows alike, but others name theirs"), (None, "b does not name its rows")],
)
def test_rows_that_cannot_be_joined(other, message):
    named = [ModalityRows(np.eye(2), np.array(list(k)), ()) for k in ("xy", "yz")]
    odd = ModalityRows(np.eye(2), None if other is None else np.array(list(other)), ())
    with pytest.raises(MvflowError, match=message):
        join_rows({"a": named[0], "b": odd, "c": named[1]})
