"""`mvflow sweep`: real processes, one for each run."""

import errno
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from mvflow.core import UsageError
from mvflow.runs import RunDirectory, read_tensors
from mvflow_cli.making import make_runs
from mvflow_datasets import find_builder

SHORT = (
    *("--set", "joint.epochs=1", "--set", "joint.steps_per_epoch=3"),
    *("--set", "projectors.epochs=1", "--set", "projectors.steps_per_epoch=1"),
    *("--set", "flows.epochs=1", "--set", "flows.steps_per_epoch=1"),
)
EVALUATION = ("rows=64", "prior_draws=64", "importance_rows=4", "importance_draws=20")
GROUPS = ("--variant", "system=jnf", "--variant", "system=jnf-shared,projector.kind=dcca")


@pytest.fixture
def swept(mvflow, store, tmp_path):
    """Run a short sweep: swept("out", words...) -> the folder and what was said."""

    def call(name, *words):
        out = tmp_path / name
        found = mvflow(
            *(
                "sweep",
                store,
                "--recipe",
                "toy",
                *SHORT,
                "--out",
                out,
                "--jobs",
                2,
                "--threads",
                1,
                *words,
            )
        )
        return out, found

    return call


def weights(path, stage):
    tensors, _ = read_tensors(path / f"{stage}.safetensors")
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


@pytest.mark.slow
def test_equal_stages_are_trained_once_and_all_is_kept(swept, mvflow):
    words = ("--seeds", "0,3", *GROUPS)
    out, found = swept("a", *words, "--json")
    assert found.code == 0, found
    runs = json.loads(found.out)["runs"]
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(run["name"] for run in runs)
    assert names[0] == "system=jnf,seed=0"
    assert names[-1] == "system=jnf-shared,kind=dcca,seed=3"
    assert [run["stages"]["joint"]["how"] for run in runs] == 2 * ["trained"] + 2 * ["shared"]
    assert weights(out / names[0], "joint") == weights(out / runs[2]["name"], "joint")
    config = RunDirectory.open(out / names[-1]).config()
    assert (config.seed, config.system) == (3, "jnf-shared")
    trained = mvflow("train", out / names[-1])
    assert trained.out.count("done already") == 3
    again = swept("a", *words)[1]
    assert again.code == 0
    assert again.out.count("done before") == 2 * 4  # in the lines, and in the table
    assert "4 of 4 runs are trained" in again.out


@pytest.mark.slow
def test_a_variant_is_what_mvflow_new_and_train_make(swept, make, mvflow):
    out, found = swept("a", "--seeds", "7", "--set", "posterior.hidden=[8, 8],[4]")
    assert found.code == 0, found
    assert sorted(p.name for p in out.iterdir()) == ["hidden=[4],seed=7", "hidden=[8,_8],seed=7"]
    settings = [w for w in SHORT if w != "--set"]
    path = make("alone", "--seed", "7", settings=(*settings, "posterior.hidden=[4]"))
    assert mvflow("train", path).code == 0
    for stage in ("joint", "flows"):
        assert weights(out / "hidden=[4],seed=7", stage) == weights(path, stage)


@pytest.mark.slow
def test_runs_are_evaluated_if_asked_for(swept):
    words = [w for text in EVALUATION for w in ("--set", f"evaluation.{text}")]
    words += ["--set", "sampler.warmup=2", "--set", "sampler.draws=2"]
    out, found = swept("a", "--evaluate", *words)
    assert found.code == 0, found
    assert json.loads((out / "run" / "metrics" / "evaluation.json").read_text())["rows"] == 64
    assert f"go on with 'mvflow compare {out / 'run'}'" in found.out


