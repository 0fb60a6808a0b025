"""`--precision` and `--compile`: chosen, said, written down, and no other result."""

import pytest

from mvflow.runs import RunDirectory, read_tensors


def precisions(path):
    config = RunDirectory.open(path).config()
    return config.joint.precision, config.flows.precision


def test_the_precision_of_a_stage_is_said_and_written_down(mvflow, make):
    path = make("a")
    found = mvflow("train-joint", path, "--precision", "bfloat16")
    assert found.code == 0, found
    assert "config.toml: joint.precision = 'bfloat16' (was 'float32')" in found.out
    assert precisions(path) == ("bfloat16", "float32")
    found = mvflow("train", path)
    assert "joint: done already" in found.out
    assert precisions(path) == ("bfloat16", "float32")
    found = mvflow("train", path, "--precision", "bfloat16")
    assert "joint: done already" in found.out
    assert "flows: stale" in found.out
    assert precisions(path) == ("bfloat16", "bfloat16")


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
def test_unknown_names_are_refused(refused, trained):
    line = refused("train", trained, "--compile", "grpah", code=2)
    assert "unknown way to compile 'grpah': did you mean 'graph'?" in line
    line = refused("train", trained, "--precision", "bfloat", code=2)
    assert "unknown precision 'bfloat': did you mean 'bfloat16'?" in line
