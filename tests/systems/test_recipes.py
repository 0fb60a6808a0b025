"""Each recipe builds both models, trains one step of each stage and judges one row."""

import numpy as np
import pytest
import torch

from mvflow.config import config_from_dict, recipe, recipe_names, stage_names
from mvflow.core import ArraySource
from mvflow.models import build_model
from mvflow.nn import build_classifier
from mvflow.training import Table, build_stage, finish_stage, run_stage

RECIPES = [n for n in recipe_names() if not n.startswith("pendigits")]  # those are of MHD
ONE_STEP = [
    "data.validation=0.0",
    "projectors.kind=contrastive",
    "projectors.dim=2",
    *(
        f"{stage}.{setting}"
        for stage in ("projectors", "joint", "flows")
        for setting in ("epochs=1", "steps_per_epoch=1", "batch_size=2")
    ),
]


def table(config):
    rng = np.random.default_rng(0)
    specs = config.specifications()
    return Table.of(ArraySource({m.name: rng.random((2, *m.shape)) for m in specs}, specs))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("model", ["jnf", "jnf-shared"])
def test_one_step_of_each_stage(name, model):
    alike = [f"modalities.m{j}=none" for j in (2, 3, 4)] if "poly" in name else []
    config = config_from_dict(recipe(name, [f"model={model}", *alike, *ONE_STEP]))
    rows, built = table(config), build_model(config)
    stages = stage_names(config)
    for stage in stages if model == "jnf-shared" else stages[-1:]:  # both share the joint stage
        weight = next(built.stage_module(stage).parameters())
        before = weight.detach().clone()
        run_stage(build_stage(stage, built, config, rows), seed=0)
        finish_stage(stage, built, rows)
        assert not torch.equal(weight, before)
    x = {n: v[:1] for n, v in rows.gather(torch.arange(2)).items()}
    with torch.no_grad():
        z = built.joint.posterior(x).sample()
        decoded = built.joint.decode(z)
        for m in config.specifications():
            assert decoded[m.name].sample().shape == (1, *m.shape)
            assert built.unimodal(m.name, x[m.name]).log_prob(z).shape == (1,)


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
    rest = ["modalities.image=none", "modalities.sound=none", "joint.epochs=2", "latent_dim=2"]
    config = config_from_dict(recipe("mhd-small", ["data.validation=0.0", *rest]))
    x = np.random.default_rng(0).random((300, 200), np.float32)
    rows = Table.of(ArraySource({"trajectory": x}, config.specifications()))
    kept = []

    class Keep:
        def on_step(self, *args):
            pass

        def on_epoch(self, record, checkpoint):
            kept.append(checkpoint())

    whole, resumed = build_model(config), build_model(config)
    run_stage(build_stage("joint", whole, config, rows), seed=0, listener=Keep())
    run_stage(build_stage("joint", resumed, config, rows), seed=0, resume=kept[0])
    expected, found = (m.joint.state_dict() for m in (whole, resumed))
    assert any("running_mean" in k for k in found)
    assert all(torch.equal(found[k], expected[k]) for k in expected)
