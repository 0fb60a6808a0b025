"""Each recipe builds its systems, trains one step of each stage and judges one row."""

import numpy as np
import pytest
import torch

from mvflow.config import config_from_dict, recipe, recipe_names
from mvflow.core import ArraySource, Observed, registry
from mvflow.nn import build_classifier
from mvflow.systems import build_system, stages_of
from mvflow.training import Table, build_stage, run_stage

RECIPES = [n for n in recipe_names() if not n.startswith("pendigits")]  # those are of MHD
STAGES = {"jnf": ("joint", "flows"), "jnf-shared": ("projectors", "joint", "flows")}
ONE_STEP = {
    system: [
        "data.validation=0.0",
        *(
            f"{stage}.{setting}"
            for stage in stages
            for setting in ("epochs=1", "steps_per_epoch=1", "batch_size=2", "patience=none")
        ),
    ]
    for system, stages in STAGES.items()
}


def table(config):
    rng = np.random.default_rng(0)
    specs = config.specifications()
    return Table.of(ArraySource({m.name: rng.random((2, *m.shape)) for m in specs}, specs))


SLOW = {"mhd", "polymnist", "translated-polymnist"}  # networks of the paper's size


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in RECIPES]
)
@pytest.mark.parametrize("system", ["jnf", "jnf-shared"])
def test_one_step_of_each_stage(name, system):
    repeated = [m for m in recipe(name)["modalities"] if m in ("m2", "m3", "m4")]
    alike = [f"modalities.{m}=none" for m in repeated]
    shared = ["projector=contrastive", "projector.dim=2"] if system == "jnf-shared" else []
    raw = recipe(name, [f"system={system}", *alike, *shared, *ONE_STEP[system]])
    config = config_from_dict(raw)
    rows, built = table(config), build_system(config)
    stages = stages_of(built)
    for spec in stages if system == "jnf-shared" else stages[-1:]:  # both share the joint stage
        weight = next(spec.module.parameters())
        before = weight.detach().clone()
        run_stage(build_stage(spec, built, rows), seed=0)
        if spec.finish is not None:
            spec.finish(rows)
        assert not torch.equal(weight, before)
    x = {n: v[:1] for n, v in rows.gather(torch.arange(2)).items()}
    built.eval()
    with torch.no_grad():
        z = built.posterior(Observed(x)).sample()
        decoded = built.decode(z)
        for m in config.specifications():
            assert decoded[m.name].sample().shape == (1, *m.shape)
            alone = built.posterior(Observed({m.name: x[m.name]}))
            assert alone.log_prob(z).isfinite().all()


OTHERS = [n for n in registry("systems").names() if n not in STAGES]
ONE_BATCH = [
    f"{stage}.{setting}"
    for stage in ("joint", "experts")
    for setting in ("epochs=1", "steps_per_epoch=1", "batch_size=2", "patience=none")
]


@pytest.mark.parametrize("name", ["mhd-small", "mnist-svhn-small", "polymnist-small"])
@pytest.mark.parametrize("system", OTHERS)
def test_one_step_of_other_systems(name, system):
    stages = ("joint.", "experts.") if system == "telbo" else ("joint.",)
    own = [a for a in ONE_BATCH if a.startswith(stages)]
    raw = recipe(name, [f"system={system}", "data.validation=0.0", *own])
    config = config_from_dict(raw)
    rows, built = table(config), build_system(config)
    for spec in stages_of(built):
        weight = next(spec.module.parameters())
        before = weight.detach().clone()
        run_stage(build_stage(spec, built, rows), seed=0)
        assert not torch.equal(weight, before)
    first = config.specifications()[0].name
    x = {first: rows.gather(torch.arange(2))[first][:1]}
    built.eval()
    with torch.no_grad():
        decoded = built.decode(built.posterior(Observed(x)).sample())
    assert all(decoded[m.name].mean.isfinite().all() for m in config.specifications())


