"""Nexus against NumPy, with linear networks but for one hidden layer of its second level."""

from itertools import combinations

import numpy as np
import pytest
import torch

from mvflow.config import config_from_dict
from mvflow.core import ConfigError, Observed
from mvflow.nn import seeded
from mvflow.systems import build_system
from mvflow.systems.masking import random_subsets

ROWS, TOP, MESSAGE, NOISE, BETA = 6, 2, 5, 0.6, 0.7
NAMES, WIDTHS = ("m0", "m1", "m2"), {"m0": 1, "m1": 3, "m2": 2}
GAMMAS = {"m0": 1.0, "m1": 5.0, "m2": 1.0}
LINEAR = {"kind": "mlp", "hidden": []}


def build(count=3, private_dim=None, **joint):
    modalities = {
        n: {
            "shape": [2 + j],
            "likelihood": {"kind": "normal", "scale": NOISE},
            "weight": (0.5, 2.0, 3.0)[j],
            "encoder": LINEAR,
            "decoder": LINEAR,
        }
        for j, n in enumerate(NAMES[:count])
    }
    gammas = {n: g for n, g in GAMMAS.items() if n in modalities and g != 1}
    joint = {"beta": BETA, "dropout": 0.0, "top_weights": gammas, **joint}
    own = {"message_dim": MESSAGE, "hidden": [], "joint": joint}
    own["private_dim"] = private_dim or {n: w for n, w in WIDTHS.items() if n in modalities}
    raw = {"system": "nexus", "latent_dim": TOP, "modalities": modalities, **own}
    return build_system(config_from_dict(raw)).double()


def data(count=3):
    rng = np.random.default_rng(0)
    shapes = {n: (ROWS, 2 + j) for j, n in enumerate(NAMES[:count])}
    return {n: torch.from_numpy(rng.normal(size=shape)) for n, shape in shapes.items()}


def apply(module, x):
    """Linear layers with ReLU between them."""
    layers = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    for i, layer in enumerate(layers):
        x = (np.maximum(x, 0) if i else x) @ layer.weight.detach().numpy().T
        x = x + layer.bias.detach().numpy()
    return x


def gaussian(features):
    loc, raw = np.split(features, 2, axis=-1)
    return loc, np.exp(7 * np.tanh(raw / 7))


def kl(loc, scale):
    return (0.5 * (loc**2 + scale**2 - 1) - np.log(scale)).sum(-1)


def log_normal(x, mean, scale):
    away = (x - mean) / scale
    return (-0.5 * away**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)).sum(-1)


def loss(system, x, present=None, progress=1.0):
    masks = present and {n: torch.from_numpy(p) for n, p in present.items()}
    with seeded(0, "noise"):
        return system.stages()[0].loss(Observed(x, masks), progress).total


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize(("progress", "ramp"), [(1.0, 1.0), (0.05, 0.25)])
def test_the_loss_is_that_of_numpy_on_the_same_noise(count, absent, progress, ramp):
    system, x = build(count), data(count)
    joint, rng = system.joint, np.random.default_rng(2)
    present = {n: rng.random(ROWS) < (0.6 if absent else 2) for n in x}
    with seeded(0, "noise"):
        below = {n: torch.randn(ROWS, WIDTHS[n], dtype=torch.float64).numpy() for n in x}
        above = torch.randn(ROWS, TOP, dtype=torch.float64).numpy()
    q = {n: gaussian(apply(joint.encoders[n], v.numpy())) for n, v in x.items()}
    z = {n: q[n][0] + q[n][1] * below[n] for n in x}
    total = 0.0
    for row in range(ROWS):
        seen = [n for n in x if present[n][row]]
        if not seen:
            continue
        message = np.mean([apply(joint.messages[n], z[n][row]) for n in seen], 0)
        loc, scale = gaussian(apply(joint.top_encoder, message))
        top = loc + scale * above[row]
        total += ramp * BETA * kl(loc, scale)
        for n in seen:
            mean = apply(joint.decoders[n], z[n][row])
            total -= joint.weights[n] * log_normal(x[n][row].numpy(), mean, NOISE)
            total += ramp * BETA * kl(q[n][0][row], q[n][1][row])
            total -= GAMMAS[n] * log_normal(z[n][row], apply(joint.top_decoders[n], top), 1.0)
    found = loss(system, x, present, progress).detach()
    np.testing.assert_allclose(found, total / ROWS, rtol=1e-12)


