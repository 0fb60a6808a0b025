"""Data-parallel training: real processes over gloo, started as torchrun starts them.

Run as a program, this file is one of the two processes.
"""

import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed import TCPStore

from mvflow import JNF
from mvflow.config import Training
from mvflow.core import Modality, NumericsError, StageError, UsageError
from mvflow.estimators import load
from mvflow.functional import pairwise_info_nce, pairwise_total_correlation
from mvflow.nn import all_gather, seeded
from mvflow.runs import RunDirectory
from mvflow.stages import Losses
from mvflow.training import (
    NoOpCallback,
    Stage,
    Table,
    TensorColumn,
    check_devices,
    connect,
    launch,
    loop,
    run_stage,
)

ROWS = 64
MODALITIES = Modality("image", (1, 4, 4)), Modality("vector", (3,))
SETTINGS = Training(epochs=3, batch_size=16, learning_rate=1e-2)


def table(rows=ROWS):
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x.sum(1, keepdim=True).sin()
    columns = {"x": x, "y": y, "row": torch.arange(rows)}
    return Table({name: TensorColumn(v, None) for name, v in columns.items()}, rows)


def stage(loss, *, norm=False, settings=SETTINGS, validation=True):
    """Two networks in float64; `loss` maps them, a batch and the progress to losses."""
    with seeded(0, "network"):
        middle = [nn.BatchNorm1d(8)] if norm else []
        layers = nn.Linear(3, 8), *middle, nn.Tanh(), nn.Linear(8, 2)
        module = nn.ModuleDict({"f": nn.Sequential(*layers), "unused": nn.Linear(1, 3)}).double()
        module["g"] = nn.Linear(1, 2).double()
    held = table().subset(np.arange(16)) if validation else None
    call = lambda batch, progress: loss(module, batch, progress)  # noqa: E731
    return Stage("projectors", module, call, settings, table(), held)


def row_wise(module, batch, progress):
    error = (module["f"](batch["x"]) - batch["y"]).square().mean()
    return Losses(error, {"error": error})


def objective(function):
    """A loss of all pairs of rows, or of their covariance."""

    def loss(module, batch, progress):
        views = [module["f"](batch["x"]), module["g"](batch["y"])]
        total = function([all_gather(view) for view in views])
        return Losses(total, {"objective": total})

    return loss


def noisy(module, batch, progress):
    noise = torch.randn(len(batch["x"]), 3, dtype=torch.float64)
    total = (module["f"](batch["x"] + noise) - batch["y"]).square().mean()
    halves = all_gather(noise).chunk(2)
    return Losses(total, {"equal": (halves[0] == halves[1]).any().double()})


def spoiled(module, batch, progress):
    """Not finite in one row late in training, which one of the processes has."""
    total, terms = row_wise(module, batch, progress)
    hit = (batch["row"] == 17).any() and progress >= 1 / 3
    return Losses(total * (torch.nan if hit else 1.0), terms)


class Recorder(NoOpCallback):
    def __init__(self):
        self.records, self.within = [], []

    def on_step(self, record, checkpoint):
        self.within.append(checkpoint())

    def on_epoch(self, record, checkpoint):
        self.records.append(record[:6])  # without what was measured of the speed


EXACT = {
    "row-wise": row_wise,
    "contrastive": objective(partial(pairwise_info_nce, temperature=0.5)),
    "dcca": objective(lambda views: -pairwise_total_correlation(views, 1e-3)),
}


def train(made, processes=None, **options):
    recorder = Recorder()
    run_stage(made, seed=1, callback=recorder, processes=processes, **options)
    weights = {name: v.numpy() for name, v in made.trainable.state_dict().items()}
    return weights, recorder


def estimator():
    sections = {
        "joint": {"epochs": 2, "batch_size": 32, "merge": [8]},
        "posterior": {"kind": "maf", "hidden": [8]},
        "flows": {"epochs": 2, "batch_size": 32, "summary_hidden": [8]},
        "sampler": {
            **{"kind": "hmc", "warmup": 4, "draws": 2},
            **{"chains": 2, "candidates": 8, "num_steps": 2},
        },
    }
    return JNF(MODALITIES, 2, **sections)


def results(trained, folder):
    """Draws from a product over two chunks of rows, decoded, and log-likelihoods."""
    data = dict(np.load(folder / "data.npz"))
    given = {name: np.concatenate([x] * 5) for name, x in data.items()}
    drawn = trained.draw(given, 2, combine=True, seed=3)
    exact = trained.draw({"vector": given["vector"]}, 2).z
    scores = trained.log_likelihood({"vector": data["vector"]}, n=5)
    acceptance = drawn.diagnostics.acceptance
    decoded = trained.decode(drawn.z)
    return {"z": drawn.z, "exact": exact, "acceptance": acceptance, "scores": scores, **decoded}


