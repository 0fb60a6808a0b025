"""`mvflow complete`: a store whose training rows lack nothing, to train on."""

import json
import warnings

import numpy as np
import pytest

from mvflow.core import Modality, Units
from mvflow_cli.main import run
from mvflow_datasets import SplitData, Store, write_store
from mvflow_datasets.rewriting import only_rows, rewrite_store

TABLES = (
    Modality("table", (2,)),
    Modality("class", (3,), "categorical"),
    Modality("counts", (4,), "poisson"),
)
UNITS = Units(("a", "b"), shift=np.array([1.0, 2.0]), scale=np.array([0.5, 4.0]))
OTHER = Units(("a", "b"), shift=np.array([-3.0, 0.0]), scale=np.array([2.0, 1.0]))


@pytest.fixture(scope="module")
def incomplete(tmp_path_factory, store):
    """The toy store, of whose first 900 training rows 300 lack a square and 300 a circle."""
    path = tmp_path_factory.mktemp("incomplete") / "toy.h5"
    with Store.open(store) as old:
        data = only_rows(old["train"].data(), np.arange(900))
        data.pairs["square"][:300] = -1
        data.pairs["circle"][300:600] = -1
        return rewrite_store(path, old, {"train": data})


def test_rows_are_completed_and_can_be_trained_on(mvflow, trained, incomplete, tmp_path):
    out, run = tmp_path / "filled.h5", tmp_path / "run"
    made = mvflow("complete", trained, "--from", incomplete, "--out", out, "--json")
    assert made.code == 0, made
    about = json.loads(made.out)
    assert about["drawn"] == {"circle": 300, "square": 300}
    with Store.open(out) as new, Store.open(incomplete) as old:
        assert new["train"].info()["absent"] == {}
        assert new["test"].fingerprint == old["test"].fingerprint
        assert "completed by a model" in new.note
        assert new.builder["parameters"]["run"] == trained.name
        np.testing.assert_array_equal(new["train"].labels, old["train"].labels)
        a, b = (s["train"].take(np.arange(900)) for s in (old, new))
        np.testing.assert_array_equal(a["circle"][:300], b["circle"][:300])
        np.testing.assert_array_equal(a["square"][600:], b["square"][600:])
        drawn = b["square"][:300].reshape(300, -1)
        assert drawn.max() > 0  # a row that lacks it is read as zeros
    assert mvflow("new", run, "--store", out, "--recipe", "toy").code == 0
    again = mvflow("complete", trained, "--from", incomplete, "--out", out, "--force")
    assert "wrote" in again.out


def test_rows_that_still_lack_something_can_be_left_out(mvflow, trained, incomplete, tmp_path):
    out = tmp_path / "filled.h5"
    words = ("--from", incomplete, "--targets", "square", "--drop", "--out", out)
    made = mvflow("complete", trained, *words)
    assert made.code == 0, made
    assert "300 of square; 300 rows that are still incomplete are left out" in made.out
    with Store.open(out) as store:
        assert len(store["train"]) == 600


def test_what_cannot_be_completed_is_said(refused, trained, store, incomplete, tmp_path):
    out = tmp_path / "filled.h5"
    line = refused("complete", trained, "--out", out, code=1)
    assert "no row of 'train' lacks a modality" in line
    words = ("complete", trained, "--from", incomplete, "--out", out)
    assert "'hexagon'" in refused(*words, "--targets", "hexagon", code=2)
    assert "guidance" in refused(*words, "--guidance", "1", code=2)
    out.write_text("kept")
    assert "add --force" in refused(*words, code=2)
    assert out.read_text() == "kept"
    other = tmp_path / "other.h5"
    data = SplitData({"a": np.ones((4, 1))})
    write_store(
        other, name="o", modalities=[Modality("a", (1,))], splits={"train": data, "test": data}
    )
    line = refused("complete", trained, "--from", other, "--out", tmp_path / "f.h5", code=1)
    assert "has modalities" in line


def tables(path, units, classes=("x", "y", "z"), **more):
    """A store of the same rows, whatever its units: of 90, each third lacks a modality."""
    rng = np.random.default_rng(0)
    rows, order = np.arange(90), [("x", "y", "z").index(name) for name in classes]
    data = SplitData(
        {
            "table": units.apply(rng.normal(size=(90, 2)) * [1, 9]).astype(np.float32),
            "class": np.argsort(order)[rng.integers(3, size=90)],
            "counts": rng.poisson(3.0, (90, 4)),
        },
        present={name: rows % 3 != i for i, name in enumerate(("table", "class", "counts"))},
    )
    names = {"table": units, "class": Units(classes=classes)}
    options = {"name": "t", "modalities": TABLES, "units": names, **more}
    return write_store(path, splits={"train": data, "test": data}, **options)


