"""Every registered system goes through all commands; nothing here knows what any of them is."""

import json
import shlex
from html import unescape

import h5py
import numpy as np
import pytest

from mvflow.config import Classifiers, Training
from mvflow.core import ArraySource, registry
from mvflow.estimators import load
from mvflow.report import Entry
from mvflow.report.reproduce import commands
from mvflow.runs import RunDirectory
from mvflow_cli import main
from mvflow_datasets import find_builder

pytestmark = pytest.mark.slow

MEASURING = (
    "evaluation.rows=24",
    "evaluation.prior_draws=24",
    "evaluation.importance_rows=2",
    "evaluation.importance_draws=8",
    "evaluation.sampler_rows=2",
    "sampler.warmup=2",
    "sampler.draws=4",
    "classifiers.epochs=1",
)


def is_stage(annotation):
    is_training = isinstance(annotation, type) and issubclass(annotation, Training)
    return is_training and annotation is not Classifiers


def chosen(system):
    """Words that name a system, and make its training and measuring as short as can be."""
    fields = registry("systems").load(system).Settings.model_fields
    stages = [name for name, field in fields.items() if is_stage(field.annotation)]
    once = (f"{name}.{key}=1" for name in stages for key in ("epochs", "steps_per_epoch"))
    return [f"--set={text}" for text in (f"system={system}", *once, *MEASURING)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "toy.h5"
    return find_builder("toy").build(path, rows=200, test_rows=60)


@pytest.fixture(scope="module", params=registry("systems").names())
def system(request):
    return request.param


@pytest.fixture(scope="module")
def run(system, tiny, tmp_path_factory):
    """A trained run."""
    path = tmp_path_factory.mktemp(system) / "run"
    words = ("new", path, "--recipe", "toy", "--store", tiny, *chosen(system))
    assert main.run([str(word) for word in words]) == 0
    assert main.run(["train", str(path)]) == 0
    return path


@pytest.fixture
def passed(mvflow):
    """Run a command that must succeed; returns its result."""

    def call(*words):
        found = mvflow(*words, "--json")
        assert found.code == 0, found
        return json.loads(found.out, parse_constant=pytest.fail)

    return call


def test_every_system_is_sampled(passed, run):
    words = ("--given", "square", "--rows", "test:0:3", "--n", 2)
    with h5py.File(passed("sample", run, *words)["out"]) as file:
        assert file["samples/circle"].shape[:2] == (2, 3)
    with h5py.File(passed("sample", run, "--n", 5)["out"]) as file:
        assert file["samples/square"].shape[0] == 5


def test_every_system_is_measured_and_reported(passed, run):
    found = passed("evaluate", run)
    directions = {"circle->square", "square->circle"}
    assert found["coherence"]["conditional"].keys() == directions
    assert found["log_likelihood"].keys() == {"joint", *directions}
    few = ("--rows", 20, "--draws", 9)
    assert passed("diagnose", run, *few, "--against", "data")["subsets"].keys() == {
        "circle",
        "square",
    }
    assert "circle+square" in passed("diagnose", run, *few)["subsets"]
    assert passed("report", run)["evaluated"] == []
    page = unescape((run / "report.html").read_text("utf-8"))
    assert all(fact in page for fact in found["facts"].values())
    assert list(passed("compare", run)["systems"]) == [found["facts"]["system"]]


def test_the_report_says_how_to_make_the_same_run(passed, run, tmp_path):
    model, known = load(run), RunDirectory.open(run)
    one = {m.name: np.zeros((1, *m.shape), np.float32) for m in model.modalities}
    test = ArraySource(one, model.modalities)
    entry = Entry("again", model, test, [], known.manifest(), {}, None)
    words = shlex.split(commands(entry)[0].replace("\\\n", ""))  # as a shell joins lines
    assert words[:3] == ["mvflow", "new", "again"]
    passed("new", tmp_path / "again", *words[3:])
    assert RunDirectory.open(tmp_path / "again").config() == known.config()


def test_every_system_is_swept(passed, system, tiny, tmp_path):
    words = ("--recipe", "toy", "--out", tmp_path / "a", "--seeds", "3", "--threads", 1)
    (found,) = passed("sweep", tiny, *words, "--evaluate", *chosen(system))["runs"]
    assert found["error"] is None
    assert set(found["stages"]) == set(RunDirectory.open(found["run"]).manifest()["stages"])
    assert found["evaluation"]
