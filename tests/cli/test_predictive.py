"""`mvflow sample` of tables: noise or means, covariates of rows and held ones."""

import json

import h5py
import numpy as np
import pytest

from mvflow import JNF, Modality, load
from mvflow.core import Covariate
from mvflow_datasets import SplitData, Store, write_store

ROWS = 80
SPECS = [
    Modality("a", (3,), {"kind": "normal", "scale": "learned"}),
    Modality("b", (2,), "poisson"),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A trained run of two tables of two batches, and its store."""
    folder, rng = tmp_path_factory.mktemp("table"), np.random.default_rng(0)
    covariates = [Covariate("batch", ("A", "B")), Covariate("age", None, 50.0, 10.0)]

    def split(rows):
        batch, age = rng.choice(["A", "B"], rows), rng.normal(50, 10, rows)
        x = {"a": rng.normal(size=(rows, 3)), "b": rng.poisson(4.0, size=(rows, 2))}
        return SplitData(x, covariates={"batch": batch, "age": age})

    path = write_store(
        folder / "table.h5",
        name="table",
        modalities=SPECS,
        splits={"train": split(ROWS), "test": split(20)},
        covariates=covariates,
    )
    short = {"epochs": 2, "batch_size": 20}
    made = JNF(
        SPECS,
        2,
        joint=short,
        flows=short,
        data={"store": str(path)},
        covariates={c.name: c.to_dict() for c in covariates},
    )
    with Store.open(path) as store:
        made.fit(store["train"])
    made.save(folder / "run")
    return folder / "run"


def samples(path):
    with h5py.File(path) as file:
        return {k: file[f"samples/{k}"][...] for k in file["samples"]}, dict(file.attrs)


def test_tables_are_drawn_with_noise_unless_means_are_asked_for(mvflow, table, tmp_path):
    files = {}
    for words, said in (((), "draws with noise"), (("--mean",), "means")):
        path = tmp_path / f"{len(files)}.h5"
        found = mvflow("sample", table, "--given", "a", "--n", 3, "--out", path, *words)
        assert found.code == 0, found
        assert f"b (3, 20, 2) ({said})" in found.out
        files[said], about = samples(path)
        assert json.loads(about["noise"]) == {"b": said != "means"}
    draws, means = files["draws with noise"]["b"], files["means"]["b"]
    assert (draws == np.floor(draws)).all()
    assert (means != np.floor(means)).any()
    model = load(table)
    with Store.open(model.config.data.store) as store:
        rows = store["test"].take(range(20))
    given = {k: x for k, x in rows.items() if k != "b"}
    np.testing.assert_array_equal(model.generate(given, 3)["b"], draws)
    np.testing.assert_array_equal(model.generate(given, 3, noise=False)["b"], means)


def test_what_is_held_replaces_what_rows_have(mvflow, table, tmp_path):
    held, own = tmp_path / "held.h5", tmp_path / "own.h5"
    words = ("sample", table, "--given", "a", "--mean", "--out")
    assert mvflow(*words, own).code == 0
    found = mvflow(*words, held, "--hold", "batch=A", "--json")
    assert found.code == 0, found
    with Store.open(load(table).config.data.store) as store:
        is_a = store["test"].take(range(20))["covariates/batch"][:, 0] == 1
    same = np.isclose(samples(held)[0]["b"], samples(own)[0]["b"]).all((0, 2))
    np.testing.assert_array_equal(same, is_a)


def test_the_prior_needs_a_value_of_each_covariate(mvflow, refused, table, tmp_path):
    words = ("sample", table, "--out", tmp_path / "prior.h5", "--covariate", "batch=B")
    assert "--covariate age=" in refused(*words, code=2)
    assert mvflow(*words, "--covariate", "age=40").code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--hold", "batch"), "NAME=VALUE"),
        (("--hold", "site=A"), "'site'"),
        (("--covariate", "age=old"), "is a number"),
        (("--hold", "batch=C"), "'C'"),
    ],
)
def test_values_that_do_not_fit_are_named(refused, table, tmp_path, words, says):
    line = refused(
        *("sample", table, "--given", "a", "--out", tmp_path / "x.h5", *words),
        code=1 if "C" in says else 2,
    )
    assert says in line
