"""Data of one's own: what is understood, and what is refused."""

import builtins
import csv
import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

from mvflow.core import MvflowError
from mvflow.report import Entry
from mvflow.report.context import Context
from mvflow_datasets import Store
from mvflow_datasets.importing import Wanted, import_data, read_units
from mvflow_datasets.importing.references import Reference

ROWS = 40


def rng(seed=0):
    return np.random.default_rng(seed)


def write_csv(path, header, rows, delimiter=","):
    with Path(path).open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])


def write_images(folder, images, names=None):
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{names[i] if names else i}.png")


def write_annotated(path, matrix, obs, var, kinds=None, **layers):
    """An AnnData file as anndata writes it."""
    anndata = pytest.importorskip("anndata", reason="needs mvflow[omics]")
    frame = pd.DataFrame(index=obs)
    if kinds is not None:
        frame["kind"] = pd.Categorical(kinds)
    made = anndata.AnnData(matrix, obs=frame, var=pd.DataFrame(index=var), layers=layers)
    made.write_h5ad(path)
    return made


def imported(**wanted):
    """Import into out.h5 and return what was understood."""
    return import_data("out.h5", Wanted(**wanted))


def stored(name, part="train"):
    with Store.open("out.h5") as store:
        return store[part].take(np.arange(len(store[part])))[name]


def specification(name):
    with Store.open("out.h5") as store:
        return {m.name: m for m in store.modalities}[name]


def originals(name):
    """All stored rows in the units and in the order of the file."""
    units = read_units("out.h5")[name]
    rows, values = [], []
    with Store.open("out.h5") as store, h5py.File("out.h5") as file:
        for part in store.splits:
            rows.append(file[f"_about/rows/{part}"].asstr()[...].astype(int))
            values.append(units.restore(store[part].take(np.arange(len(store[part])))[name]))
    return np.concatenate(values)[np.argsort(np.concatenate(rows))]


# What values are taken for


COLUMNS = {
    "table": (rng().normal(50, 9, (ROWS, 3)), "normal", "standardise"),
    "ready": (rng(1).normal(size=(2000, 3)), "normal", "none"),
    "counts": (rng(2).poisson(1.5, (ROWS, 8)) * 5, "negative-binomial", "none"),
    "flags": (rng(3).integers(2, size=(ROWS, 4)), "bernoulli", "none"),
    "bits": (rng(4).integers(2, size=(ROWS, 9, 9)).astype(bool), "bernoulli", "none"),
    "image": (rng(5).integers(256, size=(ROWS, 8, 8), dtype=np.uint8), "laplace", "none"),
    "float-image": (rng(6).random((ROWS, 1, 8, 8)), "laplace", "none"),
    "scan": (rng(7).normal(-500, 300, (ROWS, 1, 8, 8)), "normal", "standardise"),
    "series": (rng(8).normal(size=(ROWS, 30, 5)) + 7, "normal", "standardise"),
    "stage": (rng(9).integers(2, 5, size=ROWS), "categorical", "none"),
    "single": (rng(10).normal(5, 2, ROWS), "normal", "standardise"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_values_are_understood_and_can_be_restored(here, name):
    values, likelihood, transform = COLUMNS[name]
    np.save("x.npy", values)
    imported(modalities={name: "x.npy"})
    found = specification(name)
    assert found.kind == likelihood
    with Store.open("out.h5") as store:
        assert store.builder["transforms"] == {name: transform}
    back = originals(name)
    if likelihood == "categorical":
        np.testing.assert_array_equal(back.astype(int), values)
        return
    if likelihood == "bernoulli":
        back = back / 255  # bits are stored as intensities
    expected = np.asarray(values, np.float64).reshape(back.shape)
    np.testing.assert_allclose(back, expected, rtol=2e-5, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["table", "counts", "single", "series"])
def test_units_are_those_of_the_training_rows(here, name):
    """Counts are transformed only for a likelihood of numbers."""
    np.save("x.npy", COLUMNS[name][0])
    imported(modalities={name: "x.npy"}, likelihoods={name: "normal"})
    train = stored(name).astype(np.float64)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0), 1, rtol=1e-5)
    assert specification(name).likelihood["scale"] == 0.5


def test_an_image_is_standardised_as_a_whole(here):
    np.save("x.npy", COLUMNS["scan"][0])
    imported(modalities={"scan": "x.npy"})
    units = read_units("out.h5")["scan"]
    assert units.shift.shape == (1, 1, 1)
    assert abs(stored("scan").mean()) < 1e-5


