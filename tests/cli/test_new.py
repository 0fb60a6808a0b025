"""`mvflow new`."""

import json

import numpy as np
import pytest

from mvflow import load
from mvflow.core import Modality, registry
from mvflow.posteriors import NSF
from mvflow.projectors import DCCA, Contrastive
from mvflow.runs import RunDirectory
from mvflow.tuning import search
from mvflow_datasets import SplitData, write_store


def test_writes_a_complete_configuration(mvflow, store, tmp_path, monkeypatch):
    monkeypatch.chdir(store.parent)
    found = mvflow(
        *("new", tmp_path / "a", "--recipe", "toy", "--store", "toy.h5", "--seed", "5"),
        *("--posterior", "nsf", "--set", "joint.beta=2.5", "--set", "posterior.hidden=[8, 8]"),
    )
    assert found.code == 0, found
    assert "mvflow train" in found.out
    config = RunDirectory.open(tmp_path / "a").config()
    assert config.data.store == str(store)
    assert (config.seed, config.joint.beta, config.system) == (5, 2.5, "jnf")
    assert config.posterior == NSF(transforms=2, hidden=(8, 8))


@pytest.mark.parametrize("system", registry("systems").names())
def test_without_a_recipe_the_store_decides_for_any_system(mvflow, store, tmp_path, system):
    found = mvflow("new", tmp_path / "a", "--store", store, "--system", system, "--quick")
    assert found.code == 0, found
    config = RunDirectory.open(tmp_path / "a").config()
    assert (config.recipe, config.system, config.latent_dim) == ("auto", system, 20)
    assert config.joint.schedule == "one-cycle"
    assert 10 <= config.joint.epochs <= 300


def test_parts_are_chosen_by_their_kinds(make):
    config = RunDirectory.open(make("a", "--projector", "contrastive")).config()
    assert config.projector == Contrastive(dim=1)  # as the recipe has it for every projector
    config = RunDirectory.open(make("b", "--system", "jnf-shared")).config()
    assert config.projector == DCCA(dim=1)
    words = ("--system", "jnf-shared", "--projector", "none", "--prior", "mixture")
    config = RunDirectory.open(make("c", *words, "--subset", "amortised")).config()
    assert config.projector is None
    assert (type(config.prior).__name__, type(config.subset).__name__) == ("Mixture", "Amortised")


def test_settings_have_the_last_word(make):
    chosen = make("a", "--posterior", "maf", settings=["posterior=nsf", "posterior.bins=3"])
    assert RunDirectory.open(chosen).config().posterior.bins == 3


def test_takes_what_is_the_same_from_another_run(mvflow, store, trained, make, tmp_path):
    path = make("a", "--posterior", "gaussian", "--from", str(trained), "--json")
    history = RunDirectory.open(path).history()
    assert [r["stage"] for r in history] == ["joint"]
    assert RunDirectory.open(path).weights("joint").read_bytes() == (
        RunDirectory.open(trained).weights("joint").read_bytes()
    )
    words = ("--recipe", "toy", "--store", store, "--from", trained)
    found = mvflow("new", tmp_path / "b", *words)
    assert found.code == 0
    assert "took nothing" in found.out
    found = json.loads(mvflow("new", tmp_path / "c", *words, "--json").out)
    assert found["adopted"] == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--recipe", "toi"), "unknown recipe 'toi': did you mean 'toy'?"),
        (("--model", "jnf-share"), "did you mean 'jnf-shared'?"),
        (("--system", "MMVAE+"), "that of the paper is --system mmvae-plus"),
        (("--system", "mopeo"), "did you mean 'mopoe'?"),
        (("--set", "system=MMVAEPlus"), "did you mean 'mmvae-plus'?"),
        (("--system", "JNF-Shared"), "did you mean 'jnf-shared'?"),
        (("--system", "jnf-shared (cl)"), "--system jnf-shared --projector contrastive"),
        (("--projector", "CL"), "that of the paper is --projector contrastive"),
        (("--set", "flow.epochs=2"), "unknown key 'flow': did you mean 'flows'? Or: "),
        (("--system", "jnf-share"), "did you mean 'jnf-shared'?"),
        (("--subset", "amortized"), "did you mean 'amortised'?"),
        (("--prior", "mixtur"), "did you mean 'mixture'?"),
        (("--projector", "dca"), "unknown projector 'dca': did you mean 'dcca'?"),
        (("--posterior", "gausian"), "did you mean 'gaussian'?"),
        (("--set", "joint.epoch=3"), "did you mean 'epochs'?"),
        (("--set", "modalities.sqare.weight=3"), "did you mean 'square'?"),
        (("--set", "modalities.square.wieght=3"), "did you mean 'weight'?"),
        (("--set", "posterior.bins=3"), "that is a setting of 'nsf'"),
        (("--set", "posterior=builtins:print"), "posterior 'builtins:print' does not fulfil"),
        (("--set", "joint.epochs"), "expected section.key=value"),
        (("--set", "joint.epochs=many"), "joint.epochs"),
        (("--set", "joint.epochs=-1"), "joint.epochs"),
        (("--set", "data.test=tests"), "unknown split 'tests': did you mean 'test'?"),
        (("--projector", "dcca", "--set", "projector.dim=60"), "batch_size=512 is too small"),
        (("--projector", "dcca", "--set", "projectors.batch_size=4"), "use at least 10"),
        (("--seed", "-1"), "--seed"),
        (("--from", "nowhere"), "nowhere does not exist"),
    ],
)
def test_wrong_use_is_refused_and_leaves_nothing(refused, store, tmp_path, words, hint):
    line = refused("new", tmp_path / "a", "--recipe", "toy", "--store", store, *words, code=2)
    assert hint in line
    assert not (tmp_path / "a").exists()


