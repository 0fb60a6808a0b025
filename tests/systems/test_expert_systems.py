"""MVTCAE, CRMVAE, MoPoE and MMVAE against NumPy and against each other, with linear networks."""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.distributions as td

from mvflow.config import config_from_dict
from mvflow.core import ConfigError, Observed
from mvflow.nn import seeded
from mvflow.systems import build_system
from mvflow.systems.experts import Experts, product_of_experts
from mvflow.systems.mopoe import _stratified

ROWS, LATENT, SAMPLES, NOISE = 5, 2, 3, 0.6
NAMES = ("m0", "m1", "m2")
LINEAR = {"kind": "mlp", "hidden": []}
BETA = 0.7


def build(system, count=3, joint=None, **settings):
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
    raw = {"system": system, "latent_dim": LATENT, "modalities": modalities, **settings}
    joint = {"beta": BETA, **(joint or {})}
    return build_system(config_from_dict({**raw, "joint": joint})).double()


def data(count=3, rows=ROWS):
    rng = np.random.default_rng(0)
    return {
        n: torch.from_numpy(rng.normal(size=(rows, 2 + j))) for j, n in enumerate(NAMES[:count])
    }


def mask(names, absent):
    rng = np.random.default_rng(2)
    return {n: rng.random(ROWS) < 0.6 if absent else np.ones(ROWS, bool) for n in names}


def loss(system, x, present=None):
    masks = present and {n: torch.from_numpy(p) for n, p in present.items()}
    (stage,) = system.stages()
    with seeded(0, "noise"):
        return stage.loss(Observed(x, masks), 1.0).total


def linear(module):
    layer = next(m for m in module.modules() if isinstance(m, torch.nn.Linear))
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


class Reference:
    """Experts, products, divergences and likelihoods of one row at a time."""

    def __init__(self, system, x):
        self.joint, self.x = system.joint, {n: v.numpy() for n, v in x.items()}

    def raw(self, name, row):
        w, b = linear(self.joint.encoders[name])
        return np.split(w @ self.x[name][row] + b, 2)

    def expert(self, name, row):
        loc, log_scale = self.raw(name, row)
        return loc, np.exp(7 * np.tanh(log_scale / 7))

    def product(self, names, row):
        each = [self.expert(n, row) for n in names] or [(np.zeros(LATENT), np.ones(LATENT))]
        precision = sum(s**-2 for _, s in each)
        return sum(m / s**2 for m, s in each) / precision, precision**-0.5

    def fit(self, name, row, z):
        """lambda_j log p(x_j|z)."""
        w, b = linear(self.joint.decoders[name])
        away = (self.x[name][row] - w @ z - b) / NOISE
        fit = -0.5 * away**2 - np.log(NOISE) - 0.5 * np.log(2 * np.pi)
        return self.joint.weights[name] * fit.sum()

    def mean_fit(self, name, row, loc, scale):
        """Its mean over z ~ N(loc, scale^2), in closed form."""
        w, _ = linear(self.joint.decoders[name])
        spread = ((w * scale) ** 2).sum() / (2 * NOISE**2)
        return self.fit(name, row, loc) - self.joint.weights[name] * spread


