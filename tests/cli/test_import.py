"""`mvflow data import` and the recipe `auto`: from files of one's own to samples."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest

from mvflow.metrics import CalibratedIntervals
from mvflow.runs import RunDirectory
from mvflow.runs.intervals import write_intervals
from mvflow_datasets import Store


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two modalities and labels, in which we are."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=80)
    cause = 2.0 * labels - 1 + 0.3 * rng.normal(size=80)
    bright = 100 + 60 * cause[:, None, None] + 5 * rng.normal(size=(80, 8, 8))
    np.save("image.npy", bright.clip(0, 255).astype(np.uint8))
    table = cause[:, None] * [10.0, -4.0] + 50 + rng.normal(size=(80, 2))
    lines = [
        f"s{i},{a},{b},{('no', 'yes')[y]}"
        for i, ((a, b), y) in enumerate(zip(table, labels, strict=True))
    ]
    (tmp_path / "table.csv").write_text("id,a,b,ill\n" + "\n".join(lines))
    return tmp_path


WORDS = ("--modality", "image=image.npy", "--modality", "table=table.csv:a,b")


def test_says_what_it_understood(mvflow, here):
    found = mvflow("data", "import", "out.h5", *WORDS, "--labels", "table.csv:ill")
    assert found.code == 0, found
    lines = found.out.splitlines()
    assert lines[0].startswith("image: 80 rows of 1 x 8 x 8 from image.npy; intensities")
    assert lines[1].endswith("standardised; normal, scale 0.5")
    assert lines[2] == "80 rows, paired by position"
    assert lines[3] == "labels: 2 classes (no, yes)"
    assert lines[4] == "table.csv: cells are separated by ',' (--separator)"
    assert lines[5].startswith("table.csv: line 1 names the columns (id, a, b, ill)")
    assert lines[-1].startswith("wrote out.h5: train 64 rows, validation 8 rows, test 8 rows;")


def test_json(mvflow, here):
    found = mvflow("data", "import", "out.h5", *WORDS, "--split", "0.75,0.25", "--json")
    about = json.loads(found.out)
    assert {n: s["rows"] for n, s in about["splits"].items()} == {"train": 60, "test": 20}
    assert about["builder"]["transforms"] == {"image": "none", "table": "standardise"}
    assert about["understood"]


def test_flat_images_are_shown_by_their_shape(mvflow, refused, here):
    words = ("data", "import", "out.h5", *WORDS, "--image-shape")
    assert mvflow(*words, "table=1x2").code == 0
    assert "(image of 1 x 2)" in " ".join(mvflow("data", "info", "out.h5").out.split())
    (here / "out.h5").unlink()
    assert "twice" in refused(*words, "table=1x2", "--image-shape", "table=2x1", code=2)
    assert "expected NAME=HEIGHTxWIDTH" in refused(*words, "table=2", code=2)


@pytest.mark.bad_input
def test_a_store_is_not_called_a_table(mvflow, refused, here):
    for words in (("import", "out.csv", *WORDS), ("build", "toy", "out.csv", "--rows", "10")):
        assert "name it out.h5" in refused("data", *words, code=2)
    assert not (here / "out.csv").exists()


def test_replaces_only_when_forced(mvflow, refused, here):
    words = ("data", "import", "out.h5", *WORDS)
    assert mvflow(*words).code == 0
    before = (here / "out.h5").read_bytes()
    assert "--force" in refused(*words, code=2)
    assert (here / "out.h5").read_bytes() == before
    assert "nan.npy" in refused(*words[:3], "--modality", "a=nan.npy", "--force", code=1)
    assert (here / "out.h5").read_bytes() == before
    assert mvflow(*words, "--seed", "1", "--force").code == 0


@pytest.mark.parametrize(
    ("words", "hint", "code"),
    [
        (("--modality", "image.npy"), "cannot read --modality 'image.npy'", 2),
        (("--modality", "image="), "expected image=images.npy", 2),
        ((*WORDS, "--modality", "image=table.csv"), "--modality names 'image' twice", 2),
        ((*WORDS, "--split", "0.8,0.1"), "sum to 1", 2),
        ((*WORDS, "--keys", "image"), "cannot read --keys", 2),
        ((*WORDS, "--keys", "image=table.csv:id"), "table has no keys", 2),
        ((*WORDS, "--transform", "table=log"), "did you mean 'log1p'?", 2),
        ((*WORDS, "--labels", "table.csv:il"), "unknown column 'il': did you mean 'ill'?", 1),
        ((*WORDS, "--labels", "gone.npy"), "there is no file or folder gone.npy", 1),
        ((), "--modality", 2),
    ],
)
def test_wrong_use_is_refused_and_leaves_nothing(refused, here, words, hint, code):
    assert hint in refused("data", "import", "out.h5", *words, code=code)
    assert not (here / "out.h5").exists()


def test_from_files_to_samples(mvflow, here):
    assert mvflow("data", "import", "out.h5", *WORDS, "--labels", "table.csv:ill").code == 0
    short = [f"{stage}.epochs=2" for stage in ("joint", "subset", "projectors")]
    settings = [word for s in (*short, "sampler.warmup=3") for word in ("--set", s)]
    found = mvflow(
        *("new", "run", "--recipe", "auto", "--store", "out.h5", "--projector", "contrastive"),
        *settings,
    )
    assert found.code == 0, found
    config = RunDirectory.open(here / "run").config()
    assert (config.recipe, config.system, config.joint.epochs) == ("auto", "jnf", 2)
    assert type(config.projector).__name__ == "Contrastive"
    assert config.modalities["image"].decoder.output == "sigmoid"
    assert mvflow("train", "run").code == 0
    found = mvflow("sample", "run", "--given", "image", "--n", "2")
    assert found.code == 0, found


def test_covariates_go_from_files_to_the_configuration(mvflow, here):
    words = (*WORDS, "--covariate", "batch=table.csv:ill", "--covariate", "a=table.csv:a")
    found = mvflow("data", "import", "out.h5", *words)
    assert "covariate batch: 2 classes (no, yes) (--covariate-kind)" in found.out
    assert "no, yes" in mvflow("data", "info", "out.h5").out
    assert mvflow("new", "run", "--recipe", "auto", "--store", "out.h5").code == 0
    covariates = {c.name: c for c in RunDirectory.open(here / "run").config().covariate_specs()}
    with Store.open(here / "out.h5") as store:
        assert covariates == store.covariates
    assert covariates["batch"].levels == ("no", "yes")
    assert covariates["a"].levels is None


def test_samples_of_files_are_those_of_the_same_rows_of_the_store(mvflow, refused, here):
    """Files are read in their own units, also once the store is gone."""
    assert mvflow("data", "import", "out.h5", *WORDS).code == 0
    short = [w for s in ("joint", "subset") for w in ("--set", f"{s}.epochs=1")]
    assert mvflow("new", "run", "--recipe", "auto", "--store", "out.h5", *short).code == 0
    assert mvflow("train", "run").code == 0
    with Store.open(here / "out.h5") as store:
        rows = [int(name) for name in store["test"].row_names]
    lines = (here / "table.csv").read_text().splitlines()
    swapped = ["b;x;a", *(";".join([lines[i + 1].split(",")[j] for j in (2, 0, 1)]) for i in rows)]
    (here / "new.csv").write_text("\n".join(swapped))
    words = ("sample", "run", "--n", "2", "--out")
    assert mvflow(*words, "stored.h5", "--given", "table", "--rows", "test:0:8").code == 0
    (here / "out.h5").unlink()
    found = mvflow(*words, "file.h5", "--given", "table=new.csv")
    assert found.code == 0, found
    assert "table: new.csv is in the units of its file; changed as in training" in found.out
    with h5py.File("stored.h5") as stored, h5py.File("file.h5") as file:
        np.testing.assert_array_equal(stored["given/table"][...], file["given/table"][...])
        np.testing.assert_array_equal(stored["samples/image"][...], file["samples/image"][...])
    words = ("impute", "run", "--given", "image=image.npy", "--n", "20", "--out", "filled.csv")
    found = mvflow(*words)
    assert found.code == 0, found
    assert "table of 80 rows; 90 % intervals, not calibrated: 'mvflow evaluate run'" in found.out
    filled = pd.read_csv("filled.csv", index_col=0)
    assert filled.columns.tolist() == [n + e for n in "ab" for e in ("", " [5 %]", " [95 %]")]
    assert 20 < filled["a"].mean() < 80  # in the units of the file, where it is 50
    assert (filled["a [5 %]"] < filled["a [95 %]"]).all()
    run = RunDirectory.open(here / "run")
    wide = CalibratedIntervals((0.9,), 100, {"image->table": np.array([[0.0, 2.0]])})
    write_intervals(run, wide, {name: record.key for name, record in run.records().items()})
    found = mvflow(*words, "--force")
    assert "calibrated on held-out rows" in found.out
    widths = [
        table[f"{n} [95 %]"] - table[f"{n} [5 %]"]
        for n in "ab"
        for table in (filled, pd.read_csv("filled.csv", index_col=0))
    ]
    np.testing.assert_allclose(widths[0], widths[1], rtol=1e-5)  # of float32 draws
    scale = run.units()["table"].scale[1]
    np.testing.assert_allclose(widths[3] - widths[2], 4 * scale, rtol=1e-5)
    before = (here / "filled.csv").read_bytes()
    assert "--force" in refused(*words, code=2)
    assert "known are .csv" in refused(*words[:-1], "filled.txt", code=2)
    assert "expected NAME=FILE" in refused(
        "impute", "run", "--given", "image", "--out", "b.csv", code=2
    )
    assert (here / "filled.csv").read_bytes() == before


def test_a_mixed_table_is_described(mvflow, here):
    found = mvflow("data", "import", "out.h5", "--modality", "c=table.csv:a,b,ill")
    assert "c, column 'ill': bernoulli (no, yes)" in found.out
    found = mvflow("data", "info", "out.h5")
    assert found.code == 0, found
    assert "mixed" in found.out
    steps = ("--likelihood", "c:a=student-t", "--transform", "c:b=quantile")
    found = mvflow(
        "data", "import", "out.h5", "--modality", "c=table.csv:a,b,ill", *steps, "--force"
    )
    assert "1 bernoulli, 1 normal, 1 student-t; transforms of numbers: quantile" in found.out


def test_folds_of_a_mixed_table_are_scored_by_kind(mvflow, here, monkeypatch):
    """The printed table has what folds.json has, kind by kind."""
    monkeypatch.setenv("COLUMNS", "140")
    words = ("--modality", "c=table.csv:a,ill", "--modality", "b=table.csv:b")
    assert mvflow("data", "import", "out.h5", *words).code == 0
    short = ("--set", "joint.epochs=1", "--set", "subset.epochs=1")
    assert mvflow("new", "run", "--store", "out.h5", "--quick", *short).code == 0
    found = mvflow("evaluate", "run", "--folds", "2")
    assert found.code == 0, found
    kept = json.loads((here / "run" / "metrics" / "folds.json").read_text())
    kinds = kept["predictions"]["b->c"]["by_kind"]
    assert set(kinds) == {"numbers", "yes or no"}
    text = " ".join(found.out.split())
    for kind, measure, title in (("numbers", "r2", "R²"), ("yes or no", "accuracy", "accuracy")):
        scores = {"model": kinds[kind]["model"], **kinds[kind]["baselines"]}
        values = [scores[name] for name in ("model", "ridge", "neighbours")]
        row = text[text.index(f"{title}, {kind} (1)") :]
        for value in values:
            assert f"{value[measure]['mean']:.3f}" in row[:120]


def test_auto_with_splits_of_other_names(refused, mvflow, here):
    assert mvflow("data", "import", "out.h5", *WORDS).code == 0
    words = ("new", "run", "--recipe", "auto", "--store", "out.h5")
    assert "did you mean 'train'?" in refused(*words, "--set", "data.train=trian", code=2)
    assert "did you mean 'auto'?" in refused("new", "run", "--recipe", "aut", *words[4:], code=2)
    assert mvflow(*words, "--set", "data.test=validation").code == 0
    with Store.open(here / "out.h5") as store:
        assert store.splits == ("train", "validation", "test")


OPTIONS = {
    "--header none": (("--header", "none", "--separator", ";"), 4),
    "--header 2": (("--header", "x=2", "--separator", "x=;"), 2),
    "--na-token": (("--header", "none", "--separator", ";", "--na-token", "7"), None),
    "--index": (("--header", "1", "--separator", ";", "--index", "x=7"), 3),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_tables(mvflow, refused, tmp_path, monkeypatch, option):
    """Of four lines without a header: how many rows are left, or that 7 is missing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("7;8\n1;2\n4;3\n6;5\n")
    words, rows = OPTIONS[option]
    call = ("data", "import", "out.h5", "--modality", "x=x.csv", "--split", "0.6,0.4", *words)
    if rows is None:
        assert "line 1, column '0' is missing ('7')" in refused(*call, code=1)
        return
    if rows == 2:  # too few to train and to test
        assert "part of 2 rows" in refused(*call, code=1)
        return
    found = mvflow(*call)
    assert found.code == 0, found
    assert found.out.startswith(f"x: {rows} rows of {1 if option == '--index' else 2} from x.csv")
    assert "(--separator)" not in found.out
    assert "(--header)" not in found.out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--header", "zero"), "cannot read --header 'zero': expected none or a line"),
        (("--header", "table=0"), "cannot read --header '0'"),
        (("--separator", "ab"), "expected one letter"),
        (("--index", "table=ide"), "unknown column 'ide': did you mean 'id'?"),
        (("--missing", "tabel=row"), "unknown modality 'tabel': did you mean 'table'?"),
        (("--missing", "other=row"), "unknown modality 'other'"),
        (("--missing", "table=rows"), "did you mean 'row'?"),
        (("--header", "tabel=1"), "unknown modality 'tabel': did you mean 'table'?"),
        (("--na-token", "tabel=-"), "unknown modality 'tabel': did you mean 'table'?"),
        (("--covariate", "batch"), "cannot read --covariate"),
        (("--covariate-kind", "batch=continuous"), "unknown covariate 'batch'"),
        (("--transform", "table:c=none"), "unknown column 'c'"),
    ],
)
def test_options_that_cannot_be_read(refused, here, words, hint):
    call = ("data", "import", "out.h5", "--modality", "table=table.csv:a,b", *words)
    assert hint in refused(*call, code=2)
    assert not (here / "out.h5").exists()
