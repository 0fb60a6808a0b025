"""Recipes: what the paper says, and how a recipe's file becomes a configuration."""

import pytest

from mvflow.config import config_from_dict, files, recipe, recipe_names
from mvflow.nn.layers import LayersNetwork
from mvflow.nn.mlp import MLPNetwork
from mvflow.nn.resnet import ResNetwork

# recipe: latent, beta, batch, learning rate, merge, blocks of JNF and of JNF-Shared
PAPER = {
    "mnist-svhn-paper": (20, 2.5, 128, 1e-3, (512, 512), 2, 2),
    "polymnist": (190, 2.5, 128, 1e-3, (512, 512), 2, 2),
    "translated-polymnist": (200, 0.5, 128, 1e-3, "concat", 3, 2),
    "mhd": (64, 0.5, 64, 1e-3, (512, 512), 2, 2),
    "pendigits-speech": (64, 0.5, 64, 1e-3, (512, 512), 2, 2),
}

SMALL = [n for n in recipe_names() if n.endswith("-small")]


@pytest.mark.parametrize("name", PAPER)
def test_the_values_of_the_paper(name):
    latent, beta, batch, rate, merge, *blocks = PAPER[name]
    for system, transforms in zip(("jnf", "jnf-shared"), blocks, strict=True):
        config = config_from_dict(recipe(name, [f"system={system}"]))
        assert config.latent_dim == latent
        assert (config.joint.beta, config.joint.merge) == (beta, merge)
        assert type(config.posterior).__name__ == "MAF"
        assert config.posterior.transforms == transforms
        assert config.flows.summary_hidden == (512, 512)
        assert (config.projector is None) == (system == "jnf")
        if config.projector is not None:
            assert config.projector.dim == 10
        for stage in (config.joint, config.flows, config.projectors):
            assert (stage.batch_size, stage.learning_rate) == (batch, rate)
            assert (stage.schedule, stage.precision) == ("constant", "float32")
        assert config.posterior.hidden == (128, 128, 128)
        assert getattr(config.projector, "dropout", 0.0) == 0.0


def test_the_paper_s_mnist_svhn_has_laplace_scale_1_and_its_number_of_images():
    config = config_from_dict(recipe("mnist-svhn-paper"))
    assert {m.likelihood.scale for m in config.modalities.values()} == {1.0}
    assert config.evaluation.rows == 50_000
    tuned = config_from_dict(recipe("mnist-svhn"))
    assert {m.likelihood.scale for m in tuned.modalities.values()} == {0.75}
    assert tuned.posterior.hidden == (128, 128)


def test_translated_polymnist_projects_with_simpler_networks_for_dcca():
    kinds = {
        kind: {
            type(m.projector)
            for m in config_from_dict(
                recipe("translated-polymnist", [f"projector={kind}"])
            ).modalities.values()
        }
        for kind in ("contrastive", "dcca")
    }
    assert kinds == {"contrastive": {ResNetwork}, "dcca": {LayersNetwork}}


@pytest.mark.parametrize("name", [n for n in recipe_names() if f"{n}-small" in SMALL])
def test_a_small_variant_differs_in_size_not_in_kind(name):
    full, small = (config_from_dict(recipe(n)) for n in (name, f"{name}-small"))
    for a, b in zip(full.specifications(), small.specifications(), strict=True):
        assert a == b
    assert small.latent_dim <= full.latent_dim
    assert small.joint.beta <= full.joint.beta  # in few steps much of it leaves nothing in z
    assert small.joint.epochs < full.joint.epochs
    assert type(small.joint.merge) is type(full.joint.merge)


@pytest.mark.parametrize("size", ["", "-small"])
def test_the_rebuild_of_mhd_has_its_recipe(size):
    mhd, rebuild = recipe(f"mhd{size}"), recipe(f"pendigits-speech{size}")
    for made in (mhd, rebuild):  # classifiers see far fewer distinct rows in the rebuild
        made.pop("recipe")
        made.pop("classifiers")
    assert rebuild == mhd