def kl(p, q=(0.0, 1.0)):
    (m, s), (n, t) = p, q
    return (np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum()


def bound_mvtcae(r, names, row, fit, alpha):
    """The bound of one row; `fit(name, gaussian, of)` is the likelihood term under a Gaussian."""
    q = r.product(names, row)
    share = alpha / max(1, len(names))
    total = (1 - share) * sum(fit(n, q, "joint") for n in names)
    total -= BETA * (1 - alpha) * kl(q)
    return total - BETA * share * sum(kl(q, r.expert(n, row)) for n in names)


def bound_crmvae(r, names, row, fit):
    q = r.product(names, row)
    total = sum(fit(n, q, "joint") + fit(n, r.expert(n, row), n) for n in names) / 2
    return total - BETA * kl(q) - BETA * sum(kl(q, r.expert(n, row)) for n in names)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_the_loss_of_mvtcae_is_that_of_numpy_on_the_same_noise(count, absent, alpha):
    system, x = build("mvtcae", count, {"alpha": alpha}), data(count)
    reference, present = Reference(system, x), mask(x, absent)
    with seeded(0, "noise"):
        noise = torch.randn(ROWS, LATENT, dtype=torch.float64).numpy()
    total = 0.0
    for row in range(ROWS):

        def fit(name, q, of, row=row):
            return reference.fit(name, row, q[0] + q[1] * noise[row])

        seen = [n for n in x if present[n][row]]
        total -= bound_mvtcae(reference, seen, row, fit, alpha) / ROWS
    np.testing.assert_allclose(loss(system, x, present).detach(), total, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("absent", [False, True])
def test_the_loss_of_crmvae_is_that_of_numpy_on_the_same_noise(count, absent):
    system, x = build("crmvae", count), data(count)
    reference, present = Reference(system, x), mask(x, absent)
    with seeded(0, "noise"):
        noise = torch.randn(1 + count, ROWS, LATENT, dtype=torch.float64).numpy()
    total = 0.0
    for row in range(ROWS):

        def fit(name, q, of, row=row):
            j = 0 if of == "joint" else 1 + NAMES.index(of)
            return reference.fit(name, row, q[0] + q[1] * noise[j, row])

        seen = [n for n in x if present[n][row]]
        total -= bound_crmvae(reference, seen, row, fit) / ROWS
    np.testing.assert_allclose(loss(system, x, present).detach(), total, rtol=1e-12)


def power_set(names):
    """In the order of the binary numbers whose last bit is the first name."""
    bits = range(1, 2 ** len(names))
    return [[n for j, n in enumerate(names) if number >> j & 1] for number in bits]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("subsets", ["all", "single"])
def test_the_loss_of_mopoe_is_that_of_numpy_on_the_same_noise(count, absent, subsets):
    system, x = build("mopoe", count, {"subsets": subsets}), data(count)
    reference, present = Reference(system, x), mask(x, absent)
    with seeded(0, "noise"):
        places, shift = torch.rand(ROWS).argsort().numpy(), float(torch.rand(()))
        noise = torch.randn(ROWS, LATENT, dtype=torch.float64).numpy()
    total = 0.0
    for row in range(ROWS):
        seen = [n for n in x if present[n][row]]
        found = power_set(seen) if subsets == "all" else [[n] for n in seen]
        if not found:
            continue
        chosen = found[int((places[row] + shift) / ROWS * len(found))]
        loc, scale = reference.product(chosen, row)
        z = loc + scale * noise[row]
        elbo = sum(reference.fit(n, row, z) for n in seen)
        elbo -= BETA * np.mean([kl(reference.product(s, row)) for s in found])
        total -= elbo / ROWS
    np.testing.assert_allclose(loss(system, x, present).detach(), total, rtol=1e-12)


@pytest.mark.parametrize("family", ["laplace", "normal"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("scales", ["free", "normalised"])
def test_the_loss_of_mmvae_is_that_of_numpy_on_the_same_noise(family, count, absent, scales):
    options = {"family": family, "scales": scales}
    system, x = build("mmvae", count, {"samples": SAMPLES}, **options), data(count)
    reference, present = Reference(system, x), mask(x, absent)
    standard = {"laplace": td.Laplace, "normal": td.Normal}[family]
    with seeded(0, "noise"):
        zero = torch.zeros(SAMPLES, count, ROWS, LATENT, dtype=torch.float64)
        noise = standard(zero, zero + 1).sample().numpy()

    def expert(name, row):
        loc, raw = reference.raw(name, row)
        if scales == "free":
            return reference.expert(name, row)
        return loc, LATENT * np.exp(raw) / np.exp(raw).sum() + 1e-6

    def log_density(z, loc, scale):
        away = (z - loc) / scale
        if family == "laplace":
            return (-np.abs(away) - np.log(2 * scale)).sum()
        return (-0.5 * away**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)).sum()

    total = 0.0
    for row in range(ROWS):
        seen, bounds = [n for n in x if present[n][row]], []
        for m in seen:
            (loc, scale), log_weights = expert(m, row), []
            for k in range(SAMPLES):
                z = loc + scale * noise[k, list(x).index(m), row]
                each = [log_density(z, *expert(n, row)) for n in seen]
                log_q = np.logaddexp.reduce(each) - np.log(len(each))
                fit = sum(reference.fit(n, row, z) for n in seen)
                log_weights.append(fit + BETA * (log_density(z, 0.0, np.ones(LATENT)) - log_q))
            bounds.append(np.logaddexp.reduce(log_weights) - np.log(SAMPLES))
        total -= np.mean(bounds) / ROWS if bounds else 0.0
    np.testing.assert_allclose(loss(system, x, present).detach(), total, rtol=1e-12)


def averaged(system, x, times=4000, batches=8):
    """Mean loss over many draws, and its standard error."""
    wide = {n: v[:1].repeat(times, 1) for n, v in x.items()}
    (stage,) = system.stages()
    with seeded(1, "noise"), torch.no_grad():
        values = [float(stage.loss(Observed(wide), 1.0).total) for _ in range(batches)]
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(batches)


def closed_form(system, x, kind, alpha=0.0):
    """Expected loss of the first row, exact since decoders are linear and experts Gaussian."""
    r, names = Reference(system, x), list(x)

    def fit(name, q, of):
        return r.mean_fit(name, 0, *q)

    if kind == "mvtcae":
        return -bound_mvtcae(r, names, 0, fit, alpha)
    if kind == "crmvae":
        return -bound_crmvae(r, names, 0, fit)
    products = [r.product(s, 0) for s in power_set(names)]
    elbos = [sum(fit(n, q, "joint") for n in names) - BETA * kl(q) for q in products]
    return -np.mean(elbos)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("kind", "joint"), [("mvtcae", {"alpha": 0.4}), ("crmvae", {}), ("mopoe", {})]
)
def test_the_expected_loss_is_the_closed_form_of_the_linear_gaussian_model(kind, joint, count):
    system, x = build(kind, count, joint), data(count)
    found, error = averaged(system, x)
    assert abs(found - closed_form(system, x, kind, **joint)) < 5 * error  # 8 batches: t, not z


def test_with_one_modality_all_are_the_vae():
    x = data(1)
    systems = {kind: build(kind, 1) for kind in ("crmvae", "mopoe")}
    systems["mvtcae"] = build("mvtcae", 1, {"alpha": 0.0})
    free = {"family": "normal", "scales": "free"}
    systems["mmvae"] = build("mmvae", 1, {"samples": 1}, **free)
    r = Reference(systems["mmvae"], x)
    q = r.expert("m0", 0)
    vae = -r.mean_fit("m0", 0, *q) + BETA * kl(q)
    for kind, system in systems.items():
        found, error = averaged(system, x)
        assert abs(found - vae) < 5 * error, kind
        if kind != "mmvae":
            np.testing.assert_allclose(closed_form(system, x, kind), vae, rtol=1e-12)


def test_mopoe_of_single_experts_is_mmvae_with_one_draw_up_to_the_bound_of_the_divergence():
    """KL(mixture || p) is below the mean KL by mean_j KL(q_j || mixture); all else is one loss."""
    x = data()
    mopoe = build("mopoe", 3, {"subsets": "single"})
    free = {"family": "normal", "scales": "free"}
    mmvae = build("mmvae", 3, {"samples": 1}, **free)
    pairs = zip(mopoe.parameters(), mmvae.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    (a, a_error), (b, b_error) = averaged(mopoe, x, 3 * 2000), averaged(mmvae, x)
    r, rng, gap = Reference(mopoe, x), np.random.default_rng(3), []
    experts = [r.expert(n, 0) for n in x]
    for loc, scale in experts:
        z = loc + scale * rng.normal(size=(100_000, LATENT))
        log_q = [
            (-0.5 * ((z - m) / s) ** 2 - np.log(s) - 0.5 * np.log(2 * np.pi)).sum(1)
            for m, s in [(loc, scale), *experts]
        ]
        gap.append(log_q[0] - np.logaddexp.reduce(log_q[1:]) + np.log(3))
    gap_error = np.std(gap) / np.sqrt(300_000)
    error = np.sqrt(a_error**2 + b_error**2 + (BETA * gap_error) ** 2)
    assert abs(a - b - BETA * np.mean(gap)) < 5 * error
    assert np.mean(gap) > 0.01  # there is something to tell apart


def test_the_gradient_is_doubly_reparametrised():
    """Encoders by squared weights through z alone, decoders by weights (Tucker et al. 2019)."""
    system, x = build("mmvae", 2, {"samples": SAMPLES}, family="normal", scales="free"), data(2)
    loss(system, x).backward()
    joint, observed = system.joint, Observed(x)
    with seeded(0, "noise"):
        experts = joint.experts(observed)
        z = td.Normal(experts.loc, experts.scale).rsample(torch.Size([SAMPLES]))
    fixed = z.detach().requires_grad_()
    q = td.Normal(experts.loc.detach(), experts.scale.detach())
    log_q = q.log_prob(fixed[:, :, None]).sum(-1).logsumexp(2) - np.log(2)
    log_p = td.Normal(0.0, 1.0).log_prob(fixed).sum(-1)
    log_w = joint.log_likelihood(fixed, observed)[0] + BETA * (log_p - log_q)
    w = log_w.detach().softmax(0)
    by_decoders = torch.autograd.grad(
        -(w * log_w).sum() / (2 * ROWS), list(joint.decoders.parameters()), retain_graph=True
    )
    (slope,) = torch.autograd.grad((w**2 * log_w).sum(), fixed)
    by_encoders = torch.autograd.grad(
        -(slope * z).sum() / (2 * ROWS), list(joint.encoders.parameters())
    )
    for part, expected in ((joint.decoders, by_decoders), (joint.encoders, by_encoders)):
        for parameter, value in zip(part.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, value, rtol=1e-10, atol=1e-12)


def test_both_gradients_agree_on_average():
    """With one draw, what DReG leaves out has the mean zero over the experts of the mixture."""
    x = {n: v[:2].repeat(50, 1) for n, v in data(2).items()}
    found = {}
    for gradient in ("dreg", "plain"):
        joint = {"samples": 1, "gradient": gradient}
        system = build("mmvae", 2, joint, family="normal", scales="free")
        (stage,) = system.stages()
        values = []
        for draw in range(150):
            system.zero_grad()
            with seeded(draw, gradient):
                stage.loss(Observed(x), 1.0).total.backward()
            grads = [p.grad.flatten() for p in system.joint.encoders.parameters()]
            values.append(torch.cat(grads))
        found[gradient] = torch.stack(values)
    (a, b), n = (found[k] for k in ("dreg", "plain")), 150
    error = ((a.var(0) + b.var(0)) / n).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 4.5 * error).all()  # 18 numbers
    assert a.var(0).sum() < b.var(0).sum()  # which is what it is for


def test_a_product_is_that_of_its_members_and_of_the_prior_where_there_is_none():
    rng = torch.Generator().manual_seed(0)
    loc, log_scale = torch.randn(2, 3, 4, LATENT, generator=rng).double()
    present = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0]]).bool()
    experts = Experts(loc, log_scale, present)
    found, scale = product_of_experts(experts)
    torch.testing.assert_close(found[1], loc[0, 1])  # a single expert is its own product
    torch.testing.assert_close(scale[1], experts.scale[0, 1])
    assert found[3].tolist() == [0.0, 0.0]
    assert scale[3].tolist() == [1.0, 1.0]
    with_prior = product_of_experts(experts, with_prior=True)
    weights = torch.where(present[..., None], experts.precision, 0.0)
    precision = 1 + weights.sum(0)
    torch.testing.assert_close(with_prior[0], (weights * loc).sum(0) / precision)
    torch.testing.assert_close(with_prior[1], precision.rsqrt())