@pytest.fixture(scope="module")
def trained_on_tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    store = tables(folder / "own.h5", UNITS)
    settings = ("joint.epochs=1", "joint.steps_per_epoch=5")
    words = [word for text in settings for word in ("--set", text)]
    made = ["new", folder / "run", "--store", store, "--system", "mvae", "--quick", *words]
    assert run([str(word) for word in made]) == 0
    assert run(["train", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.parametrize("words", [(), ("--mean",)])
def test_classes_and_counts_are_drawn_and_units_of_another_store_are_respected(
    mvflow, trained_on_tables, tmp_path, words
):
    own, same, other = (tmp_path / f"{name}.h5" for name in ("own", "same", "other"))
    tables(tmp_path / "scaled.h5", OTHER, ("z", "x", "y"))
    tables(tmp_path / "again.h5", UNITS)
    for out, source in ((own, ()), (same, ("--from", tmp_path / "again.h5"))):
        made = mvflow("complete", trained_on_tables, *words, *source, "--out", out)
        assert made.code == 0, made
    assert own.read_bytes() == same.read_bytes()
    made = mvflow(
        *("complete", trained_on_tables, *words, "--from", tmp_path / "scaled.h5"),
        *("--out", other),
    )
    assert made.code == 0, made
    with Store.open(own) as a, Store.open(other) as b:
        x, y = (
            {n: s.units[n].restore(v) for n, v in s["train"].take(np.arange(90)).items()}
            for s in (a, b)
        )
    np.testing.assert_array_equal(x["class"], y["class"])
    np.testing.assert_array_equal(x["counts"], y["counts"])
    # draws of float32 inputs that were converted twice
    np.testing.assert_allclose(x["table"], y["table"], rtol=1e-3, atol=1e-3)


def test_stores_that_cannot_be_completed_by_the_run_are_refused(
    refused, trained_on_tables, tmp_path
):
    words = ("complete", trained_on_tables, "--out", tmp_path / "f.h5", "--from")
    renamed = tables(tmp_path / "renamed.h5", Units(("b", "a")))
    assert "(b, a) on one side" in refused(*words, renamed, code=1)
    with Store.open(tables(tmp_path / "a.h5", UNITS)) as store:
        splits = {"train": store["train"].data(), "test": store["test"].data()}
    whole = (Modality("table", (2,), "poisson"), *TABLES[1:])
    for data in splits.values():
        data.arrays["table"][:] = 1.0
    path = write_store(tmp_path / "c.h5", name="c", modalities=whole, splits=splits)
    line = refused(*words, path, code=1)
    assert "of 'table', which that store cannot hold: expected counts" in line
    assert not (tmp_path / "f.h5").exists()


def test_what_is_read_is_never_written_over(refused, trained_on_tables, incomplete, tmp_path):
    own = trained_on_tables.parent / "own.h5"
    before = own.read_bytes()
    (tmp_path / "link.h5").symlink_to(own)
    (tmp_path / "folder.h5").mkdir()
    words = ("complete", trained_on_tables, "--force", "--out")
    assert "one of the files that are read" in refused(*words, own, code=2)
    assert "one of the files that are read" in refused(*words, tmp_path / "link.h5", code=2)
    again = refused(*words, tmp_path / "link.h5", "--from", own, code=2)
    assert "one of the files that are read" in again
    assert "it is a folder" in refused(*words, tmp_path / "folder.h5", code=1)
    assert own.read_bytes() == before
    table = tmp_path / "in.csv"
    table.write_text("a,b\n1,2\n3,4\n")
    made = refused("data", "import", table, "--modality", f"x={table}", "--force", code=2)
    assert "one of the files that are read" in made
    made = refused(
        *("impute", trained_on_tables, "--given", f"table={table}", "--out", table, "--force"),
        code=2,
    )
    assert "one of the files that are read" in made
    assert table.read_text() == "a,b\n1,2\n3,4\n"


def test_all_rows_left_out_is_no_store(refused, trained_on_tables, tmp_path):
    with Store.open(trained_on_tables.parent / "own.h5") as old:
        data = only_rows(old["train"].data(), np.arange(0, 90, 3))  # all lack tables
        few = rewrite_store(tmp_path / "few.h5", old, {"train": data})
    data.pairs["class"][:] = -1
    words = ("--from", few, "--drop", "--out", tmp_path / "f.h5", "--targets", "class")
    assert "no row of 'train' lacks class" in refused(
        "complete", trained_on_tables, *words, code=1
    )
    with Store.open(few) as old:
        both = rewrite_store(tmp_path / "both.h5", old, {"train": only_rows(data, np.arange(30))})
    words = ("--from", both, "--drop", "--out", tmp_path / "f.h5", "--targets", "class")
    line = refused("complete", trained_on_tables, *words, code=1)
    assert "every row of 'train' still lacks a modality" in line


def test_an_interruption_leaves_the_older_file_and_nothing_else(
    mvflow, trained_on_tables, tmp_path, monkeypatch
):
    from mvflow_datasets import writing

    def interrupted(*_):
        raise KeyboardInterrupt

    out = tmp_path / "f.h5"
    assert mvflow("complete", trained_on_tables, "--out", out).code == 0
    before = out.read_bytes()
    monkeypatch.setattr(writing, "_written", interrupted)
    made = mvflow("complete", trained_on_tables, "--out", out, "--force", "--seed", 1)
    assert made.code != 0
    assert "interrupted" in made.err
    assert "Traceback" not in made.err
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]
    assert out.read_bytes() == before


@pytest.mark.filterwarnings("default")
def test_what_draws_warn_of_is_one_line(mvflow, trained, incomplete, tmp_path, monkeypatch):
    import mvflow.estimators as estimators
    from mvflow import UnreliableDrawsWarning

    known = estimators.completions

    def warning(*args, **kwargs):
        warnings.warn("2 of 300 rows are unlike", UnreliableDrawsWarning, stacklevel=2)
        return known(*args, **kwargs)

    monkeypatch.setattr(estimators, "completions", warning)
    made = mvflow("complete", trained, "--from", incomplete, "--out", tmp_path / "filled.h5")
    assert made.code == 0, made
    assert made.err.splitlines() == ["mvflow: warning: 2 of 300 rows are unlike"]