def test_assignments_have_the_last_word():
    settings = ["system=jnf-shared", "posterior.transforms=4", "modalities.m1.encoder.kind=mlp"]
    made = config_from_dict(recipe("translated-polymnist", settings))
    assert made.posterior.transforms == 4
    for name, m in made.modalities.items():
        assert isinstance(m.encoder, MLPNetwork if name == "m1" else ResNetwork)
    fewer = recipe("polymnist", ["modalities.m4=none", "modalities.m3=none"])
    assert list(fewer["modalities"]) == ["m0", "m1", "m2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mvflow.config" / "recipes").mkdir(parents=True)
    monkeypatch.setattr(files.resources, "files", lambda package: tmp_path / package)
    return tmp_path / "mvflow.config" / "recipes"


def test_a_recipe_is_merged_table_by_table(folder):
    base = """
        system = "jnf"
        latent_dim = 3
        modalities = { a = {}, b = { shape = [5] } }
        [every_modality]
        shape = [4]
        weight = 0.5
        encoder = { kind = "mlp", hidden = [7] }
        [joint]
        beta = 2.0
        epochs = 9
        [by.system.jnf-shared.joint]
        epochs = 4
        [by.system.jnf-shared.every_modality]
        weight = 0.25
        [by.system.jnf-shared.projector]
        kind = "dcca"
        [by.projector."*".projector]
        dim = 1
        [by.projector.contrastive.projector]
        temperature = 2.0
        [unheard.of]
        another = "system"
        [classifiers.networks]
        a = { kind = "conv", channels = [3] }
    """
    other = """
        extends = "base"
        [joint]
        epochs = 1
        [every_modality]
        encoder = { kind = "conv", channels = [3] }
        [classifiers.networks]
        a = { kind = "mlp", hidden = [3] }
    """
    (folder / "base.toml").write_text(base, "utf-8")
    (folder / "other.toml").write_text(other, "utf-8")
    assert recipe("other") == {
        "recipe": "other",
        "system": "jnf",
        "latent_dim": 3,
        "joint": {"beta": 2.0, "epochs": 1},
        "modalities": {
            "a": {"shape": [4], "weight": 0.5, "encoder": {"kind": "conv", "channels": [3]}},
            "b": {"shape": [5], "weight": 0.5, "encoder": {"kind": "conv", "channels": [3]}},
        },
        "classifiers": {"networks": {"a": {"kind": "mlp", "hidden": [3]}}},
    }
    shared = recipe("base", ["system=jnf-shared"])
    assert shared["joint"] == {"beta": 2.0, "epochs": 4}
    assert shared["modalities"]["b"]["weight"] == 0.25
    assert shared["modalities"]["a"]["encoder"] == {"kind": "mlp", "hidden": [7]}
    assert shared["projector"] == {"kind": "dcca", "dim": 1}
    other = recipe("base", ["system=jnf-shared", "projector=contrastive"])
    assert other["projector"] == {"kind": "contrastive", "dim": 1, "temperature": 2.0}
    assert "projector" not in recipe("base")
    none = config_from_dict(recipe("base", ["system=jnf-shared", "projector=none"]))
    assert none.projector is None


def test_a_list_of_modalities_keeps_those_of_the_recipe_that_it_extends(folder):
    base = """
        system = "jnf"
        latent_dim = 3
        modalities = { a = {}, b = { shape = [5] }, c = {} }
        [every_modality]
        shape = [4]
        [classifiers.networks]
        a = { kind = "mlp", hidden = [7] }
        b = { kind = "mlp", hidden = [8] }
    """
    other = """
        extends = "base"
        modalities = ["b", "c"]
        [every_modality]
        weight = 0.5
    """
    (folder / "base.toml").write_text(base, "utf-8")
    (folder / "other.toml").write_text(other, "utf-8")
    kept = recipe("other")
    assert kept["modalities"] == {
        "b": {"shape": [5], "weight": 0.5},
        "c": {"shape": [4], "weight": 0.5},
    }
    assert kept["classifiers"]["networks"] == {"b": {"kind": "mlp", "hidden": [8]}}
