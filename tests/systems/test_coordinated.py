"""JMVAE and TELBO against NumPy and in closed form, with linear networks."""

import numpy as np
import pytest
import torch

from mvflow.config import config_from_dict
from mvflow.core import ConfigError, Observed, UsageError
from mvflow.nn import seeded
from mvflow.systems import build_system

ROWS, LATENT, NOISE, BETA, ALPHA = 5, 2, 0.6, 0.7, 0.3
NAMES = ("m0", "m1", "m2")
LINEAR = {"kind": "mlp", "hidden": []}


def build(system, count=3, **settings):
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
    joint = {"merge": [], "beta": BETA}
    own = {"jmvae": {"joint": {**joint, "alpha": ALPHA}}, "telbo": {"joint": joint}}[system]
    if system == "telbo":
        own["experts"] = {"beta": BETA}
    raw = {"system": system, "latent_dim": LATENT, "modalities": modalities, **own, **settings}
    return build_system(config_from_dict(raw)).double()


def data(count=3, rows=ROWS):
    rng = np.random.default_rng(0)
    shapes = {n: (rows, 2 + j) for j, n in enumerate(NAMES[:count])}
    return {n: torch.from_numpy(rng.normal(size=shape)) for n, shape in shapes.items()}


def linear(module, x):
    layer = next(m for m in module.modules() if isinstance(m, torch.nn.Linear))
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


class Reference:
    """The joint encoder, the experts and likelihoods of all rows at once."""

    def __init__(self, system, x):
        self.system, self.x = system, {n: v.numpy() for n, v in x.items()}

    def gaussian(self, features):
        loc, raw = np.split(features, 2, axis=-1)
        return loc, np.exp(7 * np.tanh(raw / 7))

    def joint(self):
        heads = [linear(self.system.joint.heads[n], x) for n, x in self.x.items()]
        return self.gaussian(linear(self.system.joint.merge, np.concatenate(heads, -1)))

    def expert(self, name):
        return self.gaussian(linear(self.system.experts[name], self.x[name]))

    def fit(self, name, z):
        """lambda_j log p(x_j|z) of each row."""
        away = (self.x[name] - linear(self.system.joint.decoders[name], z)) / NOISE
        fit = (-0.5 * away**2 - np.log(NOISE) - 0.5 * np.log(2 * np.pi)).sum(-1)
        return self.system.joint.weights[name] * fit

    def mean_fit(self, name, loc, scale):
        """Its mean under N(loc, scale^2), in closed form."""
        decoder = self.system.joint.decoders[name]
        layer = next(m for m in decoder.modules() if isinstance(m, torch.nn.Linear))
        spread = (layer.weight.detach().numpy()[None] * scale[:, None]) ** 2
        weight = self.system.joint.weights[name]
        return self.fit(name, loc) - weight * spread.sum((1, 2)) / (2 * NOISE**2)


def kl(p, q=(0.0, 1.0)):
    (m, s), (n, t) = p, q
    return (np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum(-1)


def jmvae(r, fit, ramp=1.0):
    q = r.joint()
    divergences = BETA * kl(q) + ALPHA * sum(kl(q, r.expert(n)) for n in r.x)
    return -(sum(fit(n, *q) for n in r.x) - ramp * divergences).mean()


def telbo(r, fit):
    return -sum(fit(n, *r.expert(n)) - BETA * kl(r.expert(n)) for n in r.x).mean()


def loss(system, x, stage=0, progress=1.0, present=None):
    with seeded(0, "noise"):
        return system.stages()[stage].loss(Observed(x, present), progress).total


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("progress", "ramp"), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)])
def test_the_loss_of_jmvae_is_that_of_numpy_on_the_same_noise(count, progress, ramp):
    system, x = build("jmvae", count), data(count)
    reference = Reference(system, x)
    with seeded(0, "noise"):
        noise = torch.distributions.Normal(0.0, torch.ones(ROWS, LATENT).double()).sample()

    def fit(name, loc, scale):
        return reference.fit(name, loc + scale * noise.numpy())

    for at in (progress, torch.tensor(progress, dtype=torch.float64)):
        found = loss(system, x, progress=at).detach()
        # the factor is in torch's default dtype, as in a captured step
        np.testing.assert_allclose(found, jmvae(reference, fit, ramp), rtol=1e-7)


