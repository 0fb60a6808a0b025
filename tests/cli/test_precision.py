"""`--precision` and `--compile`: written down, and checked."""

import pytest

from mvflow.runs import RunDirectory, read_tensors


def test_bfloat16_is_written_down_for_the_stages_trained_now(mvflow, make):
    path = make("a")
    found = mvflow("train-joint", path, "--precision", "bfloat16")
    assert found.code == 0, found
    assert "config.toml: joint.precision = 'bfloat16'" in found.out
    config = RunDirectory.open(path).config()
    assert (config.joint.precision, config.flows.precision) == ("bfloat16", "float32")


def test_where_there_are_no_graphs_training_says_so_and_is_eager(mvflow, make):
    paths = make("a"), make("b")
    for path, way in zip(paths, ("no", "graph"), strict=True):
        found = mvflow("train", path, "--compile", way, "--device", "cpu")
        assert found.code == 0, found
        line = "joint: steps are not captured: there are no CUDA graphs on 'cpu'"
        assert (line in found.out) == (way == "graph")
    for stage in ("joint", "flows"):
        a, b = (read_tensors(RunDirectory(path).weights(stage))[0] for path in paths)
        assert all((a[name] == b[name]).all() for name in a.keys() | b.keys())


@pytest.mark.bad_input
def test_unknown_names_are_refused(refused, trained):
    line = refused("train", trained, "--compile", "grpah", code=2)
    assert "unknown way to compile 'grpah': did you mean 'graph'?" in line
    line = refused("train", trained, "--precision", "auto", code=2)
    assert "unknown precision 'auto'" in line
