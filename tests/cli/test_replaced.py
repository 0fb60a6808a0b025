"""Weights that are not those that a run records."""

import re
import shlex

from mvflow.runs import RunDirectory, read_tensors, write_tensors


def test_the_command_that_the_refusal_names_trains_them_anew(mvflow, refused, trained, copied):
    """The stage is trained from its seed, so the file is that of the untouched run."""
    path = RunDirectory.open(copied).weights("joint")
    tensors, about = read_tensors(path)
    write_tensors(path, {name: 0 * value for name, value in tensors.items()}, about)
    line = refused("train", copied, code=1)
    assert "joint.safetensors is not the file that manifest.json records" in line
    command = re.search(r"'mvflow (.*)'", line)[1]
    assert mvflow(*shlex.split(command)).code == 0
    assert path.read_bytes() == RunDirectory.open(trained).weights("joint").read_bytes()
    assert mvflow("train", copied).out.count("done already") == 2