@pytest.mark.parametrize("count", [1, 3])
def test_the_losses_of_telbo_are_those_of_numpy_on_the_same_noise(count):
    system, x = build("telbo", count), data(count)
    reference = Reference(system, x)
    with seeded(0, "noise"):
        noise = {n: torch.randn(ROWS, LATENT, dtype=torch.float64).numpy() for n in x}

    def fit(name, loc, scale):
        return reference.fit(name, loc + scale * noise[name])

    np.testing.assert_allclose(loss(system, x, 1).detach(), telbo(reference, fit), rtol=1e-12)
    q = reference.joint()
    with seeded(0, "noise"):
        eps = torch.distributions.Normal(0.0, torch.ones(ROWS, LATENT).double()).sample().numpy()
    z = q[0] + q[1] * eps
    joint = -(sum(reference.fit(n, z) for n in x) - BETA * kl(q)).mean()
    np.testing.assert_allclose(loss(system, x).detach(), joint, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("kind", "stage"), [("jmvae", 0), ("telbo", 1)])
def test_the_expected_loss_is_the_closed_form_of_the_linear_gaussian_model(kind, stage, count):
    system, x = build(kind, count), data(count, rows=1)
    reference = Reference(system, x)
    expected = {"jmvae": jmvae, "telbo": telbo}[kind](reference, reference.mean_fit)
    wide = {n: v.repeat(4000, 1) for n, v in x.items()}
    with seeded(1, "noise"), torch.no_grad():
        spec = system.stages()[stage]
        found = [float(spec.loss(Observed(wide), 1.0).total) for _ in range(8)]
    error = np.std(found, ddof=1) / np.sqrt(8)
    assert abs(np.mean(found) - expected) < 5 * error  # 8 batches: Student's t, not z


def test_with_one_modality_jmvae_is_the_vae_less_what_its_expert_lacks():
    system, x = build("jmvae", 1), data(1)
    r = Reference(system, x)
    q = r.joint()
    vae = -(r.mean_fit("m0", *q) - BETA * kl(q)).mean()
    assert jmvae(r, r.mean_fit) - vae == pytest.approx(ALPHA * kl(q, r.expert("m0")).mean())
    with torch.no_grad():  # an expert that is the joint encoder costs nothing
        merge = next(m for m in system.joint.merge.modules() if isinstance(m, torch.nn.Linear))
        head = next(
            m for m in system.joint.heads["m0"].modules() if isinstance(m, torch.nn.Linear)
        )
        own = next(m for m in system.experts["m0"].modules() if isinstance(m, torch.nn.Linear))
        own.weight.copy_(merge.weight @ head.weight)
        own.bias.copy_(merge.weight @ head.bias + merge.bias)
    assert jmvae(r, r.mean_fit) == pytest.approx(vae)


@pytest.mark.parametrize("kind", ["jmvae", "telbo"])
@pytest.mark.parametrize("given", [("m0", "m1"), ("m0", "m1", "m2")])
def test_subsets_are_products_over_the_prior_in_closed_form(kind, given):
    system, x = build(kind), data()
    with torch.no_grad():
        for name in NAMES:  # narrow enough for a proper product
            layer = next(m for m in system.experts[name].modules() if hasattr(m, "bias"))
            layer.bias[LATENT:] -= 2.0
    r, observed = Reference(system, x), Observed({n: x[n] for n in given})
    found = system.combine(observed)
    each = [r.expert(n) for n in given]
    precision = sum(s**-2 for _, s in each) - (len(given) - 1)
    np.testing.assert_allclose(found.stddev.detach(), precision**-0.5, rtol=1e-10)
    expected = sum(m / s**2 for m, s in each) / precision
    np.testing.assert_allclose(found.mean.detach(), expected, rtol=1e-10)
    alone = system.posterior(Observed({"m1": x["m1"]}))
    np.testing.assert_allclose(alone.mean.detach(), r.expert("m1")[0], rtol=1e-12)
    everything = system.posterior(Observed(x))
    np.testing.assert_allclose(everything.mean.detach(), r.joint()[0], rtol=1e-12)


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", ["jmvae", "telbo"])
def test_rows_that_lack_a_modality_are_refused_with_what_takes_them(kind):
    system, x = build(kind), data()
    present = {"m1": torch.tensor([True, False, True, True, False])}
    says = (
        f"system '{kind}' needs all values of every row, but 'm1' is absent in 2 of 5 rows.*"
        "train it with joint.masking=0.5"
    )
    with pytest.raises(UsageError, match=says):
        loss(system, x, 0, present=present)
    with pytest.raises(UsageError, match=says):
        system.posterior(Observed(x, present))
    everywhere = {"m1": torch.ones(ROWS, dtype=torch.bool)}
    assert torch.equal(loss(system, x, present=everywhere), loss(system, x))


@pytest.mark.bad_input
def test_a_rule_that_does_not_use_the_experts_is_refused():
    with pytest.raises(ConfigError, match="'amortised' has no use for them; choose product"):
        build("jmvae", subset="amortised")
    build("jmvae", subset="mixture")
