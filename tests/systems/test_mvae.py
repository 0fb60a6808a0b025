"""MVAE against linear-Gaussian models, whose posteriors of every subset are known."""

from itertools import combinations

import numpy as np
import pytest
import torch

from mvflow.config import config_from_dict
from mvflow.core import Observed
from mvflow.estimators import estimator_class
from mvflow.nn import seeded
from mvflow.systems import build_system
from mvflow.systems.mvae import _subsets
from mvflow_datasets.linear_gaussian import LinearGaussian

LINEAR = {"kind": "mlp", "hidden": []}


def settings(known, **joint):
    return {
        "latent_dim": known.latent_dim,
        "joint": joint,
        "modalities": {
            m.name: {
                "shape": m.shape,
                "likelihood": m.likelihood,
                "weight": m.weight,
                "encoder": LINEAR,
                "decoder": LINEAR,
            }
            for m in known.modalities
        },
    }


def build(known, weights=None, **joint):
    raw = settings(known, **joint)
    for name, weight in (weights or {}).items():
        raw["modalities"][name]["weight"] = weight
    return build_system(config_from_dict({"system": "mvae", **raw})).double()


@pytest.fixture(params=[1, 2, 3])
def known(request):
    return LinearGaussian.drawn(modalities=request.param, latent=2, seed=0)


@pytest.fixture
def x(known):
    return {
        n: torch.from_numpy(v) for n, v in known.sample(6, np.random.default_rng(1))[1].items()
    }


def linear(module):
    return next(m for m in module.modules() if isinstance(m, torch.nn.Linear))


def assign(layer, weight, bias):
    layer.weight.data, layer.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)


@torch.no_grad()
def made_exact(system, known):
    """Decoders of the known model, and the experts p(x_j|z), which is Gaussian in z too."""
    for name, w in known.loadings.items():
        assign(linear(system.joint.decoders[name]), w, known.offsets[name])
        precision = (w**2).sum(0) / known.noise[name] ** 2
        towards = w.T / known.noise[name] ** 2 / precision[:, None]
        log_scale = 7 * np.arctanh(-0.5 * np.log(precision) / 7)
        assign(
            linear(system.joint.encoders[name]),
            np.concatenate([towards, 0 * towards]),
            np.concatenate([-towards @ known.offsets[name], log_scale]),
        )
    return system


def subsets(names):
    return [s for size in range(1, len(names) + 1) for s in combinations(names, size)]


def test_exact_experts_make_the_exact_posterior_of_every_subset(known, x):
    system = made_exact(build(known), known)
    for names in subsets(sorted(x)):
        q = system.posterior(Observed({n: x[n] for n in names}))
        exact = known.posterior({n: x[n].numpy() for n in names})
        np.testing.assert_allclose(q.mean.detach(), exact.mean, rtol=1e-10, atol=1e-12)
        variance = np.diag(exact.covariance)
        np.testing.assert_allclose(q.variance.detach(), [variance] * 6, rtol=1e-10)


def test_then_each_draw_gives_the_evidence(known, x):
    system = made_exact(build(known), known)
    with torch.no_grad(), seeded(0, "draws"):
        (q,) = system.proposals(Observed(x))
        z = q.sample((3,))
        fit = sum(d.log_prob(x[n]) for n, d in system.decode(z).items())
        weights = fit + system.prior().log_prob(z) - q.log_prob(z)
    exact = known.log_likelihood({n: v.numpy() for n, v in x.items()})
    np.testing.assert_allclose(weights, [exact] * 3, rtol=1e-6)  # the prior is in float32


def test_an_absent_modality_is_as_if_not_given_and_is_never_read(known, x):
    system = build(known)
    here = torch.tensor([True, False, True, True, False, True])
    last = sorted(x)[-1]
    broken = {**x, last: torch.where(here[:, None], x[last], torch.nan)}
    masked = system.posterior(Observed(broken, {last: here}))
    full = system.posterior(Observed(x))
    rest = {n: v for n, v in x.items() if n != last}
    without = system.posterior(Observed(rest)) if rest else system.prior().expand((6,))
    for of in ("mean", "stddev"):
        expected = torch.where(here[:, None], getattr(full, of), getattr(without, of))
        torch.testing.assert_close(getattr(masked, of), expected.double(), rtol=1e-12, atol=0)
    (stage,) = system.stages()
    with seeded(0, "loss"):
        stage.loss(Observed(broken, {last: here}), 1.0).total.backward()
    assert all(p.grad.isfinite().all() for p in system.parameters())