def test_a_damaged_run_to_take_stages_from_leaves_nothing(refused, store, copied, tmp_path):
    (copied / "manifest.json").write_bytes(b"damaged")
    words = ("--recipe", "toy", "--store", store, "--from", copied)
    assert "manifest.json" in refused("new", tmp_path / "a", *words, code=1)
    assert not (tmp_path / "a").exists()


def test_an_existing_run_is_left_alone(refused, trained, store):
    before = (trained / "config.toml").read_bytes()
    line = refused("new", trained, "--recipe", "toy", "--store", store, code=2)
    assert "exists already" in line
    assert (trained / "config.toml").read_bytes() == before


def test_data_of_other_modalities_or_shapes_are_refused(refused, store, tmp_path):
    line = refused("new", tmp_path / "a", "--recipe", "mnist-svhn", "--store", store, code=1)
    assert "no modality 'mnist'" in line
    small = {"square": (1, 16, 16), "circle": (1, 32, 32)}
    rows = {name: [[[[0.0] * s[2]] * s[1]]] * 3 for name, s in small.items()}
    other = write_store(
        tmp_path / "small.h5",
        name="small",
        modalities=[Modality(n, s, "bernoulli") for n, s in small.items()],
        splits={split: SplitData(rows) for split in ("train", "test")},
    )
    line = refused("new", tmp_path / "a", "--recipe", "toy", "--store", other, code=1)
    assert "'square' of the data has shape (1, 16, 16), but the model expects (1, 32, 32)" in line
    assert not (tmp_path / "a").exists()


@pytest.fixture
def tables(mvflow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 2))
    for name, columns in (("a", 3), ("b", 4)):
        x = z @ rng.normal(size=(2, columns)) + 0.1 * rng.normal(size=(60, columns))
        header = ",".join(f"{name}{i}" for i in range(columns))
        np.savetxt(f"{name}.csv", x, delimiter=",", header=header, comments="")
    words = ("--modality", "a=a.csv", "--modality", "b=b.csv")
    assert mvflow("data", "import", "s.h5", *words).code == 0
    return tmp_path / "s.h5"


def test_settings_for_tables_are_searched_within_a_budget(mvflow, refused, tables):
    made = mvflow("new", "run", "--store", "s.h5", "--budget", "0.001")
    assert made.code == 0, made
    assert "at most 0.001 s ('--quick' leaves it out)" in " ".join(made.out.split())
    assert ": the recipe's own settings" in " ".join(made.out.split())
    assert "kept the recipe's own settings: none of 0" in " ".join(made.out.split())
    assert (tables.parent / "run" / "search.json").is_file()
    assert not (tables.parent / "run.search.json").exists()
    assert "exists already" in refused("new", "run", "--store", "s.h5", code=2)
    quick = mvflow("new", "quick", "--store", "s.h5", "--quick")
    assert "search" not in quick.out
    configs = [RunDirectory.open(tables.parent / name).config() for name in ("run", "quick")]
    assert configs[0] == configs[1]
    assert configs[0].joint.start == "factor-analysis"


