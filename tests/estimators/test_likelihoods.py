"""Scores and draws of estimators whose weights are set by hand, against closed forms."""

import numpy as np
import pytest
import torch

from mvflow import JNF, Modality
from mvflow.core import DataError


@pytest.fixture(scope="module", params=[2, 3])
def known(request, linear_gaussian):
    return linear_gaussian(request.param, 2)


@pytest.fixture(scope="module")
def estimator(known):
    return known.estimator(sampler={"kind": "hmc", "warmup": 40, "draws": 100})


def estimates(call, x, repeats=30, n=60):
    """Mean of independent estimates, their standard error, each of the rows; n draws each."""
    found = np.array([call(n=n, seed=s) for s in range(repeats)])
    return found.mean(0), found.std(0, ddof=1) / np.sqrt(repeats)


def single(x):
    return {n: v.astype(np.float32) for n, v in x.items()}


def within_four_errors(found, error, expected, n):
    # log of a mean of n weights is low by var(weights) / 2n, itself at most repeats * error^2 / 2
    bias = 30 * error**2 / 2
    assert (np.abs(found - expected) < 4 * error + bias + 2e-4).all()  # float32 sums of ~10 nats


def test_the_joint_likelihood(estimator, known):
    x = known.sample(12)
    found, error = estimates(lambda **k: estimator.log_likelihood(single(x), **k), x)
    within_four_errors(found, error, known.log_evidence(x), 60)


def test_the_likelihood_of_one_modality(estimator, known):
    x = {"m1": known.sample(12)["m1"]}
    found, error = estimates(lambda **k: estimator.log_likelihood(single(x), **k), x)
    within_four_errors(found, error, known.log_evidence(x), 60)


def test_a_modality_given_another(estimator, known):
    x = known.sample(12)
    given = {"m0": x["m0"]}
    target = {"m1": x["m1"]}
    expected = known.log_evidence(given | target) - known.log_evidence(given)
    found, error = estimates(
        lambda **k: estimator.log_likelihood(single(target), given=single(given), **k), x
    )
    within_four_errors(found, error, expected, 60)


def test_a_modality_given_two_others_by_their_product(linear_gaussian):
    known = linear_gaussian(3, 2)
    made = known.estimator()
    x = known.sample(12)
    given, target = {n: x[n] for n in ("m0", "m2")}, {"m1": x["m1"]}
    expected = known.log_evidence(x) - known.log_evidence(given)
    found, error = estimates(
        lambda **k: made.log_likelihood(single(target), given=single(given), **k), x, n=200
    )
    within_four_errors(found, error, expected, 200)


def test_the_encoder_is_the_exact_posterior(estimator, known):
    x = known.sample(12)
    loc, scale = estimator.encode(single(x))
    expected, spread = known.posterior(x)
    np.testing.assert_allclose(loc, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scale, np.broadcast_to(spread, scale.shape), rtol=1e-5)


@pytest.mark.parametrize("given", [("m0",), ("m1",), ("m0", "m1")])
def test_draws_given_a_subset_have_the_exact_moments(estimator, known, given):
    x = {n: v[:3] for n, v in known.sample(3).items() if n in given}
    draws = estimator.draw(single(x), 400, combine=True)
    ess = draws.diagnostics.ess[:, None] if draws.diagnostics.ess.size else 400
    loc, scale = known.posterior(x)
    assert (np.abs(draws.z.mean(0) - loc) < 4 * scale / np.sqrt(ess)).all()


def test_generated_values_are_the_means_of_the_decoder(estimator, known):
    x = {"m0": known.sample(3)["m0"]}
    z = estimator.sample_latent(single(x), 5, seed=3)
    made = estimator.generate(single(x), 5, seed=3, noise=False)["m1"]
    np.testing.assert_allclose(made, z @ known.a["m1"].T + known.b["m1"], rtol=1e-4, atol=1e-5)


# Kinds of modality

TRAIN = {"epochs": 6, "batch_size": 32, "learning_rate": 1e-2}
MIXED = [
    Modality("class", (3,), "categorical"),
    Modality("image", (1, 2, 2), "bernoulli"),
    Modality("wave", (5,), {"kind": "laplace", "scale": 0.7}),
]


