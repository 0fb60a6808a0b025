"""The stages of the models: what each trains, what it freezes, what it may cache."""

import numpy as np
import pytest
import torch
from mvflow.models import build_model
from torch import nn

from mvflow.config import config_from_dict, stage_names
from mvflow.core import ArraySource, ConfigError, DataError
from mvflow.nn import ModalityDict, seeded
from mvflow.training import Table, build_stage, finish_stage, run_stage
from mvflow.training.caching import LATENTS


def config(model, **changes):
    modalities = {n: {"shape": [d], "encoder": {"hidden": [6]}} for n, d in (("a", 3), ("b", 4))}
    for m in modalities.values():
        m["encoder"]["kind"] = "mlp"
    train = {"epochs": 2, "batch_size": 32}
    raw = {
        "model": model,
        "latent_dim": 2,
        "modalities": modalities,
        "joint": {**train, "merge": [8]},
        "projectors": {**train, "dim": 2},
        "flows": {**train, "hidden": [8], "summary_hidden": [8]},
        "amortised": {**train, "hidden": [8], "summary_hidden": [8], "embedding": 4},
    }
    for section, values in changes.items():
        raw[section] = {**raw.get(section, {}), **values}
    return config_from_dict(raw)


def table(rows=200, paired=False):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(rows, 2))
    x = {"a": z @ rng.normal(size=(2, 3)), "b": z @ rng.normal(size=(2, 4))}
    pairs = {n: rng.integers(rows, size=rows) for n in x} if paired else None
    return Table.of(ArraySource(x, pairs=pairs))


def with_batch_normalisation(model):
    """User modules whose buffers would move in training mode."""
    model.joint.heads = ModalityDict(
        {
            n: nn.Sequential(nn.BatchNorm1d(d), nn.Dropout(), nn.Linear(d, 4))
            for n, d in (("a", 3), ("b", 4))
        }
    )
    if model.projectors is not None:
        model.projectors = ModalityDict(
            {n: nn.Sequential(nn.Linear(d, 2), nn.BatchNorm1d(2)) for n, d in (("a", 3), ("b", 4))}
        )
    return model


def snapshot(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("model", ["jnf", "jnf-shared"])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("last", ["flows", "amortised"])
def test_the_last_stage_leaves_all_else_to_the_bit(model, paired, last):
    kind = {"flows": "product", "amortised": "amortised"}[last]
    settings, rows = config(model).model_copy(update={"subset": kind}), table(paired=paired)
    with seeded(0, "model"):
        made = with_batch_normalisation(build_model(settings))
    for name in stage_names(settings)[:-1]:
        stage = build_stage(name, made, settings, rows)
        run_stage(stage)
        finish_stage(name, made, stage.train)
    frozen = {n: snapshot(made.stage_module(n)) for n in stage_names(settings)[:-1]}
    before = snapshot(made.stage_module(last))
    stage = build_stage(last, made, settings, rows)
    run_stage(stage)
    for name, expected in frozen.items():
        found = made.stage_module(name).state_dict()
        assert all(torch.equal(found[k], expected[k]) for k in expected), name
    after = made.stage_module(last).state_dict()
    assert any(not torch.equal(v, before[k]) for k, v in after.items())


@pytest.mark.parametrize("model", ["jnf", "jnf-shared"])
@pytest.mark.parametrize("paired", [False, True])
def test_cached_columns_are_what_the_frozen_parts_give(model, paired):
    settings, rows = config(model), table(paired=paired)
    with seeded(0, "model"):
        made = with_batch_normalisation(build_model(settings)).eval()
    train, held = rows.split(settings.data.validation, np.random.default_rng(0))
    stage = build_stage("flows", made, settings, train, held)
    for cached, original in ((stage.train, train), (stage.validation, held)):
        at = torch.tensor([3, 0, 7])
        found, x = cached.gather(at), original.gather(at)
        with torch.no_grad():
            q = made.joint.posterior(x).base_dist
            # batches of other sizes round matrix products differently in the last bit
            torch.testing.assert_close(found[LATENTS][:, 0], q.loc, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found[LATENTS][:, 1], q.scale, rtol=1e-5, atol=1e-6)
            for name in x:
                expected = made.condition(name, x[name])
                torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_the_flows_are_standardised_by_the_recorded_moments():
    settings, rows = config("jnf"), table()
    made = build_model(settings)
    stage = build_stage("joint", made, settings, rows)
    finish_stage("joint", made, stage.train)
    build_stage("flows", made, settings, rows)
    assert made.joint.radius < 1e6
    for _, q in made.flows.items():
        assert torch.equal(q.shift, made.joint.latent_mean)
        assert torch.equal(q.spread, made.joint.latent_std)


def test_the_flows_loss_is_the_cross_entropy_with_the_joint_posterior(linear_gaussian):
    """For exact experts: E_q(z|X) log p(z|x_j), a Gaussian cross-entropy in closed form."""
    known = linear_gaussian(2, 2)
    made, x = known.model(torch.float32), known.sample(4000)
    rows = Table.of(ArraySource(x, known.specs))
    settings = config("jnf", data={"validation": 0.0})
    stage = build_stage("flows", made, settings, rows)
    with torch.no_grad(), seeded(0, "loss"):
        losses = stage.loss(stage.train.gather(torch.arange(4000)), 0.0)
    loc, scale = known.posterior(x)
    for name in known.names:
        m, s = known.posterior({name: x[name]})
        expected = -np.log(s * np.sqrt(2 * np.pi)) - ((loc - m) ** 2 + scale**2) / (2 * s**2)
        expected = expected.sum(1)
        assert abs(float(losses.terms[name]) - expected.mean()) < 4 * np.sqrt(2 / 4000) * 2
    torch.testing.assert_close(losses.total, -sum(losses.terms.values()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["contrastive", "dcca"])
def test_projectors_learn_what_is_shared(kind):
    settings = config("jnf-shared", projectors={"kind": kind, "batch_size": 64, "epochs": 8})
    made = build_model(settings)
    stage = build_stage("projectors", made, settings, table(400))
    batch = stage.validation.gather(torch.arange(len(stage.validation)))
    with torch.no_grad():
        before = float(stage.loss(batch, 1.0).total)
    run_stage(stage)
    with torch.no_grad():
        assert float(stage.loss(batch, 1.0).total) < before


@pytest.mark.bad_input
def test_a_batch_too_small_for_dcca_is_refused():
    settings = config("jnf-shared", projectors={"kind": "dcca", "dim": 5, "batch_size": 32})
    with pytest.raises(ConfigError, match="batch_size=32 is too small for DCCA .*least 50"):
        build_stage("projectors", build_model(settings), settings, table())


@pytest.mark.bad_input
def test_too_few_rows_for_dcca_are_refused():
    settings = config("jnf-shared", projectors={"kind": "dcca", "dim": 5, "batch_size": 64})
    with pytest.raises(DataError, match="10 validation rows are too few .*at least 50"):
        build_stage("projectors", build_model(settings), settings, table(200))


def test_beta_follows_its_annealing():
    settings = config("jnf", joint={"beta": 0.5, "beta_start": 8.0, "anneal": 0.5})
    made = build_model(settings)
    stage = build_stage("joint", made, settings, table())
    batch = stage.train.gather(torch.arange(20))
    for progress, beta in ((0.0, 8.0), (0.25, 2.0), (0.5, 0.5), (1.0, 0.5)):
        with torch.no_grad(), seeded(0, "loss"):
            found = stage.loss(batch, progress).total
        with torch.no_grad(), seeded(0, "loss"):
            expected = made.joint.losses(batch, beta).total
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
