"""Configurations: TOML and back, assignments, and mistakes with the nearest name."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvflow.config import (
    Config,
    assign,
    config_from_dict,
    parse_toml,
    recipe,
    recipe_names,
    stage_key,
    stage_names,
    to_toml,
)
from mvflow.core import ConfigError

RAW = {"latent_dim": 2, "modalities": {"a": {"shape": [3]}, "b": {"shape": [1, 8, 8]}}}
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True)
positive = st.floats(1e-6, 1e6)
networks = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("mlp"), "hidden": st.lists(st.integers(1, 512), max_size=3)},
        optional={"output": st.sampled_from(["identity", "sigmoid"])},
    ),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["conv", "resnet"]),
            "channels": st.lists(st.integers(1, 64), max_size=3),
        }
    ),
    st.fixed_dictionaries(
        {"kind": st.just("layers")},
        optional={
            "layers": st.lists(
                st.fixed_dictionaries(
                    {"channels": st.integers(1, 64)},
                    optional={"kernel": st.tuples(st.integers(1, 9), st.integers(1, 9))},
                ),
                max_size=2,
            ),
            "hidden": st.lists(st.integers(1, 64), max_size=2),
            "norm": st.sampled_from(["none", "batch"]),
            "activated": st.booleans(),
        },
    ),
)
modalities = st.dictionaries(
    names,
    st.fixed_dictionaries(
        {"shape": st.lists(st.integers(1, 64), min_size=1, max_size=3)},
        optional={
            "likelihood": st.sampled_from(["normal", "laplace", "bernoulli", "categorical"]),
            "scale": positive,
            "weight": positive,
            "encoder": networks,
            "decoder": networks,
            "projector": networks,
        },
    ),
    min_size=1,
    max_size=4,
)
training = {
    "epochs": st.integers(0, 100),
    "steps_per_epoch": st.integers(1, 100),
    "learning_rate": positive,
    "clip": positive,
    "patience": st.integers(1, 9),
}
configs = st.fixed_dictionaries(
    {"latent_dim": st.integers(1, 64), "modalities": modalities},
    optional={
        "seed": st.integers(0, 2**31),
        "model": st.sampled_from(["jnf", "jnf-shared"]),
        "data": st.fixed_dictionaries({"store": st.text(st.characters(codec="utf-8"))}),
        "joint": st.fixed_dictionaries(
            {},
            optional=training
            | {"beta_start": positive, "merge": st.sampled_from(["concat", [], [3, 4]])},
        ),
        "flows": st.fixed_dictionaries({}, optional=training),
    },
)


@settings(deadline=None, max_examples=60)
@given(raw=configs)
def test_a_configuration_survives_toml(raw, tmp_path_factory):
    config = config_from_dict(raw)
    path = tmp_path_factory.mktemp("config") / "config.toml"
    path.write_text(to_toml(config), "utf-8")
    assert parse_toml(path) == config
    for stage in stage_names(config):
        assert stage_key(parse_toml(path), stage, "data") == stage_key(config, stage, "data")


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_is_valid_and_names_itself(name):
    config = config_from_dict(recipe(name))
    assert config.recipe == name
    assert len(config.specifications()) >= 2


def test_specifications_are_sorted_by_name():
    config = config_from_dict(RAW | {"modalities": dict(reversed(RAW["modalities"].items()))})
    assert [m.name for m in config.specifications()] == ["a", "b"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dmi": 3}, "unknown key 'latent_dmi': did you mean 'latent_dim'"),
        ({"joint": {"bta": 1.0}}, r"unknown key 'bta': did you mean 'beta'.*\(in joint\)"),
        (
            {"modalities": {"a": {"shape": [3], "scal": 1.0}}},
            r"unknown key 'scal': did you mean 'scale'.*\(in modalities.a\)",
        ),
        (
            {"modalities": {"a": {"shape": [3], "encoder": {"kind": "mlp", "hiden": [3]}}}},
            "unknown key 'hiden': did you mean 'hidden'.*modalities.a.encoder",
        ),
        (
            {"modalities": {"a": {"shape": [3], "encoder": {"kind": "conv", "chanels": [3]}}}},
            "unknown key 'chanels': did you mean 'channels'.*modalities.a.encoder",
        ),
        (
            {"classifiers": {"networks": {"a": {"kind": "layers", "nrom": "batch"}}}},
            "unknown key 'nrom': did you mean 'norm'.*classifiers.networks.a",
        ),
        ({"joint": {"merge": "add"}}, "joint.merge.*got 'add'"),
        ({"joint": {"beta": -1}}, "joint.beta: input should be greater than 0, got -1"),
        ({"joint": {"beta": "x"}}, "joint.beta: input should be a valid number.*got 'x'"),
        ({"modalities": {}}, "modalities: "),
        ({"modalities": {"a": {"shape": [0]}}}, "modalities.a.shape.0: .*got 0"),
        ({"model": "jfn"}, "model: .*got 'jfn'"),
        ({"format": 2}, "configuration has format 2, newer than 1 of this mvflow: upgrade"),
        ({"sampler": {"chains": 0}}, "sampler.chains: "),
        ({"data": {"validation": 1.0}}, "data.validation: input should be less than 1"),
    ],
)
def test_mistakes_are_named_where_they_are(changes, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict({**RAW, **changes})


@pytest.mark.bad_input
@pytest.mark.parametrize("content", [b"= 3", b"\xff\xfe", b"latent_dim = 2\nlatent_dim = 3"])
def test_a_file_that_is_no_toml_is_named(tmp_path, content):
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="config.toml is not valid TOML"):
        parse_toml(tmp_path / "config.toml")


def test_assignments_are_toml_values():
    raw = assign(
        RAW,
        [
            "joint.beta=2.5",
            " flows.hidden = [3, 4]",
            "data.store=a file.h5",
            "modalities.a.encoder.hidden=[5]",
            "modalities.a.encoder.kind=mlp",
            "joint.beta_start=3.0",
            "joint.beta_start=none",
        ],
    )
    config = config_from_dict(raw)
    assert config.joint.beta == 2.5
    assert config.flows.hidden == (3, 4)
    assert config.data.store == "a file.h5"
    assert config.modalities["a"].encoder.hidden == (5,)
    assert config.joint.beta_start is None
    assert "joint" not in RAW  # the argument is not changed


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("joint.beta", "cannot read --set 'joint.beta': expected section.key=value"),
        ("=3", "cannot read --set '=3'"),
        ("joint..beta=3", "cannot read --set"),
        ("jonit.beta=3", "unknown key 'jonit': did you mean 'joint'"),
        ("joint.bta=3", r"unknown key 'bta': did you mean 'beta'.*\(in joint\)"),
        ("modalities.c.scale=3", "unknown modality 'c'"),
        ("modalities.a.scal=3", "unknown key 'scal': did you mean 'scale'"),
    ],
)
def test_wrong_assignments_are_explained(text, message):
    with pytest.raises(ConfigError, match=message):
        assign(RAW, [text])


@pytest.mark.bad_input
def test_an_unknown_recipe_lists_those_there_are():
    with pytest.raises(ConfigError, match="unknown recipe 'tyo': did you mean 'toy'.*Known: "):
        recipe("tyo")


def test_a_configuration_is_immutable():
    config = config_from_dict(RAW)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert isinstance(config, Config)
