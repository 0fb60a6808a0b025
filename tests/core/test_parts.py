"""Parts: names, mappings, classes and objects are one, in Python and in TOML."""

import tomllib

import numpy as np
import pytest
import tomli_w
import torch
from torch import nn

from mvflow import JNF, load
from mvflow.config import config_from_dict, parse_toml, to_toml
from mvflow.core import ConfigError, UsageError, registry
from mvflow.core.parts import Part, create, dump
from mvflow.nn.base import GivenNetwork
from mvflow.posteriors import MAF, NSF

RAW = {"system": "jnf", "latent_dim": 2, "modalities": {"a": {"shape": [3]}}}
PARTS = [
    (g, n) for g in ("posteriors", "priors", "samplers", "subsets") for n in registry(g).names()
]


def test_names_mappings_classes_and_objects_are_one():
    for value in ("maf", {"kind": "maf"}, MAF, MAF(), {"kind": "maf", "transforms": 2}):
        assert create("posteriors", value) == MAF()
        assert config_from_dict(RAW | {"posterior": value}) == config_from_dict(RAW)
    by_name = config_from_dict(RAW | {"posterior": {"kind": "nsf", "bins": 3, "hidden": [4]}})
    assert by_name == config_from_dict(RAW | {"posterior": NSF(bins=3, hidden=(4,))})


@pytest.mark.parametrize(("group", "name"), PARTS)
def test_a_part_survives_toml(group, name):
    part = create(group, name)
    text = tomli_w.dumps(dump(part, group))
    assert create(group, tomllib.loads(text)) == part
    assert f'kind = "{name}"' in text


def test_equal_settings_share_one_part():
    """So that whoever caches by a part finds it again."""
    raw = {"kind": "nsf", "bins": 3}
    assert create("posteriors", raw) is create("posteriors", dict(raw))
    assert create("posteriors", raw) is not create("posteriors", raw | {"bins": 4})


def test_a_part_is_immutable():
    with pytest.raises(ValueError, match="frozen"):
        MAF().transforms = 3


class Straight(MAF):
    """A class of a test, which no name stands for."""


def test_a_class_without_a_name_is_written_by_its_import_path(tmp_path):
    config = config_from_dict(RAW | {"posterior": Straight(transforms=3)})
    (tmp_path / "config.toml").write_text(to_toml(config), "utf-8")
    path = f"{Straight.__module__}:Straight"
    assert tomllib.loads(to_toml(config))["posterior"]["kind"] == path
    with pytest.MonkeyPatch.context() as patch:  # as an imported module of a user is
        patch.setitem(__import__("sys").modules, Straight.__module__, _module())
        assert parse_toml(tmp_path / "config.toml") == config


def _module():
    return type("Module", (), {"Straight": Straight})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("group", "value", "message"),
    [
        ("posteriors", {"kind": "maf", "bins": 3}, "'maf' has no setting 'bins': .*of 'nsf'"),
        (
            "posteriors",
            {"kind": "maf", "transfroms": 3},
            "did you mean 'transforms'\\? Settings of 'maf': transforms, hidden",
        ),
        ("posteriors", {"kind": "gaussian", "zzz": 3}, "'zzz': Settings of 'gaussian': none"),
        ("posteriors", {"kind": "maf", "transforms": 0}, "transforms: .*equal to 1, got 0"),
        ("posteriors", {"transforms": 3}, "a posterior needs a kind: one of .*maf"),
        ("posteriors", {"kind": "fma"}, "unknown posterior 'fma': did you mean 'maf'"),
        ("samplers", {"kind": "sir", "num_steps": 3}, "setting of 'hamiltorch', 'hmc'"),
        ("posteriors", 3, "int cannot be a posterior: it has no transform"),
        ("networks", object(), "object cannot be a network: it has no decoder, encoder"),
        ("samplers", None, "NoneType cannot be a sampler: it has no sample"),
        ("priors", "none", "unknown prior 'none'"),
    ],
)
def test_what_cannot_be_a_part_is_explained(group, value, message):
    with pytest.raises(UsageError, match=message):
        create(group, value)


def test_only_an_optional_part_may_be_none():
    for value in (None, "none", {"kind": "none"}):
        assert config_from_dict(RAW | {"projector": value}).projector is None
        with pytest.raises(ConfigError, match="posterior: "):
            config_from_dict(RAW | {"posterior": value})


def test_an_object_with_the_methods_of_the_contract_will_do():
    class Zeros:
        def sample(self, target, n):
            return n

    zeros = Zeros()
    assert create("samplers", zeros) is zeros
    assert config_from_dict(RAW | {"sampler": zeros}).sampler is zeros
    with pytest.raises(ConfigError, match=r"object of .*:.*Zeros that was passed in Python"):
        create("samplers", dump(zeros, "samplers"))


# Objects that no file can hold


class Encoder(nn.Sequential):
    """Somebody's network, with weights of its own."""

    def __init__(self):
        super().__init__(nn.Linear(2, 5), nn.Tanh())


@pytest.fixture(scope="module")
def encoder():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return Encoder()


@pytest.fixture(scope="module")
def run(small, encoder, tmp_path_factory):
    """A saved run one of whose encoders is a module."""
    networks = {"m0": {"encoder": encoder}, "m1": {"encoder": {"kind": "mlp", "hidden": [8]}}}
    made = small.estimator(JNF, 2, networks=networks)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    made.fit(small.data(2)[0], seed=0)
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())
    path = tmp_path_factory.mktemp("opaque") / "run"
    made.save(path)
    return path, made


def test_an_object_is_written_as_what_it_was(run):
    raw = tomllib.loads((run[0] / "config.toml").read_text("utf-8"))
    about = raw["modalities"]["m0"]["encoder"]
    assert about == {"kind": "given", "path": f"{Encoder.__module__}:Encoder"}


@pytest.mark.bad_input
def test_loading_without_the_object_says_where_it_goes(run):
    with pytest.raises(
        ConfigError,
        match=r"modalities.m0.encoder: this network is an object of .*:Encoder that was passed in "
        r"Python and cannot be written to a file: load the run with load\(path, objects=",
    ):
        load(run[0])


def test_loading_with_the_object_gives_the_same_model(run, small, encoder):
    path, made = run
    x = {n: v[:5] for n, v in small.data(2)[0].items()}
    again = load(path, objects={"modalities.m0.encoder": encoder})
    for ours, theirs in zip(again.encode(x), made.encode(x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.trained_ == made.trained_
    fresh = load(path, objects={"modalities.m0.encoder": Encoder()})  # weights come from the run
    np.testing.assert_array_equal(fresh.encode(x)[0], made.encode(x)[0])


def test_a_module_is_a_network_of_its_own_kind(encoder):
    part = create("networks", encoder)
    assert isinstance(part, GivenNetwork)
    assert isinstance(part, Part)
    assert part.raw is encoder
    assert create("networks", part) is part


def test_nothing_has_no_settings():
    raw = {"latent_dim": 2, "modalities": {"a": {"shape": [3]}}, "system": "jnf"}
    with pytest.raises(ConfigError, match="kind 'none' has no setting 'dim'"):
        config_from_dict({**raw, "projector": {"kind": "none", "dim": 3}})
    assert config_from_dict({**raw, "projector": {"kind": "none"}}).projector is None
