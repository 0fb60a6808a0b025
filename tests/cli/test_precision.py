"""`--precision` and `--compile`: chosen, said, written down, and no other result."""

import pytest

from mvflow.estimators import fitting
from mvflow.runs import RunDirectory, read_tensors
from mvflow.training import precision


@pytest.fixture
def faster(monkeypatch):
    """Let every measurement find bfloat16 so many times as fast."""

    def call(times):
        monkeypatch.setattr(
            precision,
            "_seconds",
            lambda stage: times if stage.settings.precision == "float32" else 1.0,
        )

    return call


def precisions(path):
    config = RunDirectory.open(path).config()
    return config.joint.precision, config.flows.precision


def test_auto_takes_what_is_faster_and_writes_it_down(mvflow, make, faster):
    path = make("a")
    faster(1.5)
    found = mvflow("train-joint", path, "--precision", "auto")
    assert found.code == 0, found
    assert "joint: bfloat16 is 1.50 times as fast on this CPU: bfloat16" in found.out
    assert "config.toml: joint.precision = 'bfloat16'" in found.out
    assert precisions(path) == ("bfloat16", "float32")
    faster(1.1)
    found = mvflow("train", path, "--precision", "auto")
    assert "flows: bfloat16 is 1.10 times as fast on this CPU: float32" in found.out
    assert "joint: done already" in found.out  # what is trained is not measured again
    assert precisions(path) == ("bfloat16", "float32")
    found = mvflow("train-flows", path, "--again", "--precision", "auto", "--json")
    assert "flows: bfloat16 is 1.10 times as fast" in found.err


def test_a_stage_with_a_checkpoint_goes_on_in_its_precision(mvflow, make, faster, monkeypatch):
    def interrupted(*args, **options):
        run_stage(*args, **options)
        raise KeyboardInterrupt

    path = make("a")
    run_stage = fitting.run_stage
    monkeypatch.setattr(fitting, "run_stage", interrupted)
    assert mvflow("train-joint", path).code == 1
    monkeypatch.setattr(fitting, "run_stage", run_stage)
    faster(9.0)
    found = mvflow("train-joint", path, "--precision", "auto")
    assert found.code == 0, found
    assert "times as fast" not in found.out
    assert "joint: unfinished: goes on where it was" in found.out
    assert precisions(path) == ("float32", "float32")


def test_a_sweep_in_bfloat16_keeps_its_names(mvflow, store, tmp_path):
    short = ("joint", "flows")
    words = [
        w for s in short for w in ("--set", f"{s}.epochs=1", "--set", f"{s}.steps_per_epoch=1")
    ]
    out = tmp_path / "sweep"
    words += ["--recipe", "toy", "--seeds", "3", "--out", out, "--precision", "bfloat16"]
    found = mvflow("sweep", store, *words)
    assert found.code == 0, found
    assert precisions(out / "seed=3") == ("bfloat16", "bfloat16")


def test_a_captured_step_trains_the_same_weights(mvflow, make):
    paths = make("a"), make("b")
    for path, way in zip(paths, ("no", "graph"), strict=True):
        found = mvflow("train", path, "--compile", way)
        assert found.code == 0, found
        assert ("stage joint: steps are captured" in found.out) == (way == "graph")
    for stage in ("joint", "flows"):
        a, b = (read_tensors(RunDirectory(path).weights(stage))[0] for path in paths)
        assert all((a[name] == b[name]).all() for name in a.keys() | b.keys())


@pytest.mark.bad_input
def test_unknown_names_are_refused(refused, trained, store):
    line = refused("train", trained, "--compile", "grpah", code=2)
    assert "unknown way to compile 'grpah': did you mean 'graph'?" in line
    line = refused("train", trained, "--precision", "bfloat", code=2)
    assert "unknown precision 'bfloat': did you mean 'bfloat16'?" in line
    line = refused("sweep", store, "--recipe", "toy", "--precision", "auto", code=2)
    assert "unknown precision 'auto'" in line
