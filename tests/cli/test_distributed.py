"""`--devices 2`: one process more, one process lost, and what cannot be had."""

import os
import signal
from pathlib import Path

import pytest

from mvflow.runs import RunDirectory, read_tensors

DRIVER = (  # imports torch before the command can set its log level
    "import os; os.environ['TORCH_CPP_LOG_LEVEL'] = 'ERROR'; "
    "import mvflow.estimators.fitting as fitting; fitting.CHECKPOINT_SECONDS = 0.0; "
    "fitting.CHECKPOINT_SHARE = 1e9; import mvflow_cli.progress as progress; "
    "progress.LINE_INTERVAL = -1.0; from mvflow_cli.main import main; main()"
)
GROUP = (  # of one process
    "import torch.distributed as d; "
    "d.init_process_group('gloo', store=d.HashStore(), rank=0, world_size=1); "
)


def children(process):
    """Processes that a process has started."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_the_run_goes_on(mvflow, make, started):
    pytest.importorskip("lightning_fabric", reason="needs mvflow[distributed]")
    path = make("run", settings=["joint.epochs=1000000", "joint.steps_per_epoch=2"])
    words = ("train", path, "--devices", "2")
    process = started(*words, program=("-c", DRIVER))
    for line in process.stdout:
        if line.startswith("joint epoch 3/"):
            break
    (child,) = children(process)
    os.kill(child, signal.SIGKILL)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 1, err
    assert err.splitlines() == [
        "mvflow: process 0 of 2: another process has ended; the newest checkpoint is kept: "
        f"go on with 'mvflow train {path}'"
    ]
    assert "Traceback" not in out
    run = RunDirectory.open(path)
    _, about = read_tensors(run.checkpoint("joint"))
    assert about["state"]["epoch"] >= 2
    done = len(run.history())
    process = started("train", path, program=("-c", DRIVER))
    for line in process.stdout:
        if line.startswith("joint epoch"):
            break
    assert int(line.split()[2].split("/")[0]) in (done, done + 1)


@pytest.mark.parametrize(("group", "code"), [("", 99), (GROUP, 2)])
def test_a_failure_beside_other_processes_ends_without_destructors(started, group, code):
    """What ends at exit, such as the threads of a group whose peer is lost, may abort: 99 here."""
    driver = (
        "import atexit, os; os.environ['TORCH_CPP_LOG_LEVEL'] = 'ERROR'; "
        f"atexit.register(os._exit, 99); {group}"
        "from mvflow_cli.main import main; main()"
    )
    process = started("list", "nothing", program=("-c", driver))
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    assert err.startswith("mvflow: "), err
    assert not out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--devices", "0"), "--devices"),
        (("--devices", "2", "--device", "cuda:7"), "cuda:7"),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_had_is_one_line(refused, trained, words, message):
    assert message in refused("train", trained, *words, code=2)


@pytest.mark.bad_input
def test_without_fabric_it_is_said_how_to_install_it(refused, trained, monkeypatch):
    monkeypatch.setattr("mvflow.training.launch.find_spec", lambda name: None)
    found = refused("train", trained, "--devices", "2", code=2)
    assert "pip install 'mvflow[distributed]'" in found
