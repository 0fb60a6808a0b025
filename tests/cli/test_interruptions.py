"""Training that is stopped: by Ctrl-C, by SIGTERM, by a crash. Real processes, real signals."""

import signal

import pytest

from mvflow.runs import RunDirectory, read_tensors

DRIVER = (
    "import mvflow.estimators.fitting as fitting; fitting.CHECKPOINT_EVERY = 0.0; "
    "from mvflow_cli.main import main; main()"
)


def wait_for(process, text):
    """Read the process's output up to the line that begins with `text`."""
    for line in process.stdout:
        if line.startswith(text):
            return
    pytest.fail(f"no line {text!r}; stderr: {process.stderr.read()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_last_epoch(mvflow, refused, make, started, number):
    path = make("run", settings=["joint.epochs=5000"])
    process = started("train", path)
    wait_for(process, "joint epoch 2/5000")
    assert "another process is training" in refused("train", path, code=1)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
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


def test_a_killed_run_ends_as_if_it_had_not_been(mvflow, make, started):
    settings = ["joint.epochs=9", "flows.epochs=9", "flows.patience=4"]
    whole, killed = make("whole", settings=settings), make("killed", settings=settings)
    assert mvflow("train", whole).code == 0
    for line in ("joint epoch 3/9", "flows epoch 3/9"):
        process = started("train", killed, program=("-c", DRIVER))
        wait_for(process, line)
        process.kill()
        process.communicate()
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
