"""`mvflow reproduce`: from nothing to a table and pictures, and on after an interruption."""

import json
import os
import select
import shutil
import signal

import pytest
import torch

from mvflow.evaluation.reproductions import reproduction
from mvflow.runs import RunDirectory, read_json
from mvflow_cli.estimating import stage_seconds
from mvflow_cli.jobs import Job
from mvflow_cli.making import make_runs
from mvflow_cli.reproduce import _announce
from mvflow_datasets import Store

SHORT = (
    *("joint.epochs=1", "joint.steps_per_epoch=3", "flows.epochs=1", "flows.steps_per_epoch=1"),
    *("evaluation.rows=64", "evaluation.prior_draws=64", "evaluation.importance_rows=4"),
    *("evaluation.importance_draws=20", "sampler.warmup=2", "sampler.draws=2"),
    "classifiers.epochs=2",
)
SETTINGS = [word for setting in SHORT for word in ("--set", setting)]

JUDGES = ("classifier", "autoencoder")
HELD = """
import os, signal, sys

def hold():
    pipe = os.open(os.environ["HELD_PIPE"], os.O_WRONLY)  # open until this process has ended
    os.write(pipe, str(os.getpid()).encode())
    signal.pause()

if os.environ.get("HELD_AT") == "train" and "train" in sys.orig_argv:
    import mvflow.estimators.fitting as fitting
    import mvflow_cli.progress as progress
    fitting.CHECKPOINT_SECONDS, fitting.CHECKPOINT_SHARE = 0.0, 1e9
    progress.LINE_INTERVAL = -1.0
    say = progress.say
    def said_and_held(line, **options):
        say(line, **options)
        if line.startswith("joint epoch 3/"):
            hold()
    progress.say = said_and_held
if os.environ.get("HELD_AT") == "evaluate" and "evaluate" in sys.orig_argv:
    from mvflow_cli.keeping import KeptParts
    put = KeptParts.put
    def put_and_held(self, name, text):
        put(self, name, text)
        if len(list(self._folder.iterdir())) == 2:
            hold()
    KeptParts.put = put_and_held
"""
"""A `sitecustomize` that stops the process of a run at its third epoch, or after two parts."""


def listed(*systems):
    return [word for system in systems for word in ("--system", system)]


@pytest.mark.slow
def test_a_figure_is_made_of_shared_runs_and_a_second_call_trains_nothing(mvflow, store, tmp_path):
    out = tmp_path / "made"
    words = ("reproduce", "figure2", "--store", store, "--out", out, "--seeds", "0")
    words = (*words, *listed("JNF, Gaussian", "JNF"), *SETTINGS)
    found = mvflow(*words, "--jobs", 2, "--json")
    assert found.code == 0, found
    result = json.loads(found.out)
    assert [path.split("/")[-1] for path in result["runs"]] == [
        "jnf-gaussian-seed-0",
        "jnf-seed-0",
    ]
    assert "3 stages are to be trained" in found.err  # the joint stage of both, two of flows
    pictures = [path for path in result["written"] if path.endswith("to-circle.png")]
    assert (out / "figure2-square-to-circle.png").read_bytes()[:4] == b"\x89PNG"
    assert str(out / "figure2-posteriors.png") in result["written"]
    assert (out / "figure2-posteriors.png").read_bytes()[:4] == b"\x89PNG"
    assert len(pictures) == 1
    table = (out / "figure2.md").read_text()
    assert table.count("| JNF, posterior") == 2
    assert "jnf-seed-0" in table
    assert str(out) not in table
    again = mvflow(*words)
    assert again.code == 0
    assert "0 stages are to be trained" in again.out
    assert (out / "figure2.md").read_text() == table


@pytest.mark.slow
def test_runs_are_judged_by_networks_of_ones_own_and_measured_once(mvflow, store, tmp_path):
    """Judges that are kept beside another store; the evaluation that they made is kept."""
    other, out = shutil.copyfile(store, tmp_path / "other.h5"), tmp_path / "made"
    mvflow("train-classifiers", other, "--set", "classifiers.epochs=8")
    judges = [
        word for kind in JUDGES for word in (f"--{kind}s", tmp_path / f"other.{kind}s.safetensors")
    ]
    words = ("reproduce", "figure2", "--store", store, "--out", out, "--seeds", "0")
    words = (*words, *listed("JNF, Gaussian"), *SETTINGS)
    file = out / "runs" / "jnf-gaussian-seed-0" / "metrics" / "evaluation.json"
    for options, is_measured in ((judges, True), (judges, False), ([], True)):
        before = file.stat().st_mtime_ns if file.exists() else 0
        found = mvflow(*words, *options)
        assert found.code == 0, found
        assert (file.stat().st_mtime_ns > before) == is_measured
        networks = json.loads(file.read_text())["networks"]
        assert all("other." in networks.get(kind, "") for kind in JUDGES) == bool(options)