def expected_loss(system, x, present, in_subset, noise, beta):
    """Minus the sum of ELBOs, row by row and subset by subset, in NumPy."""
    total = 0.0
    weights, decoders = system.joint.weights, system.joint.decoders
    for s in range(noise.shape[0]):
        for row in range(noise.shape[1]):
            names = [
                n for j, n in enumerate(sorted(x)) if in_subset(j, s, row) and present[n][row]
            ]
            precision, weighted = np.ones(2), np.zeros(2)
            for n in names:
                loc, raw = np.split(
                    linear(system.joint.encoders[n])(x[n][row]).detach().numpy(), 2
                )
                own = np.exp(7 * np.tanh(raw / 7)) ** -2
                precision, weighted = precision + own, weighted + own * loc
            loc, scale = weighted / precision, precision**-0.5
            z = loc + scale * noise[s, row]
            elbo = -beta * 0.5 * (loc**2 + scale**2 - 1 - np.log(scale**2)).sum()
            for n in names:
                mean = linear(decoders[n])(torch.from_numpy(z)).detach().numpy()
                sd = decoders.likelihood(n).likelihood.scale
                away = (x[n][row].numpy() - mean) / sd
                fit = -0.5 * away**2 - np.log(sd) - 0.5 * np.log(2 * np.pi)
                elbo += weights[n] * fit.sum()
            total -= elbo / noise.shape[1]
    return total


@pytest.mark.parametrize("random_subsets", [0, 2])
@pytest.mark.parametrize("absent", [False, True])
def test_the_loss_is_that_of_numpy_on_the_same_noise(known, x, random_subsets, absent):
    names = sorted(x)
    lambdas = dict(zip(names, (0.5, 2.0, 3.0), strict=False))
    system = build(known, lambdas, beta=0.7, random_subsets=random_subsets)
    rng = np.random.default_rng(2)
    present = {n: np.ones(6, bool) if not absent else rng.random(6) < 0.6 for n in names}
    masks = {n: torch.from_numpy(p) for n, p in present.items()}
    (stage,) = system.stages()
    with seeded(0, "noise"):
        found = stage.loss(Observed(x, masks), 1.0)
    with seeded(0, "noise"):  # the same noise, subsets first
        many, fixed = len(names), 1 + len(names) * (len(names) > 1)
        count = random_subsets if many > 2 else 0
        if count:
            order = torch.rand(many, count, 6).argsort(0).argsort(0)
            chosen = order < torch.randint(2, many, (count, 6))
        noise = torch.randn(fixed + count, 6, 2, dtype=torch.float64).numpy()

    def in_subset(j, s, row):
        return s in (0, 1 + j) if s < fixed else bool(chosen[j, s - fixed, row])

    expected = expected_loss(system, x, present, in_subset, noise, 0.7)
    np.testing.assert_allclose(found.total.detach(), expected, rtol=1e-12)


def test_random_subsets_have_two_modalities_or_more_and_any_number_alike():
    with seeded(0, "subsets"):
        found = _subsets(torch.ones(5, 4000, dtype=torch.bool), 2)[:, 6:]
    sizes = found.sum(0).flatten().bincount()
    assert sizes[:2].sum() == 0
    assert len(sizes) == 5  # never all
    error = np.sqrt(8000 * 1 / 3 * 2 / 3)
    assert (abs(sizes[2:].numpy() - 8000 / 3) < 4 * error).all()
    shares = found.double().mean((1, 2)).numpy()  # no modality is favoured
    assert (abs(shares - 0.6) < 4 * np.sqrt(0.25 / 8000)).all()


@pytest.mark.slow
def test_a_trained_one_is_near_the_exact_likelihoods():
    """A prototype reached .26 nats; 3 seconds of training of the same linear networks."""
    known = LinearGaussian.drawn(modalities=3, latent=2, seed=0)
    rng = np.random.default_rng(1)
    rows, test = (
        {n: v.astype(np.float32) for n, v in known.sample(count, rng)[1].items()}
        for count in (6000, 200)
    )
    joint = {
        "epochs": 12,
        "steps_per_epoch": 50,
        "learning_rate": 5e-2,
        "schedule": "one-cycle",
    }
    config = config_from_dict({"system": "mvae", **settings(known, **joint)})
    estimator = estimator_class("mvae").from_config(config).fit(rows)
    gap = known.log_likelihood(test) - estimator.log_likelihood(test, n=200)
    assert -0.05 < gap.mean() < 0.26
    given, rest = {"m0": test["m0"]}, {"m2": test["m2"]}
    gap = known.log_likelihood(rest, given) - estimator.log_likelihood(rest, given=given, n=200)
    assert -0.05 < gap.mean() < 0.26
