"""Training that is stopped: by Ctrl-C, by SIGTERM, by a crash. Real processes, real signals."""

import errno
import os
import signal
import tempfile
from pathlib import Path

import pytest

from mvflow.runs import RunDirectory, read_tensors
from mvflow_cli.subprocesses import LOCKED

DRIVER = (
    "import mvflow.estimators.fitting as fitting; fitting.CHECKPOINT_SECONDS = 0.0; "
    "fitting.CHECKPOINT_SHARE = 1e9; import mvflow_cli.progress as progress; "
    "progress.LINE_INTERVAL = -1.0; from mvflow_cli.main import main; main()"
)
"""The command, with a checkpoint and a line after every epoch."""

HELD = f"""
import os, signal, mvflow_cli.progress as progress
say = progress.say
def said_and_held(line, **options):
    say(line, **options)
    if line.startswith(os.environ["HELD_AT"]):
        signal.pause()
progress.say = said_and_held
{DRIVER}"""
"""The same, which goes no further than the line that begins with $HELD_AT."""


def wait_for(process, text):
    """Read the process's output up to the line that begins with `text`."""
    for line in process.stdout:
        if line.startswith(text):
            return
    pytest.fail(f"no line {text!r}; stderr: {process.stderr.read()}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_last_epoch(mvflow, refused, make, started, number):
    path = make("run", settings=["joint.epochs=1000000"])
    process = started("train", path, program=("-c", DRIVER))
    wait_for(process, "joint epoch 2/")
    assert "another process is training" in refused("train", path, code=LOCKED)
    process.send_signal(number)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert err.splitlines() == [
        f"mvflow: interrupted; all full epochs are kept: go on with 'mvflow train {path}'"
    ]
    run = RunDirectory.open(path)
    _, about = read_tensors(run.checkpoint("joint"))
    assert about["state"]["epoch"] >= 2
    assert not run.weights("joint").exists()
    assert not list(run.checkpoint("joint").parent.glob(".*"))
    assert "is not finished" in refused("sample", path, code=1)


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(mvflow, make, started, monkeypatch):
    settings = ["joint.epochs=9", "flows.epochs=9", "flows.patience=4"]
    whole, killed = make("whole", settings=settings), make("killed", settings=settings)
    assert mvflow("train", whole).code == 0
    run = RunDirectory(killed)
    for stage in ("joint", "flows"):
        monkeypatch.setenv("HELD_AT", f"{stage} epoch 3/9")
        process = started("train", killed, program=("-c", HELD))
        wait_for(process, f"{stage} epoch 3/9")
        process.kill()
        _, err = process.communicate()
        newest = run.checkpoint("joint")
        if stage == "joint":
            assert err == ""
            newest.write_bytes(newest.read_bytes()[:-1])
        else:
            (line,) = err.splitlines()
            assert line.startswith(f"{newest} is missing or damaged (")
            assert line.endswith("): going on from the checkpoint before it")
    found = mvflow("train", killed)
    assert found.code == 0, found
    assert "flows: unfinished" in found.out
    assert "flows epoch 1/9" not in found.out
    runs = RunDirectory(whole), RunDirectory(killed)
    for stage in ("joint", "flows"):
        ours, theirs = (read_tensors(run.weights(stage))[0] for run in runs)
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name].numpy().tobytes() == theirs[name].numpy().tobytes(), name
    ours, theirs = ([(r["stage"], r["epoch"], r["loss"]) for r in run.history()] for run in runs)
    assert ours == theirs


def test_a_directory_that_cannot_be_written_is_one_line(refused, make, monkeypatch):
    path = make("run")

    def refuse(**options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert refused("train", path, code=1) == f"mvflow: cannot write {path}: read-only file system"


@pytest.mark.parametrize("file", ["history.jsonl", "joint.safetensors", "manifest.json"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    mvflow, refused, make, file, monkeypatch
):
    path = make("run")

    def full(write):
        def limited(at, *args, **options):
            if file in at.name and (write.__name__ != "open" or "a" in args):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(at, *args, **options)

        return limited

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "write_text", "open"):
            patch.setattr(Path, name, full(getattr(Path, name)))
        line = refused("train", path, code=1)
    assert line == (
        f"mvflow: cannot write {path / file}: the disk is full; nothing that was there is lost"
    )
    assert [p.name for p in path.rglob(".*")] == [".lock"]
    assert mvflow("train", path).code == 0


def test_a_damaged_manifest_is_one_line(refused, make):
    path = make("run")
    (path / "manifest.json").write_text('{"stages": {')
    assert f"{path / 'manifest.json'} is damaged" in refused("train", path, code=1)