def test_a_dry_run_says_how_much_there_is_to_do_and_leaves_nothing(mvflow, store, tmp_path):
    out = tmp_path / "made"
    words = ("reproduce", "figure2", "--store", store, "--out", out, "--seeds", "0,1")
    found = mvflow(*words, *listed("JNF"), *SETTINGS, "--dry-run")
    assert found.code == 0, found
    assert "2 runs of JNF; 4 stages are to be trained" in found.out
    assert "training takes at most about" in found.out
    assert list(tmp_path.iterdir()) == []


def test_a_finished_stage_that_runs_share_is_not_announced_again(trained, make, store, capsys):
    other = make("other", "--posterior", "gaussian")
    jobs = [Job(path.name, path, evaluate=True) for path in (trained, other)]
    wanted = reproduction("figure2")
    specs = wanted.runs("toy", [0], ["JNF", "JNF, Gaussian"])
    capsys.readouterr()
    _announce(wanted, jobs, specs, store, "cpu", 1, err=False)
    said = capsys.readouterr().out
    assert "2 runs of 'JNF', 'JNF, Gaussian'; 1 stages are to be trained" in said
    assert "(2 of 3 done before)" in said


def test_the_list_names_the_systems_of_each_table_and_figure(mvflow):
    lines = mvflow("reproduce", "list").out.splitlines()
    (line,) = [line for line in lines if line.startswith("figure2: ")]
    assert line.endswith("systems 'JNF, Gaussian', 'JNF', 'JNF-Shared (DCCA)'")


@pytest.mark.slow
def test_the_measured_steps_are_not_blamed_for_what_they_do_not_teach(store, tmp_path, caplog):
    """A contrastive projector warns where it tells nothing apart, as after four steps."""
    settings = ("system=jnf-shared", "projector=contrastive", "projectors.learning_rate=0.0001")
    make_runs({"run": settings}, tmp_path, store, "toy")
    with Store.open(store) as opened:
        seconds = stage_seconds(
            Job("run", tmp_path / "run", evaluate=False), opened["train"], "cpu"
        )
    assert seconds["projectors"] > 0
    assert not caplog.records


@pytest.mark.bad_input
def test_wrong_words_are_refused_before_anything_is_made(refused, store, tmp_path):
    start = ("reproduce", "figure2", "--out", tmp_path / "made")
    assert "--store toy.h5" in refused(*start, code=2)
    where = (*start, "--store", store)
    assert "twice" in refused(*where, "--seeds", "1,1", code=2)
    assert "positive numbers" in refused(*where, "--betas", "0.5,-1", code=2)
    assert "did you mean 'JNF'" in refused(*where, "--system", "JNFF", code=2)
    line = refused(*where, "--system", "jnf-gaussian", code=2)
    assert "did you mean 'JNF, Gaussian'? Known: 'JNF', 'JNF, Gaussian', 'JNF-Sh" in line
    line = refused(*where, "--set", "flow.epochs=2", *listed("JNF"), code=2)
    assert "did you mean 'flows'?" in line
    assert "--variant" not in line
    assert "did you mean 'figure2'" in refused("reproduce", "figure22", code=2)
    table1 = ("reproduce", "table1", "--store", store)
    assert "needs a store of mnist-svhn" in refused(*table1, code=2)
    assert "did you mean 'paper'" in refused(*where, "--protocol", "papr", code=2)
    assert "--small is recipe toy" in refused(*where, "--small", "--recipe", "toy", code=2)
    assert "have no modality 'm0'" in refused(*where, "--recipe", "polymnist", code=1)
    assert "did you mean 'toy'" in refused(*where, "--recipe", "tony", code=2)
    assert "did you mean 'circle'" in refused(*where, "--given", "circl", code=2)
    some = ("--given", "circle", "--given", "square")
    assert "none is left to generate" in refused(*where, *some, code=2)
    assert "names 'JNF' twice" in refused(*where, *listed("JNF", "JNF"), code=2)
    for key in ("seed=3", "system=mvae"):
        line = refused(*where, "--set", key, code=2)
        assert f"--set {key}: the runs differ by" in line
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "made").touch()
    assert "made is a file; choose another --out" in refused(*where, *listed("JNF"), code=2)


