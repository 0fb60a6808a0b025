"""Two processes give what one gives: real processes over gloo, started as torchrun starts them.

Run as a program, this file is one of the two processes.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mvflow.config import stage_names
from mvflow.core import Modality, StageError, UsageError
from mvflow.estimators import JNF, JNFShared, load
from mvflow.models import build_model
from mvflow.runs import RunDirectory, read_tensors, write_tensors
from mvflow.training import (
    Table,
    TensorColumn,
    build_stage,
    check_devices,
    connect,
    distributed,
    finish_stage,
    run_stage,
)

ROWS = 120
MODALITIES = Modality("image", (1, 4, 4)), Modality("vector", (3,))
TRAIN = {"epochs": 3, "batch_size": 33, "learning_rate": 1e-2}  # parts of 16 and 17 rows
NORMALISED = {"kind": "layers", "layers": [{"channels": 3}], "norm": "batch"}


def estimator(kind=JNF, **changes):
    small = {"hidden": [8], "summary_hidden": [8], "context": 2}
    sections = {
        "joint": {**TRAIN, "merge": [8]},
        "flows": {**TRAIN, **small, "patience": 1},
        "amortised": {**TRAIN, **small, "embedding": 4},
        "sampler": {"warmup": 4, "draws": 2, "chains": 2, "candidates": 8, "num_steps": 2},
        "networks": {
            "image": {"encoder": NORMALISED, "projector": NORMALISED},
            "vector": {"encoder": {"kind": "mlp", "hidden": [8]}},
        },
    }
    return kind(MODALITIES, 2, **(sections | changes))


def train(path, processes=None):
    """Train all stages of a run's configuration, and return all weights.

    In float64, but for the amortised posterior, which is float32 throughout.
    """
    config = RunDirectory.open(path).config()
    data = np.load(path.parent / "data.npz")
    dtype = torch.float32 if config.subset == "amortised" else torch.float64
    columns = {k: TensorColumn(torch.from_numpy(v).to(dtype), None) for k, v in data.items()}
    model = build_model(config).to(dtype)
    for name in stage_names(config):
        model.eval().requires_grad_(False)
        model.stage_module(name).requires_grad_(True)
        stage = build_stage(name, model, config, Table(columns, ROWS))
        run_stage(stage if processes is None else processes.prepare(stage), seed=1)
        finish_stage(name, model, stage.train)
    return model.state_dict()


def results(trained, folder):
    """Draws from a product over two chunks of rows, decoded, and log-likelihoods."""
    data = dict(np.load(folder / "data.npz"))
    given = {name: np.concatenate([x] * 3) for name, x in data.items()}
    drawn = trained.draw(given, 2, combine=True, seed=3)
    exact = trained.draw({"vector": given["vector"]}, 2).z  # laid out in another order
    scores = trained.log_likelihood({"vector": data["vector"]}, n=5)
    acceptance = drawn.diagnostics.acceptance
    return {
        "z": drawn.z,
        "exact": exact,
        "acceptance": acceptance,
        "scores": scores,
        **trained.decode(drawn.z),
    }


def work(folder):
    """What each of the two processes does."""
    processes = connect(2, timeout=60)
    for path in sorted(folder.glob("exact-*")):
        write_tensors(folder / f"{path.name}.{processes.rank}", train(path, processes), {})
    run = RunDirectory.open(folder / "run")
    trained = load(run.path).across(processes).fit(dict(np.load(folder / "data.npz")), run=run)
    np.savez(folder / f"results-{processes.rank}.npz", **results(trained, folder))
    with pytest.raises(StageError, match="rows differ: they need the same data"):
        processes.agree(processes.rank, "rows differ")
    processes.barrier()


EXACT = {
    "amortised": {"subset": "amortised"},
    "contrastive": {"kind": JNFShared, "projectors": {**TRAIN, "dim": 2, "dropout": 0.2}},
    "dcca": {
        "kind": JNFShared,
        "projectors": {**TRAIN, "batch_size": 41, "dim": 2, "kind": "dcca"},
        "data": {"validation": 0.2},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes have left behind."""
    pytest.importorskip("lightning_fabric", reason="needs mvflow[distributed]")
    folder = tmp_path_factory.mktemp("two")
    rng = np.random.default_rng(0)
    z = rng.normal(size=(ROWS, 1, 1, 1))
    image = z + 0.5 * rng.normal(size=(ROWS, 1, 4, 4))
    vector = z[:, 0, 0] + 0.5 * rng.normal(size=(ROWS, 3))
    data = {"image": image.astype(np.float32), "vector": vector.astype(np.float32)}
    np.savez(folder / "data.npz", **data)
    for name, changes in EXACT.items():
        RunDirectory.create(folder / f"exact-{name}", estimator(**changes).config)
    RunDirectory.create(folder / "run", estimator().config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    settings = {**os.environ, **place, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    with (folder / "0.log").open("w") as first, (folder / "1.log").open("w") as second:
        started = [
            subprocess.Popen(
                [sys.executable, __file__, str(folder)],
                env={**settings, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=log,
            )
            for rank, log in enumerate((first, second))
        ]
        codes = [process.wait() for process in started]
    assert codes == [0, 0], "".join((folder / f"{rank}.log").read_text() for rank in (0, 1))
    return folder


@pytest.mark.parametrize("name", EXACT)
def test_weights_are_those_of_one_process(folder, name):
    """In float64 only the order of sums differs; Adam can enlarge that to 1e-16 / its eps 1e-8.

    The contrastive objective and the amortised posterior are computed in float32.
    """
    expected = train(folder / f"exact-{name}")
    ours, theirs = (read_tensors(folder / f"exact-{name}.{rank}")[0] for rank in (0, 1))
    tolerance = 1e-7 if name == "dcca" else 1e-4
    for key, value in expected.items():
        assert torch.equal(ours[key], theirs[key]), key  # the processes do not drift apart
        torch.testing.assert_close(ours[key], value, rtol=tolerance, atol=tolerance, msg=key)


def test_draws_and_scores_are_those_of_one_process_to_the_bit(folder):
    expected = results(load(folder / "run"), folder)
    for rank in (0, 1):
        found = np.load(folder / f"results-{rank}.npz")
        assert {*found} == {*expected}
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, name)


def test_a_run_directory_holds_what_one_process_would_have_written(folder, tmp_path):
    data = dict(np.load(folder / "data.npz"))
    alone = RunDirectory.create(tmp_path / "run", estimator().config)
    load(alone.path).fit(data, run=alone)
    ours, theirs = (run.history() for run in (RunDirectory(folder / "run"), alone))
    assert [(r["stage"], r["epoch"]) for r in ours] == [(r["stage"], r["epoch"]) for r in theirs]
    for name in ("loss", "learning_rate"):
        found, expected = ([r[name] for r in history] for history in (ours, theirs))
        np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32, order of summation


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "devices=0, nodes=1: expected 1 or more"),
        ({"device": "cuda:1"}, "take 'cpu' or 'cuda', one GPU each"),
        ({"device": "cuda", "devices": 99}, "devices=99, but this machine has"),
        ({"strategy": "dpp"}, "unknown strategy 'dpp': did you mean 'ddp'"),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_joined_is_refused(options, message):
    settings = {"devices": 2, "nodes": 1, "device": "cpu", "strategy": "ddp"}
    with pytest.raises(UsageError, match=message):
        check_devices(**(settings | options))


def test_without_fabric_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setattr(distributed, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'mvflow\[distributed\]'"):
        connect(2)


def test_one_process_needs_no_fabric():
    found = subprocess.run(
        [sys.executable, "-c", "import sys, mvflow.training; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "lightning_fabric" not in found.stdout.split()


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[1]))