def test_the_second_level_does_not_train_the_first():
    found = []
    for gamma in (1.0, 9.0):
        system = build(top_weights=dict.fromkeys(NAMES, gamma))
        loss(system, data()).backward()
        found.append([p.grad.clone() for p in system.joint.encoders.parameters()])
        assert all(p.grad.abs().sum() > 0 for p in system.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_given_modalities_the_first_level_is_at_its_mean():
    system, x = build(), data()
    joint = system.joint
    messages = [
        apply(joint.messages[n], gaussian(apply(joint.encoders[n], x[n].numpy()))[0])
        for n in ("m0", "m2")
    ]
    loc, scale = gaussian(apply(joint.top_encoder, np.mean(messages, 0)))
    q = system.posterior(Observed({n: x[n] for n in ("m0", "m2")}))
    np.testing.assert_allclose(q.mean.detach(), loc, rtol=1e-10)
    np.testing.assert_allclose(q.stddev.detach(), scale, rtol=1e-10)
    made = system.decode(torch.from_numpy(loc), ["m1"])["m1"].mean.detach()
    expected = apply(joint.decoders["m1"], apply(joint.top_decoders["m1"], loc))
    np.testing.assert_allclose(made, expected, rtol=1e-10)


@pytest.mark.parametrize(("share", "many"), [(0.0, 2), (1.0, 1)])
def test_training_hides_that_share_from_the_second_level_alone(share, many, monkeypatch):
    system, x = build(2, dropout=share), {n: v[:1] for n, v in data(2).items()}
    joint, (stage,) = system.joint, system.stages()
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    z = {n: gaussian(apply(joint.encoders[n], v.numpy()))[0] for n, v in x.items()}
    messages = {n: apply(joint.messages[n], v) for n, v in z.items()}
    divergences = [
        kl(*gaussian(apply(joint.top_encoder, np.mean([messages[n] for n in seen], 0))))[0]
        for seen in combinations(x, many)
    ]
    drawn = []
    for seed in range(20):
        with seeded(seed, "dropout"), torch.no_grad():
            terms = stage.loss(Observed(x), 1.0).terms
        drawn.append(float(terms["kl"]))
        for n in x:  # the first level has all
            fit = log_normal(x[n].numpy(), apply(joint.decoders[n], z[n]), NOISE)
            assert float(terms[n]) == pytest.approx(fit.item(), rel=1e-12)
    assert sorted({round(v, 9) for v in drawn}) == sorted(round(v, 9) for v in divergences)


def test_forced_perceptual_dropout_hides_any_number_but_not_all():
    present = torch.ones(4, 6000, dtype=torch.bool)
    present[3, 3000:] = False
    with seeded(0, "dropout"):
        kept = random_subsets(present, 0.3)
    assert not (kept & ~present).any()
    for rows, many in ((kept[:, :3000], 4), (kept[:3, 3000:], 3)):
        sizes = rows.sum(0).bincount(minlength=many + 1).double() / 3000
        share = 0.3 / (many - 1)  # each number from 1 to all but one alike
        error = np.sqrt(share * (1 - share) / 3000)
        assert sizes[0] == 0
        assert (abs(sizes[1:many] - share) < 4 * error).all()
        alone = rows[:, rows.sum(0) == 1].sum(1).double()  # no modality is favoured
        assert (abs(alone - alone.mean()) < 4 * alone.mean().sqrt()).all()
    assert torch.equal(random_subsets(present[:1], 1.0), present[:1])  # one is never hidden


@pytest.mark.bad_input
def test_settings_name_modalities_that_there_are():
    with pytest.raises(ConfigError, match="unknown modality 'm9'"):
        build(top_weights={"m9": 1.0})
    with pytest.raises(ConfigError, match="unknown modality 'M0': did you mean 'm0'"):
        build(private_dim={**WIDTHS, "M0": 2})
    with pytest.raises(ConfigError, match="private_dim has no m1, m2: name all modalities"):
        build(private_dim={"m0": 1})