@pytest.mark.bad_input
def test_wrong_judges_are_refused_before_anything_is_made(refused, store, tmp_path, mvflow):
    wrong = tmp_path / "judges" / "clf_circle.pth"
    wrong.parent.mkdir()
    torch.save({"fc.weight": torch.zeros(10, 4)}, wrong)
    made = ("--out", tmp_path / "made")
    for start in (
        ("reproduce", "figure2", "--store", store, *made, *listed("JNF")),
        ("sweep", store, "--recipe", "toy", "--evaluate", *made),
    ):
        assert "no classifier for 'square': name" in refused(
            *start, "--classifiers", wrong, code=2
        )
        both = [
            word for name in ("circle", "square") for word in ("--classifiers", f"{name}={wrong}")
        ]
        assert "holds no classifier that is known" in refused(*start, *both, code=1)
        missing = ("--autoencoders", tmp_path / "missing")
        assert "there is no file" in refused(*start, *missing, code=1)
    assert not (tmp_path / "made").exists()
    alone = ("sweep", store, "--recipe", "toy", *made, "--inception", wrong)
    assert "--inception is for evaluations: say --evaluate" in refused(*alone, code=2)


def test_a_run_made_before_a_setting_had_a_default_is_the_same_run(mvflow, store, tmp_path):
    """Its file lacks the setting, whose default is what `mvflow new` writes today."""
    words = (
        "sweep",
        store,
        "--recipe",
        "toy",
        "--set",
        "joint.epochs=0",
        "--set",
        "flows.epochs=0",
    )
    out = tmp_path / "a"
    make_runs({"run": ["joint.epochs=0", "flows.epochs=0"]}, out, store, "toy")
    config = out / "run" / "config.toml"
    text = config.read_text()
    older = text.replace('output = "identity"\n', "", 1)
    assert older != text
    config.write_text(older)
    found = mvflow(*words, "--out", out)
    assert found.code == 0, found
    assert config.read_text() == older


def kill_when_held(process, pipe):
    """Wait until a process of `process` says its number; kill both, and wait for their end."""
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while not select.select([reader], [], [], 0.1)[0] or not (number := os.read(reader, 99)):
            assert process.poll() is None, process.communicate()
        process.kill()
        process.wait()
        os.kill(int(number), signal.SIGKILL)
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""  # its end of the pipe is closed
    finally:
        os.close(reader)


@pytest.mark.slow
def test_a_killed_reproduction_gives_the_table_of_an_undisturbed_one(
    mvflow, started, store, tmp_path, monkeypatch
):
    settings = [*SETTINGS, "--set", "joint.epochs=5"]
    start = ("reproduce", "figure2", "--store", store, "--seeds", "0", *settings)
    start = (*start, *listed("JNF, Gaussian"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert mvflow(*start, "--out", whole).code == 0
    hooks, pipe = tmp_path / "hooks", tmp_path / "pipe"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(HELD)
    os.mkfifo(pipe)
    run = RunDirectory(killed / "runs" / "jnf-gaussian-seed-0")
    for key, value in {"PYTHONPATH": str(hooks), "HELD_PIPE": str(pipe)}.items():
        monkeypatch.setenv(key, value)
    for moment in ("train", "evaluate"):
        monkeypatch.setenv("HELD_AT", moment)
        kill_when_held(started(*start, "--out", killed), pipe)
        if moment == "train":
            assert run.checkpoint("joint").exists()
            assert not run.weights("joint").exists()
    assert len([*(run.path / "metrics" / "parts").rglob("*.json")]) == 2
    monkeypatch.setenv("HELD_AT", "never")
    found = mvflow(*start, "--out", killed)
    assert found.code == 0, found
    assert "0 stages are to be trained" in found.out
    assert (killed / "figure2.md").read_bytes() == (whole / "figure2.md").read_bytes()
    assert (killed / "figure2.json").read_bytes() == (whole / "figure2.json").read_bytes()
    undisturbed = RunDirectory(whole / "runs" / run.path.name)
    ours, theirs = (read_json(r.path / "metrics" / "evaluation.json") for r in (run, undisturbed))
    assert ours == theirs
    ours, theirs = ([(r["stage"], r["epoch"]) for r in r.history()] for r in (run, undisturbed))
    assert ours == theirs
