"""Runs of format 1: `format-1/` was made by mvflow 0.1, with what its model gave for some rows."""

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from mvflow import load
from mvflow.config import config_from_dict
from mvflow.core import ConfigError, DataError, Modality, UsageError
from mvflow.core.parts import create
from mvflow.estimators.converting import convert_config, convert_run
from mvflow.runs import RunDirectory

OLD = Path(__file__).parent / "format-1"
BASE = {"latent_dim": 2, "modalities": {"a": {"shape": [3]}}}


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(OLD, tmp_path / "run")


@pytest.fixture(scope="module")
def expected():
    with np.load(OLD / "expected.npz") as file:
        return dict(file)


def change(run, section, **values):
    raw = tomllib.loads((run / "config.toml").read_text("utf-8"))
    node = raw[section] if section else raw
    node |= values
    (run / "config.toml").write_text(tomli_w.dumps(raw), "utf-8")


def test_a_converted_model_computes_what_the_old_one_did(run, expected):
    assert convert_run(run) == ["projectors", "joint", "flows", "prior"]
    model = load(run)
    assert model.trained_ == model.stage_names
    RunDirectory(run).require(model.stage_names, model.plan_)
    x, z = {n: expected[f"x_{n}"] for n in ("m0", "m1")}, expected["z"]
    found = {
        **dict(zip(("loc", "scale"), model.encode(x), strict=True)),
        **model.decode(z),
        **{f"q_{n}": model.posterior_log_prob(z, {n: x[n]}) for n in x},
        "product": model.posterior_log_prob(z, x, combine=True),
        "projected": model.project(x)["m0"],
        "draw": model.sample_latent(n=5, seed=2),  # of the fitted prior
    }
    for name, value in found.items():  # float32, whose sums may be taken in another order
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_settings_and_history_are_taken_over(run):
    history = (run / "history.jsonl").read_bytes()
    convert_run(run)
    config = RunDirectory(run).config()
    assert (config.format, config.system, config.seed) == (2, "jnf-shared", 3)
    assert config.projector == create(
        "projectors", {"kind": "contrastive", "dim": 2, "temperature": 0.5}
    )
    assert config.posterior == create(
        "posteriors", {"kind": "nsf", "hidden": [4], "bins": 3, "context": 2}
    )
    assert config.flows.summary_hidden == (6,)
    assert config.subset == create("subsets", {"kind": "product", "divisor": "prior"})
    assert config.sampler.warmup == 8
    assert config.prior == create("priors", {"kind": "mixture", "components": 2, "rows": 100})
    assert config.specifications() == (
        Modality("m0", (2,), {"kind": "laplace", "scale": 0.75}),
        Modality("m1", (3,), weight=2.0),
    )
    assert (run / "history.jsonl").read_bytes() == history
    records = RunDirectory(run).records()
    assert (records["joint"].rows, records["joint"].epochs, records["joint"].seed) == (152, 3, 3)


def test_the_old_files_are_kept(run):
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    convert_run(run)
    kept = {p.name: p.read_bytes() for p in (run / "format-1").iterdir()}
    assert kept == {k: v for k, v in before.items() if k not in ("history.jsonl", "expected.npz")}


def test_the_amortised_stage_is_that_of_its_rule(run):
    change(run, None, subset="amortised")
    assert convert_run(run) == ["projectors", "joint", "amortised", "prior"]
    rule = RunDirectory(run).config().subset
    assert (rule.epochs, rule.batch_size, rule.embedding) == (3, 32, 3)
    assert rule.posterior == create(
        "posteriors", {"kind": "conditional-maf", "hidden": [4], "context": 2}
    )
    x = {"m0": np.zeros((2, 2), np.float32)}
    assert load(run).draw(x, 3).diagnostics.method == "exact"


def test_a_run_is_converted_once(run):
    convert_run(run)
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match="has format 2: only runs of format 1 are converted"):
        convert_run(run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == after


def test_a_conversion_that_was_killed_is_made_again(run, expected, monkeypatch):
    finish, calls = RunDirectory.finish, []

    def killed(self, *args):
        calls.append(finish(self, *args))
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        convert_run(run)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="format 1 of mvflow 0.1"):
        load(run)
    assert convert_run(run) == ["projectors", "joint", "flows", "prior"]
    x = {n: expected[f"x_{n}"] for n in ("m0", "m1")}
    np.testing.assert_allclose(load(run).encode(x)[0], expected["loc"], rtol=1e-4, atol=1e-5)


def test_what_fits_no_stage_now_stays_aside(run):
    convert_run(run)
    assert not (run / "amortised.safetensors").exists()
    assert (run / "format-1" / "amortised.safetensors").is_file()
    model = load(run, subset="amortised")
    assert RunDirectory(run).status("amortised", model.plan_) == "missing"


@pytest.mark.bad_input
def test_a_run_of_format_1_says_how_it_is_converted(run):
    with pytest.raises(ConfigError, match=f"format 1 of mvflow 0.1: run 'mvflow convert {run}'"):
        load(run)


@pytest.mark.bad_input
def test_damaged_runs_are_named_and_left_as_they_were(run, tmp_path):
    def refused(error, message):
        before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
        with pytest.raises(error, match=message):
            convert_run(run)
        assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before

    weights = run / "joint.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(DataError, "joint.safetensors is missing or damaged .*does not fit its checksum")
    shutil.copyfile(run / "prior.safetensors", weights)
    refused(DataError, "joint.safetensors is missing or damaged .*not the file that manifest")
    weights.unlink()
    refused(DataError, "joint.safetensors is missing or damaged")
    weights.write_bytes(whole)
    change(run, None, latent_dim=3)
    refused(DataError, "projectors|joint.safetensors does not fit its config.toml")
    (run / "config.toml").write_text("= 3", "utf-8")
    refused(ConfigError, "config.toml is not valid TOML")
    (run / "config.toml").unlink()
    refused(UsageError, "is not a run directory")


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        ({}, {}),
        ({"model": "jnf-shared"}, {"system": "jnf-shared", "projector": "contrastive"}),
        (
            {"model": "jnf-shared", "projectors": {"kind": "dcca", "dim": 3, "temperature": 9.0}},
            {"system": "jnf-shared", "projector": {"kind": "dcca", "dim": 3}},
        ),
        ({"projectors": {"kind": "dcca"}}, {}),  # of a model that has none
        (
            {"flows": {"posterior": "gaussian", "transforms": 3, "epochs": 4}},
            {"posterior": "gaussian", "flows": {"epochs": 4}},
        ),
        (
            {"flows": {"transforms": 3, "bins": 5}},
            {"posterior": {"kind": "maf", "transforms": 3}},
        ),
        (
            {"sampler": {"divide_by": "prior", "name": "sir", "candidates": 7, "chains": 3}},
            {"sampler": {"kind": "sir", "candidates": 7}, "subset": {"divisor": "prior"}},
        ),
        ({"sampler": {"independent": True}}, {"sampler": {"kind": "hmc", "independent": True}}),
        ({"prior": {"kind": "standard", "components": 3}}, {}),
    ],
)
def test_settings_of_format_1_keep_what_they_meant(old, expected):
    """Settings that had no meaning for the chosen kind are left out."""
    if "subset" in expected:
        expected = expected | {"subset": {"kind": "product", **expected["subset"]}}
    found = config_from_dict(convert_config({"model": "jnf", **BASE, **old}))
    assert found == config_from_dict({"system": "jnf", **BASE, **expected})