PAPER = [  # recipe, system, values of Appendix E and of the best rows of Tables D.3 to D.5
    ("mnist-svhn", "jmvae", {"latent_dim": 20, "joint": {"alpha": 0.1, "beta": 2.5}}),
    ("mnist-svhn", "mmvae", {"latent_dim": 20, "joint": {"samples": 10, "beta": 0.5}}),
    ("mnist-svhn", "mmvae", {"family": "laplace", "scales": "normalised"}),
    ("mnist-svhn", "mmvae-plus", {"latent_dim": 10, "private_dim": 10}),
    ("mnist-svhn", "mmvae-plus", {"joint": {"samples": 10, "beta": 2.5}, "family": "laplace"}),
    ("mnist-svhn", "mvtcae", {"latent_dim": 20, "joint": {"alpha": 0.9, "beta": 2.5}}),
    ("mnist-svhn", "mopoe", {"latent_dim": 20, "joint": {"beta": 2.5, "subsets": "all"}}),
    ("polymnist", "jmvae", {"latent_dim": 190, "joint": {"alpha": 0.1, "beta": 2.5}}),
    ("polymnist", "mmvae", {"latent_dim": 64, "joint": {"samples": 10, "beta": 2.5}}),
    ("polymnist", "mmvae-plus", {"latent_dim": 32, "private_dim": 32}),
    ("polymnist", "mvtcae", {"latent_dim": 190, "joint": {"alpha": 5 / 6, "beta": 2.5}}),
    ("translated-polymnist", "jmvae", {"latent_dim": 200, "joint": {"merge": "concat"}}),
    ("translated-polymnist", "mmvae", {"latent_dim": 100, "joint": {"samples": 10, "beta": 1}}),
    ("translated-polymnist", "mmvae-plus", {"latent_dim": 32, "joint": {"samples": 10}}),
    ("translated-polymnist", "mvtcae", {"joint": {"alpha": 5 / 6, "beta": 0.5}}),
    ("mhd", "jmvae", {"latent_dim": 64, "joint": {"alpha": 0.1, "beta": 0.5, "batch_size": 64}}),
    ("mhd", "mmvae", {"latent_dim": 64, "joint": {"samples": 10, "beta": 0.5}}),
    ("mhd", "mmvae-plus", {"latent_dim": 32, "private_dim": 32, "joint": {"samples": 10}}),
    ("mhd", "mvtcae", {"latent_dim": 64, "joint": {"alpha": 0.9, "beta": 0.5}}),
    ("mhd", "nexus", {"latent_dim": 32, "message_dim": 512, "joint": {"dropout": 0.2}}),
    ("pendigits-speech", "nexus", {"private_dim": {"image": 64, "sound": 128, "trajectory": 16}}),
]


@pytest.mark.parametrize(("name", "system", "expected"), PAPER)
def test_values_of_the_paper(name, system, expected):
    settings = config_from_dict(recipe(name, [f"system={system}"])).to_dict()
    for key, value in expected.items():
        if key == "joint":
            assert {k: settings[key][k] for k in value} == pytest.approx(value) or value == {
                "merge": settings[key]["merge"]
            }
        else:
            assert settings[key] == value


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("system", OTHERS)
def test_every_recipe_is_one_of_every_system(name, system):
    config = config_from_dict(recipe(name, [f"system={system}"]))
    assert config.system == system
    if hasattr(config.joint, "samples"):
        assert config.joint.samples == (3 if name.endswith("-small") else 10)


@pytest.mark.parametrize(
    "name", [n for n in RECIPES if n != "linear-gaussian"]
)  # which has no classes
def test_its_classifiers_take_one_row(name):
    config = config_from_dict(recipe(name))
    for m in config.specifications():
        network = build_classifier(config.classifiers, m, 10).eval()
        assert network(torch.zeros(1, *m.shape)).shape == (1, 10)


def test_running_moments_survive_an_interruption():
    """Batch normalisation: going on from a checkpoint ends as never having stopped did."""
    rest = ["modalities.image=none", "modalities.sound=none", "latent_dim=2"]
    rest += ["joint.epochs=2", "joint.patience=none"]
    config = config_from_dict(recipe("mhd-small", ["data.validation=0.0", *rest]))
    x = np.random.default_rng(0).random((300, 200), np.float32)
    rows = Table.of(ArraySource({"trajectory": x}, config.specifications()))
    kept = []

    class Keep:
        def on_step(self, *args):
            pass

        def on_epoch(self, record, checkpoint):
            kept.append(checkpoint())

    whole, resumed = build_system(config), build_system(config)
    (joint, *_), (again, *_) = stages_of(whole), stages_of(resumed)
    run_stage(build_stage(joint, whole, rows), seed=0, callback=Keep())
    run_stage(build_stage(again, resumed, rows), seed=0, resume=kept[0])
    expected, found = (m.joint.state_dict() for m in (whole, resumed))
    assert any("running_mean" in k for k in found)
    assert all(torch.equal(found[k], expected[k]) for k in expected)