def test_channels_move_to_the_front(here):
    images = rng().integers(256, size=(ROWS, 8, 10, 3), dtype=np.uint8)
    np.save("x.npy", images)
    assert "channels moved" in imported(modalities={"x": "x.npy"}, split=(0.5, 0.5)).understood[0]
    assert specification("x").shape == (3, 8, 10)
    np.testing.assert_array_equal(originals("x"), np.moveaxis(images, -1, 1))


def test_choices_have_the_last_word(here):
    np.save("x.npy", COLUMNS["counts"][0])
    imported(modalities={"x": "x.npy"}, likelihoods={"x": "laplace"}, transforms={"x": "none"})
    assert specification("x").kind == "laplace"
    np.testing.assert_array_equal(originals("x"), COLUMNS["counts"][0])


def test_constant_columns_are_said(here):
    x = rng().normal(size=(ROWS, 3)) * 9
    x[:, 1] = 4
    np.save("x.npy", x)
    assert "1 of 3 values are constant" in imported(modalities={"x": "x.npy"}).warnings[0]
    assert (stored("x")[:, 1] == 0).all()


def test_columns_have_transforms_of_their_own(here):
    x = np.c_[COLUMNS["counts"][0][:, 0], rng(3).gamma(1, 1, ROWS) * 70, rng(4).normal(size=ROWS)]
    write_csv("x.csv", ["n", "dose", "z"], x.tolist())
    steps = {"x": "standardise", "x:dose": "quantile", "x:n": "log1p"}
    done = imported(modalities={"x": "x.csv"}, transforms=steps)
    assert "quantiles" in done.understood[0]
    np.testing.assert_allclose(originals("x"), x, rtol=1e-5, atol=1e-4)
    train = stored("x").astype(np.float64)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0), 1, rtol=1e-5)
    with pytest.raises(MvflowError, match="unknown column 'dos'"):
        imported(modalities={"x": "x.csv"}, transforms={"x:dos": "quantile"})
    np.save("s.npy", COLUMNS["series"][0])
    with pytest.raises(MvflowError, match="quantile is a transform of tables"):
        imported(modalities={"s": "s.npy"}, transforms={"s": "quantile"})


@pytest.mark.parametrize("kind", ["log1p", "counts", "numbers", "flags", "poisson"])
def test_sparse_matrices_stay_sparse_and_can_be_restored(here, kind):
    x = sparse.random(ROWS, 6, 0.3, "csr", random_state=1)
    x.data = {
        "numbers": x.data - 0.5,
        "flags": np.ones(len(x.data)),
    }.get(kind, np.ceil(x.data * 30))
    obs, var = [f"c{i}" for i in range(ROWS)], [f"g{j}" for j in range(6)]
    write_annotated("x.h5ad", x, obs, var)
    likelihoods = {"x": kind} if kind == "poisson" else {}
    transforms = {"x": kind} if kind == "log1p" else {}
    done = imported(modalities={"x": "x.h5ad"}, likelihoods=likelihoods, transforms=transforms)
    assert "sparse, 30.0% filled" in done.understood[0]
    expected = {"flags": "bernoulli", "poisson": "poisson", "counts": "negative-binomial"}
    assert specification("x").kind == expected.get(kind, "normal")
    with Store.open("out.h5") as store:
        assert store["train"].units["x"].names == tuple(var)
        for part in store.splits:
            split = store[part]
            rows = [obs.index(name) for name in split.row_names]
            values = split.take(np.arange(len(split)))["x"]
            assert ((values == 0) == (x.toarray()[rows] == 0)).all()
            back = split.units["x"].restore(values)
            np.testing.assert_allclose(back, x.toarray()[rows], rtol=1e-5, atol=1e-5)
    if kind == "log1p":
        train = stored("x").std(0)
        np.testing.assert_allclose(train[train > 0], 1, rtol=1e-5)


# Files


