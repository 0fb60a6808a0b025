"""`mvflow data`: list, build, info."""

import json

import h5py
import numpy as np
import pytest

from mvflow.core import Modality
from mvflow_datasets import SplitData, Store, write_store


def test_list(mvflow):
    out = mvflow("data", "list").out
    assert "toy" in out
    assert "mnist-svhn" in out
    found = json.loads(mvflow("data", "list", "--json").out)["datasets"]
    assert found["toy"]["parameters"]["rows"]["default"] == 200_000
    assert len(found["mnist-svhn"]["files"]) == 6


@pytest.mark.parametrize(
    "words",
    [
        ("toy", "OUT", "--rows", "30", "--test-rows", "10"),
        ("--rows=30", "toy", "OUT", "--test_rows=10"),
        ("--test-rows", "10", "toy", "--rows", "30", "OUT"),
        ("toy", "OUT", "--set", "rows=30", "--set", "test-rows=10"),
    ],
)
def test_build_takes_the_builders_parameters(mvflow, tmp_path, words):
    path = tmp_path / "toy.h5"
    found = mvflow("data", "build", *[path if w == "OUT" else w for w in words], "--seed", "3")
    assert found.code == 0, found
    assert found.out == f"wrote {path}: train 30 rows, test 10 rows\n"
    with Store.open(path) as store:
        assert store.builder["parameters"] == {"rows": 30, "test_rows": 10}
        assert store.builder["seed"] == 3


def test_build_replaces_only_when_forced(mvflow, refused, tmp_path):
    path = tmp_path / "toy.h5"
    words = ("data", "build", "toy", path, "--rows", "30", "--test-rows", "10")
    assert mvflow(*words).code == 0
    before = path.read_bytes()
    assert "--force" in refused(*words, "--seed", "1", code=2)
    assert path.read_bytes() == before
    found = mvflow(*words, "--seed", "1", "--force", "--json")
    assert json.loads(found.out)["splits"]["train"]["rows"] == 30
    assert path.read_bytes() != before


def test_build_refuses_what_it_does_not_know(refused, tmp_path):
    path = tmp_path / "a.h5"
    assert "did you mean 'toy'?" in refused("data", "build", "toi", path, code=2)
    line = refused("data", "build", "toy", path, "--row", "5", code=2)
    assert "did you mean 'rows'?" in line
    assert "did you mean 'force'?" in refused("data", "build", "toy", path, "--forse=1", code=2)
    assert "rows is 'many'" in refused("data", "build", "toy", path, "--rows", "many", code=2)
    assert "rows is '0'" in refused("data", "build", "toy", path, "--set", "rows=0", code=2)
    assert "needs a value" in refused("data", "build", "toy", path, "--rows", code=2)
    assert "cannot read --set" in refused("data", "build", "toy", path, "--set", "rows", code=2)
    assert "expected a dataset" in refused("data", "build", "toy", path, "b.h5", code=2)
    assert not path.exists()


def test_build_without_the_published_files(refused, tmp_path):
    out = tmp_path / "m.h5"
    line = refused("data", "build", "mnist-svhn", out, "--source", tmp_path, code=1)
    assert "train-images-idx3-ubyte.gz" in line
    line = refused("data", "build", "mnist-svhn", out, "--source", tmp_path / "none", code=1)
    assert "train_32x32.mat" in line
    assert "name the folder" in refused("data", "build", "mnist-svhn", out, code=2)


def test_info(mvflow, store):
    out = mvflow("data", "info", store).out
    assert "square" in out
    assert "2,000" in out
    found = json.loads(mvflow("data", "info", store, "--json").out)
    assert found["name"] == "toy"
    assert found["splits"]["test"]["rows"] == 200


def broken_stores(store, folder):
    """Stores that cannot be used, and a word that the message about each must hold."""
    data = store.read_bytes()
    (folder / "truncated.h5").write_bytes(data[: len(data) // 2])
    (folder / "text.h5").write_text("not HDF5 at all")
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["x"] = [1.0]
    (folder / "newer.h5").write_bytes(data.replace(b"mvflow-store 2", b"mvflow-store 9", 1))
    return {
        "missing.h5": "no store at",
        "truncated.h5": "is damaged (it has",
        "text.h5": "not an mvflow store, or its beginning is damaged",
        "foreign.h5": "not an mvflow store",
        "newer.h5": "newer mvflow",
        ".": "folder",
    }


def test_unusable_stores_are_refused_everywhere(refused, store, tmp_path, trained):
    for name, word in broken_stores(store, tmp_path).items():
        path = tmp_path / name
        assert word in refused("data", "info", path, code=1)
        assert word in refused("new", tmp_path / "run", "--recipe", "toy", "--store", path, code=1)
        assert not (tmp_path / "run").exists()
        assert word in refused("evaluate", trained, "--store", path, code=1)


def test_info_shows_which_rows_lack_what_and_what_links_modalities(mvflow, tmp_path):
    rows = np.arange(9)
    entries = np.broadcast_to([True, True, False], (9, 3)) & (rows[:, None] >= 3)
    present = {"image": rows < 3, "table": entries}
    x = {"image": np.ones((9, 2)), "table": np.ones((9, 3)), "class": rows}
    specs = [Modality(n, v.shape[1:], "normal") for n, v in x.items() if v.ndim > 1]
    specs.append(Modality("class", (9,), "categorical"))
    path = write_store(
        tmp_path / "s.h5",
        name="s",
        modalities=specs,
        splits={"train": SplitData(x, labels=rows % 3 - 1, present=present)},
    )
    lines = mvflow("data", "info", path).out.splitlines()
    assert "no row has both image and table: class links them" in lines
    assert "train: 33.3% of the values of table are missing in rows that have it" in lines
    assert any("2 (unknown in 3 rows)" in line for line in lines)
    cells = [tuple(map(str.strip, line.strip("│").split("│"))) for line in lines]
    assert ("image, class", "3") in cells
    assert ("table, class", "6") in cells
