"""`mvflow complete`: a store whose training rows lack nothing, to train on."""

import json

import numpy as np
import pytest

from mvflow_datasets import Store
from mvflow_datasets.rewriting import only_rows, rewrite_store


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
    from mvflow.core import Modality
    from mvflow_datasets import SplitData, write_store

    data = SplitData({"a": np.ones((4, 1))})
    write_store(
        other, name="o", modalities=[Modality("a", (1,))], splits={"train": data, "test": data}
    )
    line = refused("complete", trained, "--from", other, "--out", tmp_path / "f.h5", code=1)
    assert "has modalities" in line
