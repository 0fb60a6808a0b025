"""Training: stages in order, one at a time, stale ones, other stores, other processes."""

import fcntl
import json
import re
import shutil

import pytest

from mvflow.core import fingerprint
from mvflow.estimators import load
from mvflow.runs import Inputs, RunDirectory, read_tensors
from mvflow_cli.subprocesses import LOCKED
from mvflow_datasets import Store, find_builder

READERS = {"sample": ("--given", "square"), "evaluate": (), "report": ()}
"""Commands that read a run and its store, with what they need to."""


def test_a_finished_run_is_left_alone(mvflow, trained):
    before = RunDirectory.open(trained).weights("flows").stat().st_mtime_ns
    found = mvflow("train", trained)
    assert found.code == 0
    assert found.out.splitlines() == ["joint: done already", "flows: done already"]
    assert mvflow("train-joint", trained).out == "joint: done already\n"
    found = json.loads(mvflow("train", trained, "--json").out)
    assert not found["stages"]["joint"]["trained"]
    assert RunDirectory.open(trained).weights("flows").stat().st_mtime_ns == before


def test_stages_one_by_one_equal_all_at_once(mvflow, refused, make):
    whole, parts = make("whole", "--model", "jnf-shared"), make("parts", "--model", "jnf-shared")
    found = mvflow("train", whole, "--json")
    assert found.code == 0, found
    assert "joint epoch 1/1: loss" in found.err
    assert list(json.loads(found.out)["stages"]) == ["projectors", "joint", "flows"]
    line = refused("train-flows", parts, code=1)
    assert f"run 'mvflow train {parts} --stage projectors' first" in line
    assert mvflow("train-projectors", parts).code == 0
    assert f"run 'mvflow train {parts} --stage joint' first" in refused(
        "train-flows", parts, code=1
    )
    found = mvflow("train-joint", parts)
    assert "joint epoch 1/1: loss" in found.out
    assert mvflow("train", parts, "--stage", "flows", "--threads", "1").code == 0
    for stage in ("projectors", "joint", "flows"):
        assert equal_weights(whole, parts, stage)


def test_again_trains_from_the_beginning(mvflow, trained, copied):
    found = mvflow("train-joint", copied, "--again", "--json")
    assert json.loads(found.out)["stages"]["joint"]["trained"]
    assert equal_weights(trained, copied, "joint")
    assert mvflow("train", copied).out.count("done already") == 2


def test_a_stale_stage_is_said_and_trained_anew(mvflow, refused, copied):
    config = copied / "config.toml"
    config.write_text(config.read_text().replace("beta = 1.0", "beta = 2.0"))
    line = refused("sample", copied, code=1)
    assert "was trained with other settings" in line
    assert "--stage joint' first" in refused("train-flows", copied, code=1)
    found = mvflow("train", copied)
    assert found.code == 0
    assert "joint: stale" in found.out
    assert "flows: stale" in found.out
    assert mvflow("sample", copied).code == 0


def test_a_stage_that_the_model_does_not_have(refused, trained):
    assert "has no stage 'projectors'" in refused("train-projectors", trained, code=2)


@pytest.mark.parametrize("command", ["train", "train-flows", *READERS])
def test_not_a_run(refused, tmp_path, command):
    assert "does not exist" in refused(command, tmp_path / "none", code=2)
    assert "is not a run directory" in refused(command, tmp_path, code=2)


@pytest.mark.parametrize("command", ["train", "train-flows", *READERS])
def test_what_is_given_in_place_of_a_run_is_named(refused, store, trained, tmp_path, command):
    assert f"'mvflow new RUN --store {store}'" in refused(command, store, code=2)
    file = trained / "joint.safetensors"
    assert f"is a file of run {trained}: name the run" in refused(command, file, code=2)
    for name in "abcd":
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").touch()
    few = f"{tmp_path}/a, {tmp_path}/b, {tmp_path}/c, ...; name one of them"
    assert f"holds 4 runs: {few}" in refused(command, tmp_path, code=2)


def test_no_epochs_are_said(mvflow, make):
    path = make("a", settings=["flows.epochs=0"])
    assert "flows: trained, epochs 0, " in mvflow("train", path).out
    found = mvflow("evaluate", path)
    assert "verdict: Do not trust yet. Training: flows was trained for 0 epochs" in found.out
    assert "- Raise flows.epochs, and train." in found.out


def test_what_only_other_systems_have_is_said_of_which(mvflow, refused, store, tmp_path):
    path = tmp_path / "a"
    mvflow("new", path, "--recipe", "toy", "--store", store, "--system", "mopoe")
    assert "; 'flows' is of jnf, jnf-shared" in refused("train-flows", path, code=2)
    line = refused("evaluate", path, "--subset", "product", code=2)
    assert "choose a system that has one (jmvae, jnf" in line