def test_tables(here):
    x = rng().normal(size=(ROWS, 3)).round(6) * 10
    names = [f"s{i}" for i in range(ROWS)]
    kinds = [("none", "treated")[i % 2] for i in range(ROWS)]
    rows = [[n, *map(repr, map(float, r)), k] for n, r, k in zip(names, x, kinds, strict=True)]
    write_csv("a.csv", ["id", "u", "v", "w", "kind"], rows)
    write_csv("semicolon.csv", ["u", "v", "w"], x.tolist(), ";")
    write_csv("tab.tsv", ["u", "v", "w"], x.tolist(), "\t")
    np.savetxt("bare.csv", x, delimiter=",")
    imported(
        modalities={
            "two": "a.csv:w,u",
            "semicolon": "semicolon.csv",
            "tab": "tab.tsv",
            "bare": "bare.csv",
            "kind": "a.csv:kind",
        },
        labels="a.csv:kind",
    )
    np.testing.assert_allclose(originals("two"), x[:, [2, 0]], rtol=1e-5, atol=1e-5)
    for name in ("semicolon", "tab", "bare"):
        np.testing.assert_allclose(originals(name), x, rtol=1e-5, atol=1e-5)
    assert originals("kind").tolist() == kinds
    assert read_units("out.h5")["two"].names == ("w", "u")


def test_keys_and_labels_of_a_table_are_no_values(here):
    x = rng().normal(size=(ROWS, 2))
    rows = [[i, *r, i % 3] for i, r in enumerate(x.tolist())]
    write_csv("a.csv", ["id", "u", "v", "dose"], rows)
    imported(modalities={"a": "a.csv"}, labels="a.csv:dose", keys={"a": ":id"})
    assert read_units("out.h5")["a"].names == ("u", "v")
    with Store.open("out.h5") as store:
        assert store.builder["classes"] == ["0", "1", "2"]


def test_images_are_paired_by_name_not_by_order_of_the_folder(here):
    images = np.arange(ROWS, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)
    write_images(here / "first", images)
    write_images(here / "second", images[::-1] + 100, [f"{i}" for i in reversed(range(ROWS))])
    (here / "first" / "notes.txt").touch()
    done = imported(modalities={"first": "first", "second": "second/"})
    assert "paired by position" in done.understood[2]
    np.testing.assert_array_equal(stored("second").astype(int) - stored("first"), 100)


def test_sixteen_bits_and_colour(here):
    deep = rng().integers(65536, size=(ROWS, 8, 8)).astype(np.uint16)
    colour = rng().integers(256, size=(ROWS, 8, 8, 3), dtype=np.uint8)
    write_images(here / "deep", deep)
    write_images(here / "colour", colour)
    imported(modalities={"deep": "deep", "colour": "colour"})
    assert specification("colour").shape == (3, 8, 8)
    assert specification("deep").shape == (1, 8, 8)
    assert stored("deep").dtype == np.float32
    assert stored("deep").max() <= 1


def test_parquet(here, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow", reason="needs mvflow[parquet]")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs mvflow[parquet]")
    x = rng().normal(size=(ROWS, 2))
    kinds = ["ab"[i % 2] for i in range(ROWS)]
    parquet.write_table(pyarrow.table({"u": x[:, 0], "v": x[:, 1], "k": kinds}), "a.parquet")
    imported(modalities={"a": "a.parquet"}, labels="a.parquet:k")
    np.testing.assert_allclose(originals("a"), x, rtol=1e-5, atol=1e-5)


