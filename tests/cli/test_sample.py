"""`mvflow sample`: what is written, and what is refused."""

import errno
import json

import h5py
import numpy as np
import pytest

from mvflow import JNF, MVAE, Modality, load
from mvflow_datasets import SplitData, Store, write_store


@pytest.fixture
def npy(tmp_path):
    """Write an array to a file: npy("name", array) -> path."""

    def call(name, array):
        path = tmp_path / f"{name}.npy"
        np.save(path, array)
        return path

    return call


def test_rows_of_the_store(mvflow, trained, store, tmp_path):
    path = tmp_path / "samples.h5"
    found = mvflow(
        *("sample", trained, "--given", "square", "--rows", "test:3:8", "--n", "2"),
        *("--seed", "7", "--out", path, "--json"),
    )
    assert found.code == 0, found
    about = json.loads(found.out)
    assert about["samples"] == {"circle": [2, 5, 1, 32, 32]}
    with Store.open(store) as opened:
        rows = opened["test"].take(range(3, 8))
        labels = opened["test"].labels[3:8]
    model = load(trained)
    z = model.sample_latent({"square": rows["square"]}, 2, seed=7)
    with h5py.File(path) as file:
        assert np.array_equal(file["latent"], z)
        assert np.array_equal(file["samples/circle"], model.decode(z)["circle"])
        assert file["samples/circle"].dtype == np.float32
        assert np.array_equal(file["given/square"], rows["square"])
        assert np.array_equal(file["labels"], labels)
        assert "square" not in file["samples"]
        attributes = dict(file.attrs)
    assert (attributes["seed"], attributes["n"], attributes["rows"]) == (7, 2, "test:3:8")
    assert attributes["run"] == str(trained)
    assert set(json.loads(attributes["stages"])) == {"joint", "flows"}
    assert json.loads(attributes["diagnostics"])["method"] == "exact"
    assert attributes["diagnostics.method"] == "exact"
    assert attributes["mvflow"]


def test_all_modalities_of_an_array_and_the_store(mvflow, trained, npy, tmp_path):
    x = np.zeros((4, 1, 32, 32), np.float32)
    path = tmp_path / "both.h5"
    found = mvflow(
        *("sample", trained, "--given", f"circle={npy('x', x)}", "--given", "square"),
        *("--rows", "train:0:4", "--targets", "square,circle", "--sampler", "hmc"),
        *("--n", "3", "--out", path),
    )
    assert found.code == 0, found
    with h5py.File(path) as file:
        assert file["samples/square"].shape == (3, 4, 1, 32, 32)
        assert np.array_equal(file["given/circle"], x)
        assert json.loads(file.attrs["given"])["square"] == "store"


@pytest.mark.parametrize(
    ("words", "changed", "said"),
    [
        (("--sampler", "sir"), lambda m: m.with_parts(sampler="sir"), "effective candidates"),
        (
            ("--sampler", "hmc", "--paper"),
            lambda m: m.with_protocol("paper"),
            "acceptance",
        ),
        (("--paper",), lambda m: m.with_protocol("paper"), "acceptance"),
        (("--protocol", "paper-f3"), lambda m: m.with_protocol("paper-f3"), "acceptance"),
    ],
)
def test_the_chosen_sampler_draws(mvflow, fitted, small, npy, tmp_path, words, changed, said):
    fitted(JNF, 3).save(tmp_path / "run")
    x = {name: small.data(3)[0][name][:2] for name in ("m0", "m1")}
    given = [word for name in x for word in ("--given", f"{name}={npy(name, x[name])}")]
    path = tmp_path / "a.h5"
    found = mvflow(
        "sample", tmp_path / "run", *given, *words, "--n", "3", "--seed", "4", "--out", path
    )
    assert found.code == 0, found
    assert said in found.out
    with h5py.File(path) as file:
        z = changed(load(tmp_path / "run")).draw(x, 3, seed=4).z
        assert np.array_equal(file["latent"], z)


def test_the_default_file_is_in_the_run_and_is_replaced(mvflow, trained):
    for _ in range(2):
        assert mvflow("sample", trained, "--given", "circle").code == 0
    with h5py.File(trained / "samples" / "circle.h5") as file:
        assert file["samples/square"].shape == (8, 64, 1, 32, 32)
        assert file.attrs["rows"] == "test:0:64"
    found = mvflow("sample", trained, "--n", "5")
    assert "from the prior" in found.out
    with h5py.File(trained / "samples" / "prior.h5") as file:
        assert file["samples/square"].shape == (5, 1, 1, 32, 32)
        assert "given" not in file
        assert "labels" not in file


def test_works_from_any_folder(mvflow, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(trained.parent)
    found = mvflow("sample", "toy", "--given", "circle", "--out", tmp_path / "a.h5")
    assert found.code == 0, found


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--given", "sqare"), "unknown modality 'sqare': did you mean 'square'?"),
        (("--given", "square", "--targets", "circel"), "did you mean 'circle'?"),
        (("--given", "square", "--given", "square"), "named twice"),
        (
            ("--given", "square", "--rows", "tset:0:4"),
            "unknown split 'tset': did you mean 'test'?",
        ),
        (("--given", "square", "--rows", "test:0:999999"), "has the rows 0 to 199"),
        (("--given", "square", "--rows", "test:5:5"), "out of range"),
        (("--given", "square", "--rows", "test:-3:5"), "out of range"),
        (("--given", "square", "--rows", "test"), "expected split:start:stop"),
        (("--given", "square", "--rows", "test:a:b"), "expected split:start:stop"),
        (("--rows", "test:0:4"), "no --given takes any"),
        (("--n", "0"), "--n"),
        (("--sampler", "hcm"), "unknown sampler 'hcm': did you mean 'hmc'?"),
    ],
)
def test_wrong_use(refused, trained, tmp_path, words, hint):
    path = tmp_path / "a.h5"
    assert hint in refused("sample", trained, *words, "--out", path, code=2)
    assert not path.exists()