def test_damaged_files_of_a_run(refused, copied):
    weights = copied / "joint.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    line = refused("sample", copied, code=1)
    assert f"{weights} is not the file that manifest.json records" in line
    assert f"'mvflow train {copied} --stage joint --again'" in line
    weights.write_bytes(data)
    (copied / "manifest.json").write_text("{")
    assert "manifest.json is damaged" in refused("sample", copied, code=1)
    config = (copied / "config.toml").read_text()
    (copied / "config.toml").write_text(config.replace("format = 2", "format = 3"))
    assert "upgrade mvflow" in refused("train", copied, code=2)
    (copied / "config.toml").write_text(config.replace("epochs", "epoch", 1))
    assert "did you mean 'epochs'?" in refused("train", copied, code=2)


@pytest.mark.parametrize("command", ["train", *READERS])
def test_a_store_that_is_gone(refused, copied, store, tmp_path, command):
    move(copied, store, tmp_path / "gone.h5")
    line = refused(command, copied, *READERS.get(command, ()), code=1)
    assert "gone.h5: if it has moved, add --store" in line


def test_a_store_that_moved(mvflow, copied, store, tmp_path):
    moved = shutil.copy(store, tmp_path / "moved.h5")
    move(copied, store, tmp_path / "gone.h5")
    words = ("--given", "square", "--rows", "test:0:2")
    assert mvflow("sample", copied, *words, "--store", moved).code == 0
    assert mvflow("sample", copied).code == 0  # from the prior: no store is needed
    assert mvflow("train", copied, "--store", moved).code == 0
    assert RunDirectory.open(copied).config().data.store == str(moved)
    assert mvflow("sample", copied, *words).code == 0


@pytest.mark.parametrize("command", ["train", *READERS])
def test_a_store_of_other_rows(refused, copied, tmp_path, command):
    other = find_builder("toy").build(tmp_path / "other.h5", rows=100, test_rows=50, seed=9)
    words = READERS.get(command, ())
    line = refused(command, copied, *words, "--store", other, code=1)
    assert "was trained on other rows" in line
    assert "mvflow new" in line


def move(run, store, to):
    """Let the configuration say that the store lies elsewhere."""
    config = run / "config.toml"
    config.write_text(config.read_text("utf-8").replace(str(store), str(to)), "utf-8")