def test_parquet_without_pyarrow_is_one_sentence(here, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    (here / "a.parquet").touch()
    with pytest.raises(MvflowError, match=r"pip install 'mvflow\[parquet\]'"):
        imported(modalities={"a": "a.parquet"})


def test_a_reference_keeps_colons_of_existing_files(here):
    (here / "a:b.csv").touch()
    assert Reference.parse("a:b.csv").part == ""
    assert Reference.parse("a.csv:x,y").part == "x,y"
    assert str(Reference.parse("c.h5mu:rna/layers/raw")) == "c.h5mu:rna/layers/raw"


def test_the_same_files_and_seed_give_the_same_bytes(here):
    np.save("x.npy", rng().normal(size=(ROWS, 3)) * 5)
    imported(modalities={"x": "x.npy"})
    before = (here / "out.h5").read_bytes()
    imported(modalities={"x": "x.npy"})
    assert (here / "out.h5").read_bytes() == before
    imported(modalities={"x": "x.npy"}, seed=1)
    assert (here / "out.h5").read_bytes() != before


# What is refused


def save_bad_values(here):
    x = rng().normal(size=(ROWS, 3))
    np.save("ok.npy", x)
    np.save("short.npy", x[:30])
    np.save("y.npy", np.arange(ROWS) % 2)
    np.save("half.npy", np.full(ROWS, 0.5))
    np.save("one.npy", np.zeros(ROWS))
    bad = x.copy()
    bad[7, 2] = np.nan
    np.save("nan.npy", bad)
    bad[7, 2] = -np.inf
    np.save("inf.npy", bad)
    np.save("huge.npy", x * 1e300)
    np.save("still.npy", np.ones((ROWS, 3)))
    np.save("empty.npy", np.empty((0, 3)))
    np.save("narrow.npy", np.empty((ROWS, 0)))
    np.save("single.npy", x[:1])
    np.save("scalar.npy", np.float64(3))
    np.save("complex.npy", x + 1j)
    np.save("object.npy", np.array([{"a": 1}] * ROWS), allow_pickle=True)
    np.savez("object.npz", x=np.array([{"a": 1}] * ROWS))
    np.savez("two.npz", x=x, y=x)
    for name in ("ok.npy", "two.npz"):
        data = (here / name).read_bytes()
        (here / f"cut-{name}").write_bytes(data[: len(data) // 2])
    (here / "text.npy").write_text("hello")
    (here / "text.npz").write_text("hello")
    (here / "none.npy").touch()
    np.save("ids.npy", np.arange(ROWS))
    np.save("other.npy", np.arange(ROWS) + 500)
    np.save("twins.npy", np.zeros(ROWS, int))


def save_bad_tables(here):
    (here / "ragged.csv").write_text("a,b\n1,2\n\n3,4,5\n")
    (here / "hole.csv").write_text("a,b\n1,2\n3,\n")
    (here / "na.csv").write_text("a,b\n1,2\n3,4\n5,NA\n")
    (here / "word.csv").write_text("a,b\n1,2\nx,4\n")
    people = [f"p{i},{'fm'[i % 2]},{i + 0.5}" for i in range(ROWS)]
    (here / "mixed.csv").write_text("\n".join([",sex,dose", *people]))
    (here / "latin.csv").write_bytes("a,b\n1,é\n".encode("latin-1"))
    (here / "header.csv").write_text("a,b\n")
    (here / "void.csv").touch()
    (here / "big.csv").write_text("a,b\n1,1e400\n")
    (here / "late.csv").write_text("kind\na\nb\n\nc\n" + "NA\n" * 3)
    (here / "data.txt").touch()
    (here / "nosuffix").touch()
    (here / "hollow").mkdir()
    write_images(here / "sizes", [np.zeros((8, 8), np.uint8)] * 3 + [np.zeros((8, 9), np.uint8)])
    write_images(here / "modes", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8)])
    write_images(here / "broken", [np.zeros((8, 8), np.uint8)] * 2)
    (here / "broken" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    write_images(here / "cut", [rng().integers(255, size=(64, 64), dtype=np.uint8)] * 2)
    data = (here / "cut" / "1.png").read_bytes()
    (here / "cut" / "1.png").write_bytes(data[: len(data) // 2])
    write_images(here / "double", [np.zeros((8, 8), np.uint8)])
    Image.new("L", (8, 8)).save(here / "double" / "0.jpg")
    (here / "text.h5ad").write_text("hello")
    with h5py.File("noobs.h5ad", "w") as file:
        file["X"] = np.eye(3)
    write_annotated("sparse.h5ad", sparse.csr_matrix(np.eye(4)), list("abcd"), list("wxyz"))
    with h5py.File("sparse.h5ad", "r+") as file:
        file["X/indices"][...] = 99
    write_annotated("nan.h5ad", np.diag([1, 2, np.nan, 3]), list("abcd"), list("wxyz"))


OK = {"modalities": {"a": "ok.npy"}}
REFUSED = {
    "nan.npy, row 7, column 2 is nan": {"modalities": {"a": "nan.npy"}},
    "inf.npy, row 7, column 2 is -inf": {"modalities": {"a": "inf.npy"}},
    "huge.npy, row 0, column 0 is": {"modalities": {"a": "huge.npy"}},
    "'a': all values are 1.0": {"modalities": {"a": "still.npy"}},
    "2x2 has 4 values, but rows of modality 'a' have 3": {
        "modalities": {"a": "ok.npy"},
        "image_shapes": {"a": (2, 2)},
    },
    "unknown modality 'pix'": {"modalities": {"a": "ok.npy"}, "image_shapes": {"pix": (1, 3)}},
    "empty.npy has no rows": {"modalities": {"a": "empty.npy"}},
    "'a' has no values": {"modalities": {"a": "narrow.npy"}},
    "part of 1 rows would have": {"modalities": {"a": "single.npy"}},
    "holds a single value": {"modalities": {"a": "scalar.npy"}},
    "values of type complex128": {"modalities": {"a": "complex.npy"}},
    "object.npy holds Python objects": {"modalities": {"a": "object.npy"}},
    "object.npz holds Python objects": {"modalities": {"a": "object.npz"}},
    "holds the arrays x, y: name one": {"modalities": {"a": "two.npz"}},
    "unknown array 'z'": {"modalities": {"a": "two.npz:z"}},
    "cut-ok.npy is truncated": {"modalities": {"a": "cut-ok.npy"}},
    "cut-two.npz is truncated": {"modalities": {"a": "cut-two.npz:x"}},
    "text.npy is truncated or not": {"modalities": {"a": "text.npy"}},
    "text.npz is truncated or not": {"modalities": {"a": "text.npz"}},
    "none.npy is truncated or not": {"modalities": {"a": "none.npy"}},
    "has no part 'x'": {"modalities": {"a": "ok.npy:x"}},
    "there is no file or folder gone.npy": {"modalities": {"a": "gone.npy"}},
    "ends in '.txt': known are .csv": {"modalities": {"a": "data.txt"}},
    "nosuffix has no suffix": {"modalities": {"a": "nosuffix"}},
    "ragged.csv, line 4 has 3 cells: expected 2": {"modalities": {"a": "ragged.csv"}},
    "hole.csv, line 3, column 'b' is missing": {"modalities": {"a": "hole.csv"}},
    "na.csv, line 4, column 'b' is missing ('NA')": {"modalities": {"a": "na.csv"}},
    "word.csv, line 3, column 'a' is 'x'": {"modalities": {"a": "word.csv"}},
    "it is not UTF-8": {"modalities": {"a": "latin.csv"}},
    "header.csv has no rows": {"modalities": {"a": "header.csv"}},
    "void.csv is empty": {"modalities": {"a": "void.csv"}},
    "big.csv, line 2, column 'b' is 1e400": {"modalities": {"a": "big.csv"}},
    "late.csv, line 6, column 'kind' is missing ('NA')": {"modalities": {"a": "late.csv"}},
    "column 'dose' contains 0.5: expected counts": {
        "modalities": {"a": "mixed.csv"},
        "likelihoods": {"a:dose": "poisson"},
    },
    "did you mean 'sex'? Known: dose, sex": {"modalities": {"a": "mixed.csv:sez"}},
    "unknown column 'c'": {"modalities": {"a": "word.csv:b,c"}},
    "names a column twice": {"modalities": {"a": "word.csv:b,b"}},
    "folder hollow has no images": {"modalities": {"a": "hollow"}},
    "8x8 grey of 8 bits, but sizes/3.png is 9x8": {"modalities": {"a": "sizes"}},
    "modes/1.png is 8x8 colour": {"modalities": {"a": "modes"}},
    "broken/1.png cannot be read as an image": {"modalities": {"a": "broken"}},
    "cut/1.png cannot be read as an image": {"modalities": {"a": "cut"}},
    "have one name": {"modalities": {"a": "double"}},
    "text.h5ad is truncated or not": {"modalities": {"a": "text.h5ad"}},
    "noobs.h5ad has no group /obs": {"modalities": {"a": "noobs.h5ad"}},
    "sparse.h5ad is damaged": {"modalities": {"a": "sparse.h5ad"}},
    "nan.h5ad, row 2, column 'y' is nan": {"modalities": {"a": "nan.h5ad"}},
    "no layers/raw": {"modalities": {"a": "nan.h5ad:layers/raw"}},
    "unknown column of obs 'kind'": OK | {"labels": "nan.h5ad:kind"},
    "a has 40, b has 30": {"modalities": {"a": "ok.npy", "b": "short.npy"}},
    "a has 40, labels has 30": OK | {"labels": "short.npy:x"} | {"labels": "thirty.npy"},
    "all labels are 0": OK | {"labels": "one.npy"},
    "labels, row 0 is 0.5": OK | {"labels": "half.npy"},
    "expected one value for each row": OK | {"labels": "ok.npy"},
    "b has no keys": {"modalities": {"a": "ok.npy", "b": "ok.npy"}, "keys": {"a": "ids.npy"}},
    "labels has no keys": OK | {"labels": "y.npy", "keys": {"a": "ids.npy"}},
    "a has 40 rows, but 30 keys": OK | {"keys": {"a": "thirty.npy"}},
    "no key occurs in all of a, b: for example, a has '0', b has '500'": {
        "modalities": {"a": "ok.npy", "b": "ok.npy"},
        "keys": {"a": "ids.npy", "b": "other.npy"},
    },
    "key '0' has 0 and 1": OK
    | {"labels": "y.npy", "keys": {"a": "twins.npy", "labels": "twins.npy"}},
    "is no key": OK | {"keys": {"a": "half.npy"}},
    "unknown modality 'b'": OK | {"keys": {"b": "ids.npy"}},
    "unknown modality 'c'": OK | {"transforms": {"c": "none"}},
    "unknown transform 'log': did you mean 'log1p'?": OK | {"transforms": {"a": "log"}},
    "unknown likelihood 'gauss'": OK | {"likelihoods": {"a": "gauss"}},
    "log1p needs 0 or more": OK | {"transforms": {"a": "log1p"}},
    "a bernoulli likelihood needs 0 to 1": OK | {"likelihoods": {"a": "bernoulli"}},
    "a categorical likelihood needs one class": OK | {"likelihoods": {"a": "categorical"}},
    "'labels': stores use that name": {"modalities": {"labels": "ok.npy"}},
    "modality name 'a b' is not usable": {"modalities": {"a b": "ok.npy"}},
    "nothing to import": {"modalities": {}},
    "the test part of 40 rows would have 0": OK | {"split": (0.99, 0.01)},
    "rows in 1 groups": OK | {"groups": "twins.npy"},
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    """All files that cannot be imported, written once."""
    path = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        save_bad_values(path)
        save_bad_tables(path)
        np.save("thirty.npy", np.arange(30))
    return path


@pytest.mark.bad_input
@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_one_sentence_and_writes_nothing(bad_files, tmp_path, monkeypatch, what):
    monkeypatch.chdir(bad_files)
    with pytest.raises(MvflowError) as caught:
        import_data(tmp_path / "out.h5", Wanted(**REFUSED[what]))
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.bad_input
def test_rows_named_differently_are_not_paired_by_position(here):
    write_images(here / "one", [np.full((8, 8), i, np.uint8) for i in range(4)], list("abcd"))
    write_images(here / "two", [np.full((8, 8), i, np.uint8) for i in range(4)], list("abce"))
    np.save("y.npy", np.arange(4) % 2)
    with pytest.raises(MvflowError, match="one and two name their rows differently, and labels"):
        imported(modalities={"one": "one", "two": "two"}, labels="y.npy")


def test_the_shape_of_flat_images_is_kept_beside_the_data(here):
    """It changes no value, and so nothing that was trained on them."""
    np.save("pix.npy", rng().normal(size=(ROWS, 6)))
    stores = {}
    for shapes in ({}, {"pix": (2, 3)}):
        path = imported(modalities={"pix": "pix.npy"}, image_shapes=shapes).path
        with Store.open(path) as store:
            stores[bool(shapes)] = store.fingerprint, store.info()
            test = store["test"]
            config = SimpleNamespace(covariates={})
            model = SimpleNamespace(modalities=store.modalities, config=config)
            entry = Entry("flat", model, test, [], {}, {}, None)
            spec = Context((entry,), None, 0, None).spec(entry, "pix")
            assert (spec.kind, spec.shape) == (("image", (2, 3)) if shapes else ("curve", (6,)))
        path.unlink()
    assert stores[True][0] == stores[False][0]
    described = stores[True][1]["modalities"][0]
    assert described.pop("image_shape") == [2, 3]
    assert described == stores[False][1]["modalities"][0]


def test_where_the_data_came_from_is_kept(here):
    np.save("x.npy", rng().normal(size=(ROWS, 3)))
    imported(modalities={"x": "x.npy"})
    with Store.open("out.h5") as store:
        info = store.info()
    assert list(info["sources"]) == ["x.npy"]
    assert info["builder"]["parameters"]["x"] == "x.npy"
    json.dumps(info, allow_nan=False)