def test_arrays_that_cannot_be_used(refused, trained, npy, tmp_path):
    good = np.zeros((5, 1, 32, 32), np.float32)
    bad = good.copy()
    bad[3, 0, 1, 1] = np.nan
    pickled = npy("pickled", np.zeros(2))
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    text = tmp_path / "text.npy"
    text.write_text("no array")
    several = tmp_path / "several.npz"
    np.savez(several, a=good, b=good)
    for path, hint in (
        (npy("bad", bad), "row 3, position (0, 1, 1) is nan"),
        (npy("shape", good[:, :, :16]), "has rows of shape (1, 16, 32): 'square' has (1, 32, 32)"),
        (npy("range", good + 7), "row 0 contains 7.0: expected probabilities in [0, 1]"),
        (npy("none", good[:0]), "has no rows"),
        (npy("words", np.array(["a"])), "'square' has (1, 32, 32)"),
        (pickled, "holds Python objects"),
        (text, "truncated or not a .npy file"),
        (several, "holds the arrays a, b"),
        (tmp_path / "missing.npy", "there is no file or folder"),
    ):
        assert hint in refused("sample", trained, "--given", f"square={path}", code=1)
    words = ("--given", f"square={npy('good', good)}", "--given", "circle", "--rows", "test:0:4")
    assert "square has 5" in refused("sample", trained, *words, code=1)


def test_nothing_but_samples_is_replaced(refused, trained, store, tmp_path):
    note = tmp_path / "note"
    note.write_text("keep me")
    before = store.read_bytes()
    for path in (note, store, tmp_path):
        assert "is not a file of samples" in refused("sample", trained, "--out", path, code=2)
    assert note.read_text() == "keep me"
    assert store.read_bytes() == before
    table = tmp_path / "a.csv"
    assert f"name it {table.with_suffix('.h5')}" in refused(
        "sample", trained, "--out", table, code=2
    ).replace("\n", " ")


def test_a_full_disk_leaves_the_old_file(mvflow, refused, trained, tmp_path, monkeypatch):
    path = tmp_path / "out" / "a.h5"
    assert mvflow("sample", trained, "--out", path).code == 0
    before = path.read_bytes()

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    line = refused("sample", trained, "--out", path, code=1)
    assert f"cannot write {path}: the disk is full" in line
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_never_writes_what_is_not_finite(refused, trained, tmp_path, monkeypatch):
    from mvflow.estimators import Estimator

    monkeypatch.setattr(
        Estimator,
        "decode",
        lambda self, z, targets, **_: {t: np.full((*z.shape[:2], 2), np.inf) for t in targets},
    )
    path = tmp_path / "a.h5"
    assert "samples of 'circle' are not finite" in refused(
        "sample", trained, "--out", path, code=1
    )
    assert not path.exists()


def test_rows_that_lack_what_is_given_are_left_out_and_said(mvflow, tmp_path):
    """What a store holds in their place is never read as data."""
    rng, has = np.random.default_rng(0), np.arange(12) % 3 > 0
    rows = {n: rng.normal(size=(12, 2)).astype(np.float32) for n in "ab"}
    labels, modalities = np.arange(12) % 2, [Modality(n, (2,)) for n in "ab"]
    split = SplitData(rows, labels=labels, present={"a": has})
    path, out = tmp_path / "s.h5", tmp_path / "samples.h5"
    write_store(path, name="s", modalities=modalities, splits={"train": split, "test": split})
    with Store.open(path) as opened:
        model = MVAE(modalities, 2, joint={"epochs": 1}, data={"validation": 0})
        model.fit(opened["train"]).save(tmp_path / "run")
    words = ("sample", tmp_path / "run", "--store", path, "--out", out, "--given", "a", "--n", "1")
    done = mvflow(*words, "--rows", "test:2:9", "--seed", "7")
    assert done.code == 0, done
    assert "2 of the rows test:2:9 lack a and are left out" in done.out + done.err
    kept = [2, 4, 5, 7, 8]
    with h5py.File(out) as file:
        assert file["rows"][...].tolist() == kept
        assert np.array_equal(file["latent"], model.sample_latent({"a": rows["a"][kept]}, seed=7))
        assert np.array_equal(file["labels"], labels[kept])
        assert np.array_equal(file["given/a"], rows["a"][kept])
    both = mvflow(*words, "--given", "b", "--targets", "a", "--rows", "test:2:9", "--seed", "7")
    assert both.code == 0, both
    given = {n: x[2:9] for n, x in rows.items()} | {"present/a": has[2:9]}
    with h5py.File(out) as file:
        assert np.array_equal(file["latent"], model.sample_latent(given, seed=7))
        assert file["given/present/a"][...].tolist() == has[2:9].tolist()
    none = mvflow(*words, "--rows", "test:3:4")
    assert none.code == 2
    assert none.err == "mvflow: none of the rows test:3:4 has a: choose others (--rows)\n"
