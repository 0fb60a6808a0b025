"""Configurations: TOML and back, assignments, and mistakes with the nearest name."""

import math

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
    settings_of,
    to_toml,
    with_part,
)
from mvflow.core import ConfigError, UsageError, registry
from mvflow.core.parts import create

RAW = {
    "system": "jnf",
    "latent_dim": 2,
    "modalities": {"a": {"shape": [3]}, "b": {"shape": [1, 8, 8]}},
}
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
            "likelihood": st.one_of(
                st.sampled_from(sorted({*registry("likelihoods").names()} - {"mixed"})),
                st.just({"kind": "mixed", "groups": [{"columns": 3, "likelihood": "normal"}]}),
                st.fixed_dictionaries({"kind": st.just("laplace"), "scale": positive}),
            ),
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
    "weight_decay": positive,
    "keep_best": st.booleans(),
}
configs = st.fixed_dictionaries(
    {
        "system": st.sampled_from(["jnf", "jnf-shared"]),
        "latent_dim": st.integers(1, 64),
        "modalities": modalities,
    },
    optional={
        "seed": st.integers(0, 2**31),
        "projector": st.one_of(
            st.none(),
            st.sampled_from(["none", "dcca"]),
            st.fixed_dictionaries({"kind": st.just("contrastive"), "temperature": positive}),
        ),
        "posterior": st.one_of(
            st.sampled_from(registry("posteriors").names()),
            st.fixed_dictionaries(
                {"kind": st.just("nsf")},
                optional={"bins": st.integers(1, 9), "hidden": st.lists(st.integers(1, 9))},
            ),
        ),
        "subset": st.sampled_from(registry("subsets").names()),
        "prior": st.sampled_from(registry("priors").names()),
        "sampler": st.sampled_from(registry("samplers").names()),
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
    assert to_toml(parse_toml(path)) == to_toml(config)


@pytest.mark.parametrize("system", registry("systems").names())
def test_the_defaults_of_each_system_survive_toml(system, tmp_path):
    config = config_from_dict(RAW | {"system": system})
    (tmp_path / "config.toml").write_text(to_toml(config), "utf-8")
    assert parse_toml(tmp_path / "config.toml") == config


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
            {"modalities": {"a": {"shape": [3], "wieght": 1.0}}},
            r"unknown key 'wieght': did you mean 'weight'.*\(in modalities.a\)",
        ),
        (
            {"modalities": {"a": {"shape": [3], "encoder": {"kind": "mlp", "hiden": [3]}}}},
            "modalities.a.encoder: network 'mlp' has no setting 'hiden': did you mean 'hidden'",
        ),
        (
            {"modalities": {"a": {"shape": [3], "encoder": {"kind": "conv", "chanels": [3]}}}},
            "modalities.a.encoder: .*'chanels': did you mean 'channels'",
        ),
        (
            {"classifiers": {"networks": {"a": {"kind": "layers", "nrom": "batch"}}}},
            "classifiers.networks.a: .*'nrom': did you mean 'norm'",
        ),
        ({"joint": {"merge": "add"}}, "joint.merge.*got 'add'"),
        ({"joint": {"beta": -1}}, "joint.beta: input should be greater than 0, got -1"),
        ({"joint": {"beta": math.inf}}, "joint.beta: input should be a finite number, got inf"),
        ({"sampler": {"step_size": math.nan}}, "sampler: step_size: .*a finite number, got nan"),
        ({"joint": {"beta": "x"}}, "joint.beta: input should be a valid number.*got 'x'"),
        ({"modalities": {}}, "modalities: "),
        ({"modalities": {"a": {"shape": [0]}}}, "modalities.a.shape.0: .*got 0"),
        ({"system": "jfn"}, "unknown system 'jfn': did you mean 'jnf'"),
        ({"system": None}, "configuration names no system: expected one of .*jnf"),
        ({"format": 3}, "configuration has format 3, newer than 2 of this mvflow: upgrade"),
        ({"format": 1}, "configuration has format 1 of mvflow 0.1: run 'mvflow convert RUN'"),
        ({"sampler": {"kind": "hmc", "chains": 0}}, "sampler: chains: .*greater than 0, got 0"),
        ({"posterior": 3}, "posterior: int cannot be a posterior: it has no transform"),
        ({"data": {"validation": 1.0}}, "data.validation: input should be less than 1"),
    ],
)
def test_mistakes_are_named_where_they_are(changes, message):
    with pytest.raises(UsageError, match=message):
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
            " flows.summary_hidden = [3, 4]",
            "data.store=a file.h5",
            "modalities.a.encoder.hidden=[5]",
            "modalities.a.encoder.kind=mlp",
            "joint.beta_start=3.0",
            "joint.beta_start=none",
        ],
    )
    config = config_from_dict(raw)
    assert config.joint.beta == 2.5
    assert config.flows.summary_hidden == (3, 4)
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
        ("seed.beta=3", "--set seed.beta: 'seed' is a value, not a section"),
        ("jonit.beta=3", "unknown key 'jonit': did you mean 'joint'"),
        ("epochs=3", "unknown key 'epochs': that is a setting of .*joint.*, such as .*.epochs"),
        ("amortised.epochs=3", "unknown key 'amortised': that is a kind of subset, whose section"),
        ("joint.bta=3", r"unknown key 'bta': did you mean 'beta'.*\(in joint\)"),
        ("modalities.c.weight=3", "unknown modality 'c'"),
        ("modalities.a.wieght=3", "unknown key 'wieght': did you mean 'weight'"),
        ("posterior=mfa", "unknown posterior 'mfa': did you mean 'maf'"),
    ],
)
def test_wrong_assignments_are_explained(text, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict(assign({"seed": 0, **RAW}, [text]))


@pytest.mark.parametrize("text", ["posterior=maf", "posterior.kind=maf"])
def test_another_kind_keeps_the_settings_that_it_has_too(text):
    nsf = {"kind": "nsf", "transforms": 5, "hidden": [7], "bins": 4}
    assert assign(RAW | {"posterior": nsf}, [text])["posterior"] == {
        **{"kind": "maf", "transforms": 5, "hidden": [7]}
    }
    assert assign(RAW | {"posterior": nsf}, [text, "posterior=nsf"])["posterior"] == {
        **{"kind": "nsf", "transforms": 5, "hidden": [7]}
    }
    assert nsf["bins"] == 4  # the argument is not changed


def test_a_kind_without_settings_may_get_some():
    made = config_from_dict(assign(RAW | {"posterior": "nsf"}, ["posterior.bins=4"]))
    assert made.posterior.bins == 4
    words = ["subset.posterior=maf", "subset.posterior.transforms=3"]
    inner = config_from_dict(assign(RAW | {"subset": "amortised"}, words))
    assert inner.subset.posterior == create("posteriors", {"kind": "maf", "transforms": 3})


def test_none_takes_a_part_away():
    raw = {**RAW, "system": "jnf-shared", "projector": {"kind": "dcca", "dim": 3}}
    assert config_from_dict(raw).projector.dim == 3
    for text in ("projector=none", "projector.kind=none"):
        assert config_from_dict(assign(raw, [text])).projector is None


def test_with_part_is_what_an_assignment_makes():
    raw = {**RAW, "posterior": {"kind": "nsf", "transforms": 5, "hidden": [7]}}
    config = config_from_dict(raw)
    assert with_part(config, "posterior", "maf") == config_from_dict(
        assign(raw, ["posterior=maf"])
    )
    assert with_part(config, "posterior", "nsf") is config
    with pytest.raises(UsageError, match="unknown posterior 'mfa': did you mean 'maf'"):
        with_part(config, "posterior", "mfa")
    with pytest.raises(ConfigError, match="system 'jnf' has no posteriors"):
        with_part(config, "posteriors", "maf")


def test_a_section_of_another_system_says_whose_it_is(monkeypatch):
    class Other(settings_of("jnf")):
        wake: int = 3

    kinds, load = type(registry("systems")), registry("systems").load
    found = {"other": type("Other", (), {"Settings": Other})}
    monkeypatch.setattr(kinds, "names", lambda self: [*found, "jnf"])
    monkeypatch.setattr(kinds, "load", lambda self, name: found.get(name) or load(name))
    with pytest.raises(ConfigError, match="unknown key 'wake': that is a setting of system other"):
        config_from_dict(RAW | {"wake": 3})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("system", "changes", "says"),
    [
        (
            "mvae",
            {"joint": {"samples": 3}},
            r"'samples': .* setting of system jnf, jnf-shared, mmvae, mmvae-plus \(",
        ),
        (
            "mopoe",
            {"joint": {"alpha": 1}},
            r"'alpha': .* setting of system jmvae, mvtcae \(in joint",
        ),
        ("mvtcae", {"private_dim": 3}, "'private_dim': .* setting of system mmvae-plus, nexus$"),
        (
            "mmvae",
            {"flows": {"epochs": 3}},
            "'flows': that is a section of system jnf, jnf-shared$",
        ),
        (
            "telbo",
            {"joint": {"dropout": 0.1}},
            r"'dropout': .* setting of system nexus \(in joint\)",
        ),
        (
            "jnf",
            {"family": "normal"},
            "'family': .* setting of system mmvae, mmvae-plus$",
        ),
    ],
)
def test_an_option_of_other_systems_says_whose_it_is(system, changes, says):
    with pytest.raises(ConfigError, match=says):
        config_from_dict({**RAW, "system": system, **changes})


@pytest.mark.bad_input
def test_a_part_of_other_systems_says_whose_it_is():
    config = config_from_dict({**RAW, "system": "mvae"})
    with pytest.raises(
        ConfigError, match=r"leave --posterior out, or choose .* \(jnf, jnf-shared\)"
    ):
        with_part(config, "posterior", "maf")


@pytest.mark.bad_input
def test_an_unknown_recipe_lists_those_there_are():
    with pytest.raises(ConfigError, match="unknown recipe 'tyo': did you mean 'toy'.*Known: "):
        recipe("tyo")


def test_a_configuration_is_immutable():
    config = config_from_dict(RAW)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert isinstance(config, Config)
