"""The stages of JNF: what each trains, what it freezes, what it caches, what it refuses."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mvflow.config import config_from_dict
from mvflow.core import ArraySource, ConfigError, DataError, Observed
from mvflow.nn import ModalityDict, seeded
from mvflow.posteriors.velocity import path_moments
from mvflow.systems import build_system, stages_of
from mvflow.training import Table, build_stage, run_stage


def config(system="jnf", **changes):
    modalities = {n: {"shape": [d], "encoder": {"hidden": [6]}} for n, d in (("a", 3), ("b", 4))}
    for m in modalities.values():
        m["encoder"]["kind"] = "mlp"
    train = {"epochs": 2, "batch_size": 32}
    raw = {
        "system": system,
        "latent_dim": 2,
        "modalities": modalities,
        "joint": {**train, "merge": [8]},
        "projectors": train,
        "posterior": {"kind": "maf", "hidden": [8]},
        "flows": {**train, "summary_hidden": [8]},
    }
    for section, values in changes.items():
        raw[section] = {**raw.get(section, {}), **values}
    return config_from_dict(raw)


def shared(kind="contrastive", dim=2, **changes):
    return config("jnf-shared", projector={"kind": kind, "dim": dim}, **changes)


CONFIGS = {"jnf": config, "jnf-shared": shared}


def table(rows=200, paired=False):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(rows, 2))
    x = {"a": z @ rng.normal(size=(2, 3)), "b": z @ rng.normal(size=(2, 4))}
    pairs = {n: rng.integers(rows, size=rows) for n in x} if paired else None
    return Table.of(ArraySource(x, pairs=pairs))


def built(settings):
    """With user modules whose buffers would move in training mode."""
    with seeded(0, "system"):
        system = build_system(settings)
        system.joint.heads = ModalityDict(
            {
                n: nn.Sequential(nn.BatchNorm1d(d), nn.Dropout(), nn.Linear(d, 4))
                for n, d in (("a", 3), ("b", 4))
            }
        )
        if system.projectors is not None:
            system.projectors = ModalityDict(
                {
                    n: nn.Sequential(nn.Linear(d, 2), nn.BatchNorm1d(2))
                    for n, d in (("a", 3), ("b", 4))
                }
            )
    return system


def spec_of(system, name):
    (found,) = (spec for spec in stages_of(system) if spec.name == name)
    return found


def snapshot(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("last", ["flows", "amortised"])
def test_the_last_stage_leaves_all_else_to_the_bit(name, paired, last):
    kind = {"flows": "product", "amortised": "amortised"}[last]
    system, rows = built(CONFIGS[name](subset={"kind": kind})), table(paired=paired)
    *earlier, spec = stages_of(system)
    assert spec.name == last
    for each in earlier:
        run_stage(build_stage(each, system, rows))
        if each.finish is not None:
            each.finish(rows)
    frozen = {each.name: snapshot(each.module) for each in earlier}
    before = snapshot(spec.module)
    run_stage(build_stage(spec, system, rows))
    for each in earlier:
        found, expected = each.module.state_dict(), frozen[each.name]
        assert all(torch.equal(found[k], expected[k]) for k in expected), each.name
    assert any(not torch.equal(v, before[k]) for k, v in spec.module.state_dict().items())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("paired", [False, True])
def test_cached_columns_are_what_the_frozen_parts_give(name, paired):
    system, rows = built(CONFIGS[name]()).eval(), table(paired=paired)
    train, held = rows.split(0.1, np.random.default_rng(0))
    stage = build_stage(spec_of(system, "flows"), system, train, held)
    for cached, original in ((stage.train, train), (stage.validation, held)):
        at = torch.tensor([3, 0, 7])
        found, x = Observed.from_columns(cached.gather(at)), original.gather(at)
        with torch.no_grad():
            q = system.encode(Observed(x)).base_dist
            expected = {"joint_posterior": torch.stack([q.loc, q.scale], 1)}
            expected |= {n: system.condition(n, x[n]) for n in x}
        # batches of other sizes round matrix products differently in the last bit
        near = {"rtol": 1e-5, "atol": 1e-6}
        assert found.cached.keys() | found.x.keys() == expected.keys()
        for column, values in expected.items():
            torch.testing.assert_close({**found.x, **found.cached}[column], values, **near)


def test_the_flows_are_standardised_by_the_recorded_moments():
    system, rows = build_system(config()), table()
    spec_of(system, "joint").finish(rows)
    build_stage(spec_of(system, "flows"), system, rows)
    assert system.radius < 1e6
    for _, q in system.flows.items():
        assert torch.equal(q.shift, system.latent_mean)
        assert torch.equal(q.spread, system.latent_std)


def test_the_flows_loss_is_the_cross_entropy_with_the_joint_posterior(linear_gaussian):
    """For exact experts: E_q(z|X) log p(z|x_j), a Gaussian cross-entropy in closed form."""
    known = linear_gaussian(2, 2)
    system, x = known.system(torch.float32), known.sample(4000)
    rows = Table.of(ArraySource(x, known.specs))
    stage = build_stage(spec_of(system, "flows"), system, rows)
    with torch.no_grad(), seeded(0, "loss"):
        losses = stage.loss(stage.train.gather(torch.arange(4000)), 0.0)
    loc, scale = known.posterior(x)
    for name in known.names:
        m, s = known.posterior({name: x[name]})
        expected = -np.log(s * np.sqrt(2 * np.pi)) - ((loc - m) ** 2 + scale**2) / (2 * s**2)
        expected = expected.sum(1)
        assert abs(float(losses.terms[name]) - expected.mean()) < 4 * np.sqrt(2 / 4000) * 2
    torch.testing.assert_close(losses.total, -sum(losses.terms.values()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["contrastive", "dcca", "barlow-twins"])
def test_projectors_learn_what_is_shared(kind):
    system = build_system(shared(kind, projectors={"batch_size": 64, "epochs": 8}))
    train, held = table(400).split(0.1, np.random.default_rng(0))
    stage = build_stage(spec_of(system, "projectors"), system, train, held)
    batch = held.gather(torch.arange(len(held)))
    with torch.no_grad():
        before = float(stage.loss(batch, 1.0).total)
    run_stage(stage)
    with torch.no_grad():
        assert float(stage.loss(batch, 1.0).total) < before


@pytest.mark.bad_input
def test_a_batch_too_small_for_dcca_is_refused():
    system = build_system(shared("dcca", 5))
    with pytest.raises(ConfigError, match="batch_size=32 is too small for .*least 50"):
        system.stages()


@pytest.mark.bad_input
def test_too_few_rows_for_dcca_are_refused():
    system = build_system(shared("dcca", 5, projectors={"batch_size": 64}))
    train, held = table(200).split(0.05, np.random.default_rng(0))
    spec = spec_of(system, "projectors")
    with pytest.raises(DataError, match="10 validation rows are too few .*at least 50"):
        build_stage(spec, system, train, held)
    with pytest.raises(DataError, match="10 training rows are too few .*at least 50"):
        build_stage(spec, system, held, train)


def test_beta_follows_its_annealing():
    system = build_system(config(joint={"beta": 0.5, "beta_start": 8.0, "anneal": 0.5}))
    stage = build_stage(spec_of(system, "joint"), system, table())
    batch = stage.train.gather(torch.arange(20))
    for progress, beta in ((0.0, 8.0), (0.25, 2.0), (0.5, 0.5), (1.0, 0.5)):
        with torch.no_grad(), seeded(0, "loss"):
            found = stage.loss(batch, progress).total
        with torch.no_grad(), seeded(0, "loss"):
            expected = system.joint.losses(Observed(batch), beta).total
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_draws_of_a_row_in_a_matching_step_take_one_pass_of_its_encoders():
    """More subsets, times and noises of each row: the same loss on the average, less noise."""
    losses, sizes = {}, {}
    for draws in (1, 8):
        subset = {"kind": "matching", "draws": draws, "embedding": 4, "width": 8}
        system = build_system(config(subset={**subset, "summary_hidden": [8]}))
        module = system.subset_module
        stage = build_stage(spec_of(system, "matching"), system, table(64))
        batch, sizes[draws] = stage.train.gather(torch.arange(32)), []
        for part in (module.encoders["a"], module.merge):
            part.register_forward_hook(lambda *x, to=sizes[draws]: to.append(len(x[2])))
        stage.trainable.eval()
        with torch.no_grad(), seeded(0, "draws"):
            losses[draws] = torch.stack([stage.loss(batch, 0.0).total for _ in range(200)])
    assert {*sizes[1]} == {32}
    assert sizes[8][:2] == [32, 8 * 32]
    error = (losses[1].var() / 200 + losses[8].var() / 200) ** 0.5
    assert abs(losses[1].mean() - losses[8].mean()) < 4 * error
    assert losses[8].var() < losses[1].var() / 3


@pytest.mark.parametrize("kind", ["contrastive", "dcca", "barlow-twins"])
def test_projectors_that_have_learned_nothing_are_said(kind, caplog):
    """Outputs that do not depend on what modalities share are no better than at random."""
    system = build_system(shared(kind, 2, projectors={"batch_size": 128}))
    spec, rows = spec_of(system, "projectors"), table(400)
    rng = np.random.default_rng(1)
    apart = Table.of(ArraySource({n: rng.normal(size=(400, d)) for n, d in (("a", 3), ("b", 4))}))
    spec.finish(apart)
    assert "projectors have learned nothing" in caplog.text
    caplog.clear()
    run_stage(build_stage(spec, system, rows))
    spec.module.eval()
    spec.finish(rows)
    assert not caplog.text


def matching_loss(monkeypatch, distillation, teacher, seed=0):
    """Loss and gradients of a training step in which the averaged weights predict `teacher`."""
    subset = {"kind": "matching", "distillation": distillation, "embedding": 4, "width": 8}
    system = build_system(config(subset={**subset, "summary_hidden": [8]}))
    stage = build_stage(spec_of(system, "matching"), system, table(64))
    module = system.subset_module.train()
    plain = module.velocity.residual

    def residual(t, at, condition):
        return plain(t, at, condition) if torch.is_grad_enabled() else teacher(at)

    monkeypatch.setattr(module.velocity, "residual", residual)
    with seeded(seed, "loss"):
        loss = stage.loss(stage.train.gather(torch.arange(32)), 0.5).total
    loss.backward()
    return loss.detach(), [p.grad for p in module.parameters() if p.grad is not None]


def test_a_teacher_of_weight_0_is_none_and_of_weight_1_is_what_is_fitted(monkeypatch):
    """The network begins at 0, so that its loss is the mean square of what it is to be."""
    plain, none = (matching_loss(monkeypatch, 0.0, f) for f in (torch.zeros_like, torch.ones_like))
    assert torch.equal(plain[0], none[0])
    assert all(torch.equal(a, b) for a, b in zip(plain[1], none[1], strict=True))
    three, thirty = (
        matching_loss(monkeypatch, 1.0, partial(torch.full_like, fill_value=v))[0] for v in (3, 30)
    )
    share = float((thirty - three) / (900 - 9))  # of the rows that see less than all they have
    assert 0.5 < share < 0.85  # 2/3 of all sizes
    half = matching_loss(monkeypatch, 0.5, partial(torch.full_like, fill_value=1e3))[0]
    full = matching_loss(monkeypatch, 1.0, partial(torch.full_like, fill_value=1e3))[0]
    torch.testing.assert_close(half / full, torch.tensor(0.25), rtol=0.02, atol=0)  # 1e3 >> 1


def distilling(monkeypatch, distillation, exact=None):
    """A matching stage in training, its batch of 32, and what its network is fitted to.

    Args:
        distillation: weight of the teacher.
        exact: (t, at, rows' mean, rows' scale) -> what the teacher predicts.
    """
    subset = {"kind": "matching", "distillation": distillation, "embedding": 4, "width": 8}
    system = build_system(config(subset={**subset, "summary_hidden": [8]}))
    stage = build_stage(spec_of(system, "matching"), system, table(64))
    module, batch, fitted = system.subset_module.train(), stage.train.gather(torch.arange(32)), []
    q = system.encode(Observed.from_columns(table(64).gather(torch.arange(32))))
    loc, scale = ((q.base_dist.loc - module.shift) / module.spread).repeat(4, 1), q.stddev
    scale = (scale / module.spread).repeat(4, 1)
    plain, loss = module.velocity.residual, module.loss

    def residual(t, at, condition):
        return plain(t, at, condition) if torch.is_grad_enabled() else exact(t, at, loc, scale)

    def spy(states, condition):
        fitted.append((*states, condition.detach()))
        return loss(states, condition)

    monkeypatch.setattr(module, "update_averages", lambda: None)
    monkeypatch.setattr(module, "loss", spy)
    if exact is not None:
        monkeypatch.setattr(module.velocity, "residual", residual)
    return module, lambda seed: step(stage, batch, seed), fitted


def step(stage, batch, seed):
    with seeded(seed, "step"):
        return stage.loss(batch, 0.5).total


def exact_teacher(t, at, loc, scale):
    """E[z - e | z_t] of z ~ N(loc, scale^2), less what `path_moments` takes off."""
    t = t[:, None]
    gain = (t * scale**2 - (1 - t)) / (t**2 * scale**2 + (1 - t) ** 2)
    slope, height = path_moments(t)
    return (height * (loc + gain * (at - t * loc) - slope * at)).detach()


def test_an_exact_teacher_leaves_what_is_fitted_and_takes_noise_out(monkeypatch):
    """The optimum is E[teacher | z_t, x_S] = E[z - e | z_t, x_S], by the law of total expectation.

    So the change of what is fitted has mean 0 whatever the network sees it together with.
    """
    changed = {}
    for weight in (0.0, 1.0):
        _, one_step, fitted = distilling(monkeypatch, weight, exact_teacher)
        for seed in range(150):
            one_step(seed)
        changed[weight] = [torch.cat(parts) for parts in zip(*fitted, strict=True)]
    (t, at, plain, condition), (*_, taught, _) = changed[0.0], changed[1.0]
    change = taught - plain
    sees_less = (change != 0).any(1)
    assert 0.5 < sees_less.float().mean() < 0.85
    one = torch.ones(len(t), 1)
    for beside in (one, t[:, None], at, at.square(), condition[:, :4], at * condition[:, :1]):
        for column in beside.T:
            products = change * column[:, None]
            error = products.std(0) / len(products) ** 0.5
            assert (products.mean(0).abs() < 5 * error).all()  # each of 30: 1 in 10^5 by chance
    assert taught[sees_less].var() < 0.9 * plain[sees_less].var()


def test_no_gradient_reaches_the_teacher(monkeypatch):
    """It is the derivative of the loss with the averages of the weights held as they are."""
    module, one_step, _ = distilling(monkeypatch, 1.0)
    with torch.no_grad(), seeded(0, "weights"):
        for value in (*module.parameters(), *module.buffers()):
            if value.dtype == torch.float32 and value.ndim:
                value += 0.2 * torch.randn_like(value)
        module.spread.fill_(1)
    one_step(0).backward()
    weights = [p for p in module.parameters() if p.grad is not None]
    with seeded(1, "direction"):
        along = [torch.randn_like(p) for p in weights]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(weights, along, strict=True))
    losses, size = [], 1e-3
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(weights, along, strict=True):
                p += sign * size * d
            losses.append(float(one_step(0)))
    # of float32 losses near 1 differences are known to 1e-7, slopes to 1e-4
    np.testing.assert_allclose(slope, (losses[0] - losses[1]) / (2 * size), rtol=0.01, atol=3e-4)


def test_a_teacher_of_weight_0_changes_no_stage_that_is_trained_already():
    rule = config(subset={"kind": "matching"}).subset
    assert "distillation" not in rule.dependencies()
    assert rule.model_copy(update={"distillation": 0.5}).dependencies()["distillation"] == 0.5


def learning_from(rows, present, changed=0.0):
    """A matching stage of rows without some modalities, whose "a" is changed where "b" lacks."""
    a = np.random.default_rng(0).normal(size=(40, 3)) + changed * ~present["b"][:, None]
    subset = {"kind": "matching", "learn_from": rows, "embedding": 4, "width": 8, "draws": 2}
    system = build_system(config(subset={**subset, "summary_hidden": [8]}, joint={"masking": 0.5}))
    source = ArraySource({"a": a, "b": np.ones((40, 4))}, present=present)
    return build_stage(spec_of(system, "matching"), system, Table.of(source)), system


@pytest.mark.parametrize("rows", ["all", "complete"])
def test_matching_learns_from_complete_rows_alone_where_it_is_told_to(rows):
    gradients = []
    for changed in (0.0, 1.0):
        stage, system = learning_from(rows, {"b": np.arange(40) % 4 > 0}, changed)
        module = system.subset_module.train()
        with seeded(0, "weights"):  # F begins at 0, where what it sees has no gradient
            torch.nn.init.normal_(module.velocity.last.weight)
        with seeded(0, "loss"):
            stage.loss(stage.train.gather(torch.arange(40)), 0.5).total.backward()
        gradients.append([p.grad for p in module.parameters() if p.grad is not None])
    same = all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    assert same == (rows == "complete")


@pytest.mark.bad_input
def test_matching_cannot_learn_from_complete_rows_where_there_are_none():
    half = np.arange(40) < 20
    learning_from("all", {"a": half, "b": ~half})
    with pytest.raises(DataError, match=r"no row has all modalities: .*learn_from='all'"):
        learning_from("complete", {"a": half, "b": ~half})