def test_an_interrupted_search_goes_on(mvflow, tables, monkeypatch):
    scores, asked = search._Search.scores, []

    def interrupted(self, config):
        asked.append(config)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return scores(self, config)

    monkeypatch.setattr(search._Search, "scores", interrupted)
    stopped = mvflow("new", "run", "--store", "s.h5")
    assert stopped.code == 1
    assert "the same command goes on" in " ".join(stopped.err.split())
    again = mvflow("new", "run", "--store", "s.h5", "--budget", "0.001")
    assert again.code == 0
    assert len(asked) == 2  # the first trial was kept


def test_forty_rows_are_enough_and_what_needs_more_is_refused(mvflow, refused, tables):
    words = ("data", "import", "few.h5", "--modality", "a=a.csv", "--modality", "b=b.csv")
    assert mvflow(*words, "--split", "0.66,0.34").code == 0  # 40 of 60 rows
    wide = ("--projector", "dcca", "--set", "projector.dim=3")
    said = refused("new", "wide", "--store", "few.h5", *wide, code=1)
    assert "stage 'projectors' needs" in said
    assert "rows" in said
    assert not (tables.parent / "wide").exists()
    assert mvflow("new", "few", "--store", "few.h5", "--quick").code == 0
    assert mvflow("train", "few").code == 0
    found = mvflow("sample", "few", "--given", "a", "--n", "2")
    assert found.code == 0, found


@pytest.mark.bad_input
def test_a_split_of_one_row_is_named_before_anything_is_trained(mvflow, tmp_path):
    rows = np.random.default_rng(0).normal(size=(10, 3))
    parts = {"train": SplitData({"a": rows[:9]}), "test": SplitData({"a": rows[9:]})}
    specs = [Modality("a", (3,))]
    write_store(tmp_path / "s.h5", name="own", modalities=specs, splits=parts)
    found = mvflow("new", tmp_path / "run", "--store", tmp_path / "s.h5", "--quick")
    assert found.code == 1
    assert "split 'test' of" in found.err
    assert "has 1 rows, and needs 2 or more" in found.err
    assert not (tmp_path / "run").exists()


def test_rows_that_lack_modalities_get_a_masked_encoder(mvflow, tmp_path):
    rng = np.random.default_rng(0)
    splits = {
        name: SplitData(
            {n: rng.normal(size=(60, 3)).astype(np.float32) for n in "ab"},
            present={"b": rng.random(60) > 0.4},
        )
        for name in ("train", "test")
    }
    store, specs = tmp_path / "s.h5", [Modality(n, (3,)) for n in "ab"]
    write_store(store, name="s", modalities=specs, splits=splits)
    run = tmp_path / "run"
    words = ["--set", "joint.epochs=2", "--set", "latent_dim=2"]
    mvflow("new", run, "--store", store, "--quick", *words)
    assert RunDirectory.open(run).config().joint.masking == 0.5
    mvflow("train", run)
    model, x = load(run), {"a": rng.normal(size=(4, 3)), "b": rng.normal(size=(4, 3))}
    given = {**x, "present/b": np.array([True, False, True, False])}
    assert np.isfinite(model.log_likelihood(given, n=20)).all()


def test_settings_that_never_act_are_said_and_taken(mvflow, store, tmp_path):
    words = ("--recipe", "toy", "--store", store, "--json", "--set", "joint.anneal=0.2")
    found = mvflow("new", tmp_path / "a", *words, "--set", "joint.beta_start=none")
    assert found.code == 0, found
    assert "mvflow: warning: joint.anneal = 0.2 has no effect without" in found.err
    assert json.loads(found.out)["config"]["joint"]["anneal"] == 0.2


def test_sections_that_nothing_reads_are_said_where_they_were_set(mvflow, store, tmp_path):
    words = ("--recipe", "toy", "--store", store, "--subset", "amortised")
    found = mvflow("new", tmp_path / "a", *words, "--posterior", "nsf", "--set", "flows.epochs=7")
    assert found.code == 0, found
    (line,) = [line for line in found.err.splitlines() if "has no effect" in line]
    assert line.startswith("mvflow: warning: posterior has no effect: subset.kind = 'amortised'")
    assert (
        "amortised (14 epochs of 150 steps); train it" in found.out
    )  # those of flows, which acted
    found = mvflow("train", tmp_path / "a", "--stage", "joint", "--set", "flows.epochs=9",
                   "--set", "joint.epochs=0", "--set", "projectors.epochs=2")  # fmt: skip
    said = [line for line in found.err.splitlines() if "has no effect" in line]
    assert [line.split()[2] for line in said] == ["flows.epochs", "projectors.epochs"]
    assert "its own epochs are subset.epochs" in said[0]
    found = mvflow("new", tmp_path / "b", *words[:-2], "--posterior", "nsf")
    assert "has no effect" not in found.err