def test_subsets_are_spread_over_the_rows_of_a_batch():
    everywhere = torch.ones(7, 700, dtype=torch.bool)
    with seeded(0, "subsets"):
        assert _stratified(everywhere).bincount().tolist() == [100] * 7
        some = everywhere.clone()
        some[2:] = False
        some[:, 0] = False
        drawn = torch.stack([_stratified(some) for _ in range(400)])
    assert drawn.max() == 1
    share = drawn[:, 5].double().mean()  # of a row, either as likely as the other
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(400)


@pytest.mark.parametrize("given", [s for k in (1, 2, 3) for s in combinations(NAMES, k)])
def test_the_posterior_of_mmvae_is_the_mean_of_its_experts(given):
    system, x = build("mmvae", 3, family="normal", scales="free"), data()
    r, z = Reference(system, x), np.random.default_rng(3).normal(size=(ROWS, LATENT))
    found = system.posterior(Observed({n: x[n] for n in given})).log_prob(torch.from_numpy(z))
    for row in range(ROWS):
        each = []
        for loc, scale in (r.expert(n, row) for n in given):
            away = (z[row] - loc) / scale
            each.append((-0.5 * away**2 - np.log(scale) - 0.5 * np.log(2 * np.pi)).sum())
        expected = np.logaddexp.reduce(each) - np.log(len(given))
        np.testing.assert_allclose(found[row].detach(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["mvae", "mvtcae", "crmvae"])
def test_the_terms_of_the_history_are_those_of_the_posterior_of_all(kind, monkeypatch):
    """Without noise, a modality's term is its density at the mean of q(z|X)."""
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    system, x = build(kind), data()
    (stage,) = system.stages()
    with torch.no_grad():
        terms = {name: float(term) for name, term in stage.loss(Observed(x), 1.0).terms.items()}
        decoded = system.decode(system.posterior(Observed(x)).mean)
        fits = {name: float(p.log_prob(x[name]).mean()) for name, p in decoded.items()}
    assert {name: terms[name] for name in fits} == pytest.approx(fits, rel=1e-9)
    assert terms["elbo"] == pytest.approx(sum(fits.values()) - terms["kl"], rel=1e-9)


ELBO = {
    "mmvae": {"samples": 1},
    "mmvae-plus": {"samples": 1},
    "mopoe": {},
    "mvtcae": {"alpha": 0.0},
}


@pytest.mark.parametrize("kind", ELBO)
def test_without_beta_and_weights_the_history_s_elbo_is_what_is_trained(kind):
    system, x = build(kind, joint={"beta": 1.0, **ELBO[kind]}), data()
    system.joint.weights = dict.fromkeys(NAMES, 1.0)
    (stage,) = system.stages()
    with torch.no_grad():
        losses = stage.loss(Observed(x), 1.0)
    assert float(losses.terms["elbo"]) == pytest.approx(-float(losses.total), rel=1e-12)


@pytest.mark.bad_input
def test_what_does_not_fit_is_refused_in_one_sentence():
    modalities = {f"m{j}": {"shape": [1]} for j in range(11)}
    raw = {"system": "mopoe", "latent_dim": 2, "modalities": modalities}
    with pytest.raises(ConfigError, match=r"all 2,047 subsets of 11 modalities.*mvtcae"):
        build_system(config_from_dict(raw))
    build_system(config_from_dict({**raw, "joint": {"subsets": "single"}}))
    raw = {"system": "mmvae-plus", "latent_dim": 2, "private_dim": 3, "modalities": modalities}
    with pytest.raises(ConfigError, match="private_dim 3 is wider than latent_dim 2"):
        build_system(config_from_dict(raw))
