"""The command in this process, a small toy store, and a run that is trained on it in seconds."""

import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mvflow_cli.main import run
from mvflow_datasets import find_builder

SHORT = (
    "joint.epochs=1",
    "joint.steps_per_epoch=20",
    "projectors.epochs=1",
    "projectors.steps_per_epoch=3",
    "flows.epochs=1",
    "flows.steps_per_epoch=10",
    "evaluation.rows=64",
    "evaluation.prior_draws=64",
    "evaluation.importance_rows=4",
    "evaluation.importance_draws=20",
    "evaluation.sampler_rows=4",
    "sampler.warmup=5",
    "sampler.draws=5",
    "classifiers.epochs=2",
)


def assignments(*settings):
    """`--set` for each setting."""
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture
def mvflow(capsys):
    """Run a command here: mvflow("train", path) -> code, out, err."""

    def call(*words):
        capsys.readouterr()
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def refused(mvflow):
    """Run a command that must fail: one line on stderr, no result; returns the line."""

    def call(*words, code):
        found = mvflow(*words)
        assert found.code == code, found
        lines = found.err.splitlines()
        assert len(lines) == 1, found.err
        assert lines[0].startswith("mvflow: ")
        assert "Traceback" not in found.err
        assert "unexpected" not in found.err
        return lines[0]

    return call


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A small toy store."""
    path = tmp_path_factory.mktemp("store") / "toy.h5"
    return find_builder("toy").build(path, rows=2000, test_rows=200)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, store):
    """A trained run; tests read from it and write only below samples, metrics and the report."""
    path = tmp_path_factory.mktemp("runs") / "toy"
    words = ["new", str(path), "--recipe", "toy", "--store", str(store), *assignments(*SHORT)]
    assert run(words) == 0
    assert run(["train", str(path)]) == 0
    return path


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the trained run that a test may change."""
    return shutil.copytree(trained, tmp_path / "copy")


@pytest.fixture
def make(mvflow, store, tmp_path):
    """Make an untrained run: make("name", "--model", ..., settings=[...]) -> path."""

    def call(name, *words, settings=()):
        path = tmp_path / name
        found = mvflow(
            *("new", path, "--recipe", "toy", "--store", store),
            *assignments(*SHORT, *settings),
            *words,
        )
        assert found.code == 0, found
        return path

    return call


def _hear_ctrl_c():
    """A test run in the background ignores SIGINT, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def started():
    """Start the command as its own process; what is still running at the end is killed."""
    processes = []

    def call(*words, program=("-m", "mvflow_cli.main"), **options):
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=_hear_ctrl_c,
            **options,
        )
        processes.append(process)
        return process

    yield call
    for process in processes:
        process.kill()
        process.communicate()
