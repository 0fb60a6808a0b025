"""MMVAE+ against NumPy, a model with a known likelihood, and data whose parts are known."""

import numpy as np
import pytest
import torch
import torch.distributions as td

from mvflow.config import config_from_dict
from mvflow.core import Modality, Observed
from mvflow.estimators import estimator_class
from mvflow.nn import seeded
from mvflow.systems import build_system
from mvflow_datasets.linear_gaussian import LinearGaussian

ROWS, SHARED, PRIVATE, SAMPLES = 4, 2, 1, 3
LINEAR = {"kind": "mlp", "hidden": []}


def build(count, family="laplace", **joint):
    names = ["m0", "m1", "m2"][:count]
    modalities = {
        n: {
            "shape": [2 + j],
            "likelihood": {"kind": "laplace", "scale": 0.5},
            "weight": (0.5, 2.0, 3.0)[j],
            "encoder": LINEAR,
            "decoder": LINEAR,
        }
        for j, n in enumerate(names)
    }
    raw = {"system": "mmvae-plus", "latent_dim": SHARED, "private_dim": PRIVATE, "family": family}
    joint = {"samples": SAMPLES, **joint}
    system = build_system(config_from_dict({**raw, "modalities": modalities, "joint": joint}))
    with torch.no_grad(), seeded(1, "scales"):
        system.joint.log_scales.normal_()
    return system.double()


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    x = {f"m{j}": rng.normal(size=(ROWS, 2 + j)) for j in range(count)}
    return {n: torch.from_numpy(v) for n, v in x.items()}


def linear(module, value):
    layer = next(m for m in module.modules() if isinstance(m, torch.nn.Linear))
    return value @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


class Reference:
    """The densities of the system, one value at a time, in NumPy."""

    def __init__(self, system, x, family):
        self.system, self.x = system, {n: v.numpy() for n, v in x.items()}
        self.family = family

    def log_density(self, value, loc, log_scale):
        log_scale = 7 * np.tanh(log_scale / 7)
        away = (value - loc) / np.exp(log_scale)
        if self.family == "laplace":
            return (-np.abs(away) - log_scale - np.log(2)).sum()
        return (-0.5 * away**2 - log_scale - 0.5 * np.log(2 * np.pi)).sum()

    def parameters(self, name, row, part):
        """Location and log-scale of q(u|x_j) or q(w_j|x_j)."""
        encoder = getattr(self.system.joint, part)[name]
        return np.split(linear(encoder, self.x[name][row]), 2)

    def log_likelihood(self, name, row, u, w):
        mean = linear(self.system.joint.decoders[name], np.concatenate([u, w]))
        return (-np.abs(self.x[name][row] - mean) / 0.5 - np.log(2 * 0.5)).sum()

    def log_mixture(self, u, row, names):
        each = [self.log_density(u, *self.parameters(n, row, "shared")) for n in names]
        return np.logaddexp.reduce(each) - np.log(len(each))


def noise(family, count):
    """Standard draws in the order in which the loss makes them: u, w, then all auxiliary w."""
    standard = {"laplace": td.Laplace, "normal": td.Normal}[family]
    shape, options = (SAMPLES, count, ROWS), {"dtype": torch.float64}

    def drawn(width):
        zero = torch.zeros(*shape, width, **options)
        return standard(zero, zero + 1).sample().numpy()

    return drawn(SHARED), drawn(PRIVATE), [drawn(PRIVATE) for _ in range(count)]