def first_lines(process, *names):
    """Epoch of the first line that is printed of each of these runs."""
    found = {}
    for line in process.stdout:
        name, _, rest = line.partition(": joint epoch ")
        if rest:
            found.setdefault(name, int(rest.split(",")[0].split("/")[0]))
        if found.keys() == set(names):
            return found
    pytest.fail(f"the sweep ended with {found}: {process.stderr.read()}")


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on(started, store, tmp_path):
    out = tmp_path / "a"
    words = ("sweep", store, "--recipe", "toy", *SHORT[4:], "--seeds", "0,1", "--out", out)
    words += ("--set", "joint.epochs=1000000", "--set", "joint.steps_per_epoch=1")
    process = started(*words, "--jobs", 2)
    first_lines(process, "seed=0", "seed=1")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert err.splitlines() == [
        "mvflow: interrupted; all full epochs are kept: run the same command again to go on"
    ]
    done = {}
    for name in ("seed=0", "seed=1"):
        run = RunDirectory.open(out / name)
        with run.lock():  # no process trains there any more
            _, about = read_tensors(run.checkpoint("joint"))
        done[name] = about["state"]["epoch"]
        assert done[name] > 0
        # The signal may fall between the line of an epoch and its state: it is trained again.
        assert len(run.history()) - done[name] in (0, 1)
    process = started(*words, "--jobs", 2)
    again = first_lines(process, *done)
    assert all(again[name] >= done[name] for name in done)  # of the history, or the next
    process.terminate()
    process.communicate(timeout=600)