def work(folder):
    """What each of the two processes does."""
    loop.REPORT_INTERVAL = -1.0
    processes = connect(2, timeout=600)
    found = {name: train(stage(loss), processes)[0] for name, loss in EXACT.items()}
    found["normalised"] = train(stage(row_wise, norm=True), processes)[0]
    weights, recorder = train(stage(noisy, norm=True), processes)
    found["noisy"], found["records"] = weights, recorder.records
    # Only the main process has checkpoints, as in a run directory.
    resume = recorder.within[5] if processes.is_main_process else None
    found["resumed"], rest = train(stage(noisy, norm=True), processes, resume=resume)
    found["rest"] = rest.records
    made = stage(spoiled)
    with pytest.raises(NumericsError) as caught:
        run_stage(made, seed=1, processes=processes)
    found["spoiled"] = str(caught.value)
    with pytest.raises(StageError, match="rows differ: they need the same data"):
        processes.assert_same_on_all_ranks(processes.rank, "rows differ")
    with pytest.raises(UsageError, match="1 rows a batch are too few for 2 processes"):
        run_stage(stage(row_wise, settings=Training(batch_size=1)), processes=processes)
    run = RunDirectory.open(folder / "run")
    trained = load(run.path).distribute(processes).fit(dict(np.load(folder / "data.npz")), run=run)
    found["results"] = results(trained, folder)
    (folder / f"{processes.rank}.pickle").write_bytes(pickle.dumps(found))
    processes.barrier()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes have left what they found."""
    pytest.importorskip("lightning_fabric", reason="needs mvflow[distributed]")
    folder = tmp_path_factory.mktemp("two")
    rng = np.random.default_rng(0)
    z = rng.normal(size=(120, 1, 1, 1))
    image = z + 0.5 * rng.normal(size=(120, 1, 4, 4))
    vector = z[:, 0, 0] + 0.5 * rng.normal(size=(120, 3))
    data = {"image": image.astype(np.float32), "vector": vector.astype(np.float32)}
    np.savez(folder / "data.npz", **data)
    RunDirectory.create(folder / "run", estimator().config)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun has it
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    place |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    quiet = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    settings = {**os.environ, **place, **quiet, "WORLD_SIZE": "2"}
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
    logs = [(folder / f"{rank}.log").read_text() for rank in (0, 1)]
    assert codes == [0, 0], "".join(logs)
    assert logs == ["", ""]
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_without_noise_the_weights_are_those_of_one_process(found, name):
    """Gradients of means over rows, and of objectives of all rows, are those of the whole batch.

    Only the order of sums differs; Adam can enlarge that to 1e-16 / its eps 1e-8. The last bias
    of DCCA's projectors does not change its value, so its gradient is rounding alone; the
    contrastive objective is computed in float32.
    """
    expected, _ = train(stage(EXACT[name]))
    tolerance = 1e-3 if name == "contrastive" else 1e-6
    for key, value in expected.items():
        if name == "dcca" and key in ("f.2.bias", "g.bias"):
            continue
        np.testing.assert_allclose(found[0][name][key], value, tolerance, tolerance, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EXACT, "normalised", "noisy"])
def test_all_processes_end_with_the_same_weights_and_buffers(found, name):
    for key, value in found[0][name].items():
        np.testing.assert_array_equal(found[1][name][key], value, key)


@pytest.mark.slow
def test_each_process_draws_noise_of_its_own(found):
    assert all(terms["equal"] == 0.0 for _, _, _, terms, _, _ in found[0]["records"])


@pytest.mark.slow
def test_the_history_is_the_same_in_all_processes(found):
    assert found[0]["records"] == found[1]["records"]


@pytest.mark.slow
def test_resuming_with_as_many_processes_is_exact(found):
    for key, value in found[0]["noisy"].items():
        np.testing.assert_array_equal(found[0]["resumed"][key], value, key)
    assert found[0]["rest"] == found[0]["records"][1:]


@pytest.mark.slow
def test_a_nan_in_one_process_is_named_by_all(found):
    with pytest.raises(NumericsError) as alone:
        train(stage(spoiled))
    assert found[0]["spoiled"] == found[1]["spoiled"] == str(alone.value)


@pytest.mark.slow
def test_draws_and_scores_are_those_of_one_process_to_the_bit(found, folder):
    expected = results(load(folder / "run"), folder)
    for each in found:
        assert {*each["results"]} == {*expected}
        for name, value in expected.items():
            np.testing.assert_array_equal(each["results"][name], value, name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "devices=0, nodes=1: expected 1 or more"),
        ({"device": "cuda:1"}, "take 'cpu' or 'cuda', one GPU each"),
        ({"device": "cuda", "devices": 99}, "devices=99, but this machine has"),
    ],
)
@pytest.mark.bad_input
def test_what_cannot_be_joined_is_refused(options, message):
    settings = {"devices": 2, "nodes": 1, "device": "cpu"}
    with pytest.raises(UsageError, match=message):
        check_devices(**(settings | options))


@pytest.mark.bad_input
def test_several_processes_do_not_compile():
    with pytest.raises(UsageError, match="compile='graph' is for one process"):
        run_stage(stage(row_wise), compile="graph", processes=object())


def test_without_fabric_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
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