def test_a_second_process_is_refused(refused, copied):
    with (copied / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as another process holds it
        assert "another process is training" in refused("train", copied, code=LOCKED)


@pytest.mark.parametrize("fault", ["too few rows", "not finite"])
def test_training_that_cannot_go_on(refused, make, store, tmp_path, fault):
    if fault == "not finite":
        path = make("a", settings=["joint.learning_rate=1e30", "joint.schedule=constant"])
        assert "not finite at epoch 1" in refused("train", path, code=1)
    else:
        path = make("a", "--projector", "dcca", settings=["data.validation=.1"])
        words = ("train-projectors", path, "--set", "projector.dim=30")
        assert "too few for stage 'projectors'" in refused(*words, code=1)
    with Store.open(store) as opened:
        data = Inputs(fingerprint(opened["train"]))
    assert RunDirectory.open(path).status("joint", load(path).plan_, data) == "missing"


def equal_weights(a, b, stage):
    """Whether two runs have the same weights, to the bit."""
    ours, theirs = (read_tensors(RunDirectory(p).weights(stage))[0] for p in (a, b))
    same = [ours[k].numpy().tobytes() == theirs[k].numpy().tobytes() for k in ours.keys() | theirs]
    return all(same) and ours.keys() == theirs.keys()


def test_a_bar_on_a_terminal_and_no_result_among_it(mvflow, make, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    found = mvflow("train", make("a"), "--json")
    assert set(json.loads(found.out)["stages"]) == {"joint", "flows"}
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", found.err)
    for stage in ("joint", "flows"):
        assert re.search(rf"{stage} ━+ epoch 1/1 0:00:00 +[\d,]+/s +loss -?[\d.]+", plain), plain


def test_stages_are_trained_by_name(mvflow, refused, make):
    path = make("a", "--model", "jnf-shared")
    found = json.loads(mvflow("train", path, "--stage", "joint", "--json").out)
    assert list(found["stages"]) == ["joint"]
    words = ("--stage", "flows", "--stage", "projectors")  # in order, whatever the order here
    found = json.loads(mvflow("train", path, *words, "--json").out)
    assert [(n, s["trained"]) for n, s in found["stages"].items()] == [
        ("projectors", True),
        ("flows", True),
    ]
    line = refused("train", path, "--stage", "jonit", code=2)
    assert "has no stage 'jonit': did you mean 'joint'? system 'jnf-shared' has" in line


def test_settings_are_changed_said_and_written_down(mvflow, refused, copied):
    found = mvflow("train", copied, "--set", "flows.learning_rate=0.002", "--set", "posterior=nsf")
    assert found.code == 0, found
    said = found.out.splitlines()
    assert "config.toml: flows.learning_rate = 0.002 (was 0.005)" in said
    assert "config.toml: posterior.kind = 'nsf' (was 'maf')" in said
    assert "joint: done already" in said
    assert any(line.startswith("flows: stale") for line in said)
    epochs = RunDirectory.open(copied).config().flows.epochs
    announced = next(i for i, line in enumerate(said) if line.startswith("to train: "))
    assert said[announced].startswith(f"to train: flows ({epochs} epochs")
    assert not any("flows epoch" in line for line in said[:announced])
    config = RunDirectory.open(copied).config()
    assert (config.flows.learning_rate, type(config.posterior).__name__) == (0.002, "NSF")
    before = (copied / "config.toml").read_bytes()
    line = refused("train", copied, "--set", "posterior.bin=3", code=2)
    assert "'nsf' has no setting 'bin': did you mean 'bins'?" in line
    assert (copied / "config.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "reason", "code"),
    [
        (("--set", "joint.beta=9", "--stage", "flows"), "--stage joint --set joint.beta=9'", 1),
        (("--set", "joint.beta=9", "--stage", "flow"), "has no stage 'flow'", 2),
        (("--set", "joint.patience=2", "--set", "data.validation=0"), "no rows are held out", 2),
        (
            ("--again", "--set", "data.validation=0", "--set", "joint.keep_best=true"),
            "held out",
            2,
        ),
        (("--again", "--set", "joint.samples=1000000000"), "MiB are free", 1),
    ],
)
def test_a_refused_command_leaves_the_run_as_it_was(mvflow, copied, words, reason, code):
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    found = mvflow("train", copied, *words)
    assert found.code == code, found
    assert reason in found.err
    assert "config.toml: " not in found.out
    assert {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()} == before
    assert mvflow("train", copied).out.count("done already") == 2


def test_both_rules_in_one_run(mvflow, refused, copied):
    assert "amortised" in refused("train", copied, "--subset", "amortized", code=2)
    line = refused("sample", copied, "--given", "square", "--subset", "amortised", code=1)
    assert f"run 'mvflow train {copied} --stage amortised --subset amortised' first" in line
    before = RunDirectory.open(copied).weights("flows").read_bytes()
    found = mvflow("train", copied, "--stage", "amortised", "--subset", "amortised")
    assert found.code == 0, found  # the command that was named
    assert "config.toml: subset.kind = 'amortised' (was 'product')" in found.out
    assert RunDirectory.open(copied).weights("flows").read_bytes() == before
    assert mvflow("sample", copied, "--given", "square").code == 0  # as config.toml now says
    found = mvflow("sample", copied, "--given", "circle", "--subset", "product", "--json")
    assert json.loads(found.out)["subset"] == "product"
    assert set(json.loads(found.out)["stages"]) == {"joint", "flows"}
    # back again, by the stage that belongs to the rule
    assert "done already" in mvflow("train", copied, "--subset", "product").out
    assert "amortised: done already" in mvflow("train-amortised", copied).out
    assert type(RunDirectory.open(copied).config().subset).__name__ == "Amortised"


def test_guidance_is_said_and_kept_apart(mvflow, refused, copied):
    own = copied / "metrics" / "evaluation.json"
    before = own.read_bytes() if own.exists() else None
    line = refused("sample", copied, "--given", "square", "--guidance", "1", code=2)
    assert "subset rule 'product' has no guidance" in line
    assert mvflow("train-matching", copied, "--set", "subset.width=8").code == 0
    for words, subset in (([], "matching"), (["--guidance", "1"], "matching, guidance 1")):
        found = mvflow("sample", copied, "--given", "square", *words, "--json")
        assert json.loads(found.out)["subset"] == subset
    assert json.loads(mvflow("sample", copied, "--json").out)["prior"] == "matching"
    found = mvflow("diagnose", copied, "--rows", "20", "--guidance", "1")
    assert "are not posterior draws" in " ".join(found.out.split())
    assert mvflow("evaluate", copied, "--guidance", "1").code == 0
    assert (copied / "metrics" / "evaluation-matching-guided-1.json").exists()
    assert (own.read_bytes() if own.exists() else None) == before


def test_both_rules_are_evaluated(mvflow, copied):
    assert mvflow("train", copied, "--subset", "amortised").code == 0
    assert mvflow("evaluate", copied, "--subset", "product").code == 0
    assert mvflow("evaluate", copied).code == 0
    kept = copied / "metrics"
    facts = json.loads((kept / "evaluation-product.json").read_text())["facts"]
    assert facts["subset"] == "product"
    found = json.loads((kept / "evaluation.json").read_text())
    assert (found["facts"]["subset"], found["sampler"]["method"]) == ("amortised", "exact")
    assert mvflow("report", copied).code == 0