def mixed(rows=128):
    rng = np.random.default_rng(0)
    label = rng.integers(3, size=rows)
    image = np.stack([label == 0, label == 1, label == 2, label > 0], 1).reshape(-1, 1, 2, 2)
    wave = np.eye(5)[label] * 3 + 0.2 * rng.normal(size=(rows, 5))
    return {"class": label, "image": (255 * image).astype(np.uint8), "wave": wave}


@pytest.fixture(scope="module")
def of_all_kinds():
    sections = {
        "joint": TRAIN | {"merge": [16]},
        "flows": TRAIN,
        "posterior": {"kind": "maf", "hidden": [8]},
    }
    sampler = {"kind": "hmc", "warmup": 10, "draws": 5, "candidates": 16, "num_steps": 3}
    made = JNF(MIXED, 2, **sections, sampler=sampler)
    return made.fit(mixed(), seed=0)


def test_all_kinds_of_modality_train_and_generate(of_all_kinds):
    x = {n: v[:6] for n, v in mixed().items()}
    for given in (("class",), ("image",), ("wave",), ("class", "image"), ("class", "wave")):
        made = of_all_kinds.generate({n: x[n] for n in given}, 3)
        assert made.keys() == x.keys() - set(given)
        assert all(np.isfinite(v).all() for v in made.values())
    made = of_all_kinds.generate(None, 40)
    np.testing.assert_allclose(made["class"].sum(-1), 1, rtol=1e-5)
    assert made["class"].shape == (40, 1, 3)
    assert (made["class"] >= 0).all()
    assert ((made["image"] >= 0) & (made["image"] <= 1)).all()
    assert np.isfinite(of_all_kinds.log_likelihood(x, n=20)).all()


def test_uint8_and_the_floats_it_stands_for_are_the_same(of_all_kinds):
    x = {n: v[:6] for n, v in mixed().items()}
    floats = x | {"image": x["image"].astype(np.float64) / 255}
    for a, b in zip(of_all_kinds.encode(x), of_all_kinds.encode(floats), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(
        of_all_kinds.log_likelihood(x, n=20), of_all_kinds.log_likelihood(floats, n=20)
    )
    data = mixed()
    again = JNF.from_config(of_all_kinds.config)
    again.fit(data | {"image": data["image"].astype(np.float32) / 255}, seed=0)
    found, expected = again.system_.state_dict(), of_all_kinds.system_.state_dict()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.bad_input
def test_values_outside_a_likelihood_are_located(of_all_kinds):
    x = {n: v[:6].copy() for n, v in mixed().items()}
    with pytest.raises(DataError, match="modality 'class', row 2 is 3: expected a class from 0"):
        of_all_kinds.generate({"class": np.array([0, 1, 3])})
    with pytest.raises(DataError, match=r"'image', row 4 contains 2.0: expected probabilities"):
        of_all_kinds.generate(
            {
                "image": np.where(np.arange(6) == 4, 2.0, 0.0)[:, None, None, None]
                + 0.0 * x["image"]
            }
        )


# Noise


def test_draws_have_the_spread_of_the_likelihood_around_the_means(estimator, known):
    """Means at draws of z, and noise that neither other targets nor the rows beside change."""
    x = single({"m0": known.sample(3)["m0"]})
    means, drawn = estimator.generate(x, 400, seed=3, noise=False, full_output=True)
    draws = estimator.generate(x, 400, seed=3, noise=True)
    for name, mean in means.items():
        rest = (draws[name] - mean) / known.scale[name]
        count = rest.size
        assert abs(rest.mean()) < 4 / np.sqrt(count)
        assert abs(rest.var() - 1) < 4 * np.sqrt(2 / count)
        alone = estimator.generate(x, 400, seed=3, noise=True, targets=[name])[name]
        np.testing.assert_array_equal(alone, draws[name])
        again = estimator.simulate(drawn.z, [name], seed=3)[name]
        np.testing.assert_array_equal(again, draws[name])
        other = estimator.simulate(drawn.z, [name], seed=4)[name]
        assert (other != again).any()


def test_tables_have_noise_by_default_and_images_and_classes_have_not(of_all_kinds):
    own = of_all_kinds.has_noise()
    assert own == {"class": False, "image": False, "wave": True}
    assert of_all_kinds.has_noise(["image"], noise=True) == {"image": True}
    made = of_all_kinds.generate(None, 30, noise=True)
    assert made["class"].shape == (30, 1)
    assert np.isin(made["class"], [0, 1, 2]).all()