@pytest.mark.parametrize("family", ["laplace", "normal"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_the_loss_is_that_of_numpy_on_the_same_noise(family, count, absent):
    beta, x = 0.7, rows(count)
    system, names = build(count, family, beta=beta), sorted(x)
    reference = Reference(system, x, family)
    rng = np.random.default_rng(2)
    present = {n: rng.random(ROWS) < 0.6 if absent else np.ones(ROWS, bool) for n in names}
    (stage,) = system.stages()
    with seeded(0, "noise"):
        masks = {n: torch.from_numpy(p) for n, p in present.items()}
        found = stage.loss(Observed(x, masks), 1.0)
    with seeded(0, "noise"):
        eps_u, eps_w, eps_auxiliary = noise(family, count)
    scales = np.exp(7 * np.tanh(system.joint.log_scales.detach().numpy() / 7))
    weights, total = system.joint.weights, 0.0
    for row in range(ROWS):
        seen = [n for n in names if present[n][row]]
        bounds = []
        for m in seen:
            e, log_weights = names.index(m), []
            (u_loc, u_raw), (w_loc, w_raw) = (
                reference.parameters(m, row, part) for part in ("shared", "private")
            )
            for k in range(SAMPLES):
                u = u_loc + np.exp(7 * np.tanh(u_raw / 7)) * eps_u[k, e, row]
                w = w_loc + np.exp(7 * np.tanh(w_raw / 7)) * eps_w[k, e, row]
                log_p = reference.log_density(np.concatenate([u, w]), 0.0, 0.0)
                log_q = reference.log_mixture(u, row, seen)
                log_q += reference.log_density(w, w_loc, w_raw)
                value = beta * (log_p - log_q)
                for j, n in enumerate(names):
                    own = w if n == m else scales[j] * eps_auxiliary[j][k, e, row]
                    if n in seen:
                        value += weights[n] * reference.log_likelihood(n, row, u, own)
                log_weights.append(value)
            bounds.append(np.logaddexp.reduce(log_weights) - np.log(SAMPLES))
        total -= np.mean(bounds) / ROWS if bounds else 0.0
    np.testing.assert_allclose(found.total.detach(), total, rtol=1e-12)


@pytest.mark.parametrize("given", [("m0",), ("m2",), ("m0", "m1"), ("m0", "m1", "m2")])
def test_the_posterior_mixes_what_is_shared_and_has_the_prior_of_what_is_not_seen(given):
    x = rows(3)
    system = build(3)
    reference = Reference(system, x, "laplace")
    z = np.random.default_rng(3).normal(size=(ROWS, system.latent.dim))
    found = system.posterior(Observed({n: x[n] for n in given})).log_prob(torch.from_numpy(z))
    for row in range(ROWS):
        parts = system.latent.split(z[row])
        expected = reference.log_mixture(parts["u"], row, given)
        for name in x:
            own = reference.parameters(name, row, "private") if name in given else (0.0, 0.0)
            expected += reference.log_density(parts[f"w_{name}"], *own)
        np.testing.assert_allclose(found[row].detach(), expected, rtol=1e-12)


def test_an_absent_modality_is_as_if_not_given_and_is_never_read():
    system, x = build(3), rows(3)
    here = torch.tensor([True, False, True, False])
    broken = {**x, "m1": torch.where(here[:, None], x["m1"], torch.nan)}
    z = torch.randn(5, ROWS, system.latent.dim, dtype=torch.float64)
    masked = system.posterior(Observed(broken, {"m1": here})).log_prob(z)
    full = system.posterior(Observed(x)).log_prob(z)
    without = system.posterior(Observed({n: x[n] for n in ("m0", "m2")})).log_prob(z)
    torch.testing.assert_close(masked, torch.where(here, full, without), rtol=1e-12, atol=0)
    nothing = dict.fromkeys(x, torch.tensor([True, True, False, True]))
    prior = system.posterior(Observed(x, nothing)).log_prob(z)[:, 2]
    torch.testing.assert_close(prior, system.prior().log_prob(z[:, 2]), rtol=1e-12, atol=0)
    (stage,) = system.stages()
    with seeded(0, "loss"):
        stage.loss(Observed(broken, {**nothing, "m1": here}), 1.0).total.backward()
    assert all(p.grad.isfinite().all() for p in system.parameters())


@pytest.mark.slow
def test_what_is_shared_is_kept_and_what_is_private_is_drawn_anew():
    """Each modality has the bit that both share, and a number of its own from -1 to 1."""

    def drawn(count, seed):
        rng = np.random.default_rng(seed)
        bit = rng.integers(2, size=count)
        own = {n: np.stack([4 * bit - 2, rng.uniform(-1, 1, count)], 1) for n in "ab"}
        noisy = {n: v + 0.05 * rng.normal(size=v.shape) for n, v in own.items()}
        return bit, {n: v.astype(np.float32) for n, v in noisy.items()}

    modalities = [Modality(n, (2,), {"kind": "laplace", "scale": 0.1}) for n in "ab"]
    networks = {
        n: {k: {"kind": "mlp", "hidden": [32]} for k in ("encoder", "decoder")} for n in "ab"
    }
    joint = {"epochs": 20, "steps_per_epoch": 30, "batch_size": 64, "learning_rate": 1e-2}
    estimator = estimator_class("mmvae-plus")(
        modalities, 1, networks=networks, joint={**joint, "schedule": "one-cycle"}
    ).fit(drawn(2000, 0)[1])
    bit, test = drawn(200, 1)
    made = estimator.generate({"a": test["a"]}, 50)["b"]
    assert ((made[..., 0] > 0) == bit).mean() > 0.99
    spread = made[..., 1].std(0).mean() / test["b"][:, 1].std()
    assert 0.75 < spread < 1.25  # 1 in the data; .86 to 1.08 over seeds
    joint = estimator.generate(None, 2000)
    agree = (joint["a"][..., 0] > 0) == (joint["b"][..., 0] > 0)
    assert agree.mean() > 0.85  # u is continuous, the bit is not: .93 to .99 over seeds


@pytest.mark.slow
def test_a_trained_one_is_near_the_exact_likelihoods():
    known = LinearGaussian.drawn(modalities=3, latent=2, seed=0)
    rng = np.random.default_rng(1)
    train, test = (
        {n: v.astype(np.float32) for n, v in known.sample(count, rng)[1].items()}
        for count in (6000, 200)
    )
    networks = {m.name: {"encoder": LINEAR, "decoder": LINEAR} for m in known.modalities}
    joint = {"epochs": 8, "steps_per_epoch": 50, "learning_rate": 5e-2, "schedule": "one-cycle"}
    estimator = estimator_class("mmvae-plus")(
        known.modalities, 2, networks=networks, private_dim=1, family="normal", joint=joint
    ).fit(train)
    gap = known.log_likelihood(test) - estimator.log_likelihood(test, n=300)
    assert -0.05 < gap.mean() < 0.26