@pytest.mark.slow
def test_one_that_fails_is_said_and_the_others_are_trained(swept):
    words = ("--set", "joint.learning_rate=0.001,1e30", "--set", "posterior.hidden=[4],[8]")
    _, found = swept("a", *words, "--json")
    assert found.code == 1
    errors = [run["error"] for run in json.loads(found.out)["runs"]]
    assert errors[:2] == [None, None]
    assert "not finite" in errors[2]
    assert errors[3] == (
        "shares stage 'joint' with learning_rate=1e30,hidden=[4], which has failed"
    )
    assert "learning_rate=1e30,hidden=[4]: failed" in found.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--seeds", ""), "expected whole numbers"),
        (("--seeds", "0,x"), "cannot read --seeds '0,x'"),
        (("--seeds", "0,1,0"), "has seed 0 twice"),
        (("--set", "joint.betta=1,2"), "did you mean 'beta'?"),
        (("--set", "joint.beta="), "has an empty value"),
        (("--set", "joint.beta=1,,2"), "has an empty value"),
        (("--set", "joint.beta=1,1"), "has 1 twice"),
        (("--set", "joint.beta"), "expected section.key=value"),
        (("--set", "joint.beta=1,many"), "joint.beta"),
        (("--set", "joint.beta=1", "--set", "joint.beta=2,3"), "joint.beta is set twice"),
        (("--variant", "system=mvae", "--set", "flows.epochs=1"), "(in 'system=mvae'; what only"),
        (("--variant", "jnf"), "cannot read --variant 'jnf'"),
        (("--variant", "system=jnf-share"), "did you mean 'jnf-shared'?"),
        (("--variant", "system=jnf", "--set", "system=jnf"), "system is set twice"),
        (("--variant", "system=jnf", "--variant", "system=jnf"), "would both be called"),
        (("--jobs", "0"), "--jobs"),
        (("--device", "cuda:99"), "cannot be used here"),
    ],
)
def test_wrong_use_is_one_sentence(refused, store, tmp_path, words, hint):
    call = ("sweep", store, "--recipe", "toy", "--out", tmp_path / "a", *words)
    assert hint in refused(*call, code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_folder_with_other_settings_is_refused(swept, refused, store, tmp_path):
    short = ("--set", "joint.epochs=0", "--set", "flows.epochs=0", "--seeds", "0")
    out = tmp_path / "a"
    call = ("sweep", store, "--recipe", "toy", "--out", out)
    assert swept("b", "--seeds", "0")[1].code == 0
    other = ("sweep", store, "--recipe", "toy", "--out", tmp_path / "b", *short)
    line = refused(*other, code=2)
    assert "is there with another configuration (" in line
    (out / "seed=0").mkdir(parents=True)
    (out / "seed=0" / "note").write_text("mine")
    assert "is not a run directory" in refused(*call, *short, code=2)


def test_a_damaged_run_in_the_place_of_one_is_named(refused, store, tmp_path):
    place = tmp_path / "a" / "seed=0" / "config.toml"
    place.parent.mkdir(parents=True)
    place.write_text("[[[")
    call = ("sweep", store, "--recipe", "toy", "--out", tmp_path / "a", "--seeds", "0")
    assert f"{place} is not valid TOML" in refused(*call, code=2)


def test_the_same_store_at_another_place_is_the_same(mvflow, refused, store, tmp_path):
    place, copy, out = tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "runs"
    for path in (place, copy):
        shutil.copyfile(store, path)
    (tmp_path / "link.h5").symlink_to(place)
    words = {"variants": {"seed=0": ["seed=0"]}, "out": out, "recipe": "toy"}
    make_runs(store=place, **words)
    before = (out / "seed=0" / "config.toml").read_bytes()
    for path in (place, tmp_path / "link.h5", copy):
        make_runs(store=path, **words)
    assert (out / "seed=0" / "config.toml").read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == ["seed=0"]
    other = find_builder("toy").build(tmp_path / "other.h5", rows=300, test_rows=100)
    with pytest.raises(UsageError, match=r"other.h5\): choose another --out"):
        make_runs(store=other, **words)
    place.unlink()
    with pytest.raises(UsageError, match=r"its store is not.*mvflow train .* --store .*b.h5"):
        make_runs(store=copy, **words)


@pytest.mark.bad_input
def test_a_store_that_was_replaced_is_refused_before_new_runs_are_made(
    refused, store, trained, tmp_path
):
    """By one of the same name: a run there was trained on the rows of the first."""
    place = find_builder("toy").build(tmp_path / "a.h5", rows=300, test_rows=100)
    out, words = tmp_path / "runs", {"variants": {"seed=0": ["seed=0"]}, "recipe": "toy"}
    make_runs(store=place, out=out, **words)
    for file in ("manifest.json", "joint.safetensors", "flows.safetensors"):
        shutil.copyfile(trained / file, out / "seed=0" / file)
    line = refused(
        *("sweep", place, "--recipe", "toy", "--seeds", "0,1", "--out", out),
        code=1,
    )
    assert f"{out / 'seed=0'} was trained on other rows than split 'train' of {place}" in line
    assert [path.name for path in out.iterdir()] == ["seed=0"]


@pytest.mark.bad_input
def test_a_folder_that_cannot_be_written_and_a_dangling_link_are_named(
    refused, store, tmp_path, monkeypatch
):
    words = ("sweep", store, "--recipe", "toy", "--seeds", "0", "--out", tmp_path / "a")
    with monkeypatch.context() as patch:

        def refuse(*_, **__):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), "a hidden name")

        patch.setattr(tempfile, "mkdtemp", refuse)
        line = refused(*words, code=1)
    assert line == f"mvflow: cannot write {tmp_path / 'a'}: read-only file system"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "seed=0").symlink_to("nowhere")
    assert "seed=0 is there and is not a run directory: choose another --out" in refused(
        *words, code=2
    )


def test_runs_that_another_command_makes_meanwhile_are_taken(store, tmp_path, monkeypatch):
    rename, out = Path.rename, tmp_path / "runs"

    def after_another(new, path):
        if path.parent == out:
            shutil.copytree(new, path)
        return rename(new, path)

    monkeypatch.setattr(Path, "rename", after_another)
    make_runs({"seed=0": ["seed=0"], "seed=1": ["seed=1"]}, out, store, "toy")
    assert sorted(path.name for path in out.iterdir()) == ["seed=0", "seed=1"]
    assert RunDirectory.open(out / "seed=1").config().seed == 1


def test_help_shows_an_example(mvflow):
    found = mvflow("sweep", "--help")
    assert found.code == 0
    assert "Example: mvflow sweep" in found.out
