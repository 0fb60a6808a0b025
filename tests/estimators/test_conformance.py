"""One suite for what every estimator promises: NumPy in, NumPy out, nothing by accident."""

import copy
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest
import torch

from mvflow import estimator_class, load
from mvflow.core import (
    ArraySource,
    ConfigError,
    DataError,
    NotFittedError,
    StageError,
    UsageError,
    registry,
)
from mvflow.systems import Bounded


@pytest.fixture(scope="module", params=registry("systems").names())
def kind(request):
    return estimator_class(request.param)


@pytest.fixture(scope="module", params=[2, 3])
def count(request):
    return request.param


@pytest.fixture(scope="module")
def estimator(fitted, kind, count):
    return fitted(kind, count)


@pytest.fixture(scope="module")
def x(small, count):
    return {n: v[:4] for n, v in small.data(count)[0].items()}


@pytest.fixture(scope="module")
def pair(fitted, kind):
    """An estimator of two modalities."""
    return fitted(kind, 2)


GIVEN = ("format", "system", "latent_dim", "modalities")


def weights(estimator):
    return estimator.system_.state_dict()


def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert list(a) == list(b)
    assert all(torch.equal(a[k], b[k]) for k in a)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_fit_returns_the_estimator(small, kind):
    made = small.estimator(kind, 2)
    assert made.fit(small.data(2)[0], seed=0) is made
    assert made.trained_ == made.stage_names


def test_a_source_and_a_dict_of_arrays_train_the_same(small, kind, pair):
    made = small.estimator(kind, 2).fit(ArraySource(small.data(2)[0]), seed=0)
    assert_same_weights(made, pair)


def test_before_fit_everything_is_refused(small, kind, tmp_path):
    made, x = small.estimator(kind, 2), small.data(2)[0]
    calls = {
        "generate": lambda: made.generate({"m0": x["m0"]}),
        "sample_latent": lambda: made.sample_latent(),
        "encode": lambda: made.encode(x),
        "decode": lambda: made.decode(np.zeros((1, 2))),
        "log_likelihood": lambda: made.log_likelihood(x),
        "posterior_log_prob": lambda: made.posterior_log_prob(np.zeros((160, 2)), x),
        "save": lambda: made.save(tmp_path / "run"),
    }
    for call in calls.values():
        with pytest.raises(
            NotFittedError, match=f"this {kind.__name__} is not trained .*call fit"
        ):
            call()


def test_a_partly_trained_estimator_names_what_is_missing(small, kind):
    made = small.estimator(kind, 2)
    if len(made.stage_names) == 1:
        pytest.skip("has one stage, so is never partly trained")
    made.fit(small.data(2)[0], stages=made.stage_names[:1])
    with pytest.raises(NotFittedError, match=f"missing: .*{made.stage_names[-1]}"):
        made.generate({"m0": small.data(2)[0]["m0"]})


def test_stages_one_by_one_equal_all_at_once(small, kind, pair):
    made = small.estimator(kind, 2)
    for stage in made.stage_names:
        made.fit(small.data(2)[0], seed=0, stages=[stage])
    assert_same_weights(made, pair)


def test_fitting_again_starts_anew(small, kind, pair):
    data = small.data(2)[0]
    made = copy.deepcopy(pair).fit(data, seed=1)
    assert any(not torch.equal(v, weights(pair)[k]) for k, v in weights(made).items())
    assert_same_weights(made.fit(data, seed=0), pair)


def test_training_a_stage_anew_drops_what_rests_on_it_and_nothing_else(small, pair):
    names = pair.stage_names
    for stage in names:
        after = set(pair.plan_.after([stage]))
        made = copy.deepcopy(pair).fit(small.data(2)[0], stages=[stage])
        assert set(made.trained_) == set(names) - after
        if after:
            with pytest.raises(NotFittedError, match="missing: "):
                made.generate({"m0": small.data(2)[0]["m0"]})


def test_eight_threads_find_what_one_finds(estimator, x):
    """Whatever is asked, with the rule for subsets too: bits, not nearly."""
    names = sorted(x)
    given = {name: x[name] for name in names[:-1]}

    def ask(_):
        found = [estimator.generate(given, 3, seed=5)[names[-1]]]
        found += [estimator.generate(None, 3, seed=5)[name] for name in names]
        found += [estimator.log_likelihood(x, n=10, seed=5)]
        found += estimator.encode(x) if estimator.can_encode else ()
        return found

    alone = ask(0)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(ask, range(8)):
            assert all(np.array_equal(a, b) for a, b in zip(alone, found, strict=True))


def test_shapes_for_each_subset(estimator, x, count):
    names = sorted(x)
    assert estimator.generate(n=3).keys() == set(names)
    for size in range(1, count + 1):
        for given in list(combinations(names, size))[:3]:
            observed = {n: x[n] for n in given}
            z = estimator.sample_latent(observed, 3)
            assert z.shape == (3, 4, estimator.latent_dim)
            assert z.dtype == np.float32
            made = estimator.generate(observed, 2)
            wanted = set(names) - set(given) or set(names)
            assert made.keys() == wanted
            for name, values in made.items():
                assert values.shape == (2, 4, *x[name].shape[1:])
                assert np.isfinite(values).all()


def test_targets_choose_what_is_generated(pair, small):
    x = {"m0": small.data(2)[0]["m0"][:3]}
    both = pair.generate(x, 2, targets=["m1", "m0"], seed=5)
    assert list(both) == ["m0", "m1"]
    assert_same({"m1": both["m1"]}, pair.generate(x, 2, seed=5))
    assert pair.generate(x, targets=[]) == {}


def test_the_seed_decides_draws_and_the_global_state_stays(estimator, x):
    given = {n: x[n] for n in sorted(x)[:2]}
    before = torch.get_rng_state()
    one, same, other = (estimator.sample_latent(given, 2, seed=s, combine=True) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_order_of_modalities_and_keys_is_irrelevant_to_the_bit(small, kind, pair):
    data = small.data(2)[0]
    turned = {n: data[n] for n in ("m1", "m0")}
    made = small.estimator(kind, 2)
    other = kind(
        reversed(made.modalities),
        2,
        **{k: v for k, v in made.config.model_dump().items() if k not in GIVEN},
        networks={n: {"encoder": {"kind": "mlp", "hidden": [8]}} for n in ("m1", "m0")},
    ).fit(turned, seed=0)
    assert_same_weights(other, pair)
    given = {n: v[:3] for n, v in data.items()}
    reversed_given = dict(reversed(given.items()))
    for options in ({}, {"combine": True}):
        np.testing.assert_array_equal(
            pair.sample_latent(given, 2, **options),
            other.sample_latent(reversed_given, 2, **options),
        )
    np.testing.assert_array_equal(
        pair.log_likelihood(given, n=20), other.log_likelihood(reversed_given, n=20)
    )


def test_a_saved_estimator_gives_the_same_draws(estimator, x, tmp_path):
    estimator.save(tmp_path / "run")
    again = load(tmp_path / "run")
    assert type(again) is type(estimator)
    assert again.config == estimator.config
    given = {n: x[n] for n in sorted(x)[:2]}
    assert_same(again.generate(given, 3), estimator.generate(given, 3))
    assert_same(again.generate(None, 3), estimator.generate(None, 3))
    for a, b in zip(again.encode(x), estimator.encode(x), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(again.log_likelihood(x, n=10), estimator.log_likelihood(x, n=10))
    with pytest.raises(UsageError, match="exists already"):
        estimator.save(tmp_path / "run")


def test_many_rows_are_worked_off_in_chunks(pair, small):
    """Means do not depend on the chunk that a row falls into, up to rounding.

    Draws are those of the chunk, however many follow it.
    """
    x = {n: np.concatenate([v] * 4) for n, v in small.data(2)[0].items()}
    loc, scale = pair.encode(x)
    np.testing.assert_allclose(loc[:160], loc[480:], rtol=1e-4, atol=1e-5)
    assert (scale > 0).all()
    z = pair.sample_latent({"m0": x["m0"]}, 2)
    assert z.shape == (2, 640, pair.latent_dim)
    np.testing.assert_array_equal(pair.sample_latent({"m0": x["m0"][:256]}, 2), z[:, :256])
    assert pair.posterior_log_prob(z, {"m0": x["m0"]}).shape == (2, 640)


def test_the_posterior_density_is_that_of_the_draws(pair, small):
    """E over draws of q(z|x)'s own density ratio: exp(log u - log q) averages to one."""
    x = {"m0": small.data(2)[0]["m0"][:2]}
    pair = copy.deepcopy(pair)
    if isinstance(pair.system_, Bounded):
        pair.system_.radius.fill_(np.inf)  # the density is the posterior's, not cut to the ball
    z = pair.sample_latent(x, 4000)
    log_q = pair.posterior_log_prob(z, x)
    middle, spread = z.mean(0), z.std(0)
    u = 0.5 * spread  # a narrower Gaussian in the middle of the draws
    log_u = (-0.5 * ((z - middle) / u) ** 2 - np.log(u) - 0.5 * np.log(2 * np.pi)).sum(-1)
    ratio = np.exp(log_u - log_q)
    assert (np.abs(ratio.mean(0) - 1) < 4 * ratio.std(0) / np.sqrt(4000)).all()


def test_draws_stay_in_the_ball(estimator, x):
    radius = estimator.radius
    for given in combinations(sorted(x), min(2, len(x))):
        z = estimator.sample_latent({n: 3 * x[n] for n in given}, 5, combine=True)
        assert np.linalg.norm(z, axis=-1).max() <= radius * (1 + 1e-6)


def test_the_sampler_is_changed_for_one_call(pair, small):
    x = {n: v[:2] for n, v in small.data(2)[0].items()}
    one = pair.draw(x, 2, combine=True)
    if one.diagnostics.method == "exact":
        pytest.skip("its posteriors are drawn without a sampler")
    more = pair.draw(x, 2, combine=True, sampler={"num_steps": 1})
    assert not np.array_equal(one.z, more.z)
    assert pair.config.sampler.num_steps == 3


# What goes in wrong


@pytest.mark.bad_input
def test_an_unknown_modality_is_given_the_nearest_name(pair):
    with pytest.raises(UsageError, match="unknown modality 'm00': did you mean 'm0'"):
        pair.generate({"m00": np.zeros((2, 2))})
    with pytest.raises(UsageError, match="unknown modality 'm11': did you mean 'm1'"):
        pair.generate(targets=["m11"])


@pytest.mark.bad_input
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_value_that_is_not_finite_is_located(pair, small, value):
    bad = {n: v.astype(np.float64) for n, v in small.data(2)[0].items()}
    bad["m1"][7, 1] = value
    for call in (
        lambda: pair.generate({"m1": bad["m1"]}),
        lambda: pair.encode(bad),
        lambda: small.estimator(type(pair), 2).fit(bad),
    ):
        with pytest.raises(DataError, match="modality 'm1', row 7 contains"):
            call()


@pytest.mark.bad_input
def test_a_wrong_shape_is_named(pair, small):
    with pytest.raises(DataError, match=r"'m0' has shape \(4, 5\): expected \(rows, 2\)"):
        pair.generate({"m0": np.zeros((4, 5))})
    with pytest.raises(DataError, match=r"'m0' has shape \(2,\): expected \(rows, 2\)"):
        pair.generate({"m0": np.zeros(2)})
    dim = pair.latent_dim
    with pytest.raises(
        DataError, match=rf"z has shape \(4, {dim + 1}\): expected \(\.\.\., {dim}\)"
    ):
        pair.decode(np.zeros((4, dim + 1)))
    with pytest.raises(DataError, match=rf"expected \(\.\.\., {dim}\)"):
        pair.prior_log_prob(np.zeros((4, dim + 1)))
    with pytest.raises(DataError, match="not finite"):
        pair.prior_log_prob(np.full((4, dim), np.nan))
    x = {n: v[:3] for n, v in small.data(2)[0].items()}
    with pytest.raises(DataError, match=rf"expected \(\.\.\., 3, {dim}\)"):
        pair.posterior_log_prob(np.zeros((4, dim)), x)


@pytest.mark.bad_input
def test_unequal_rows_are_counted(pair, small):
    x = small.data(2)[0]
    uneven = {"m0": x["m0"][:3], "m1": x["m1"][:2]}
    for call in (
        lambda: pair.generate(uneven),
        lambda: pair.log_likelihood({"m0": uneven["m0"]}, given={"m1": uneven["m1"]}),
        lambda: pair.log_likelihood({"m0": x["m0"][:3]}, given={"m1": x["m1"][:1]}),
        lambda: small.estimator(type(pair), 2).fit(uneven),
    ):
        with pytest.raises(DataError, match="need the same number of rows, but m0 has 3, m1 has"):
            call()


@pytest.mark.bad_input
def test_what_is_missing_is_named(pair, small):
    x = small.data(2)[0]
    with pytest.raises(UsageError, match=r"q\(z\|X\) needs all modalities, but m1 is missing"):
        pair.encode({"m0": x["m0"]})
    with pytest.raises(UsageError, match="no modality to score: x is empty"):
        pair.log_likelihood({})
    with pytest.raises(UsageError, match="no modality was given"):
        pair.posterior_log_prob(np.zeros((1, 2)), {})
    with pytest.raises(DataError, match="modality 'm0' has no rows"):
        pair.generate({"m0": x["m0"][:0]})
    with pytest.raises(DataError, match="no array|no modality 'm1'"):
        small.estimator(type(pair), 2).fit({"m0": x["m0"]})


@pytest.mark.bad_input
@pytest.mark.parametrize("n", [0, -1])
def test_no_draws_are_refused(pair, small, n):
    x = {"m0": small.data(2)[0]["m0"][:2]}
    for call in (lambda: pair.generate(x, n), lambda: pair.log_likelihood(x, n=n)):
        with pytest.raises(UsageError, match=f"n={n}: expected at least one draw"):
            call()


@pytest.mark.bad_input
def test_unknown_settings_are_given_the_nearest_name(pair, small):
    x = {n: v[:2] for n, v in small.data(2)[0].items()}
    with pytest.raises(ConfigError, match="no setting 'warmpu': did you mean 'warmup'"):
        pair.draw(x, combine=True, sampler={"warmpu": 3})
    with pytest.raises(ConfigError, match="chains: .*got 0"):
        pair.draw(x, combine=True, sampler={"chains": 0})
    with pytest.raises(UsageError, match="unknown sampler 'hcm': did you mean 'hmc'"):
        pair.draw(x, combine=True, sampler="hcm")
    with pytest.raises(UsageError, match="unknown stage 'joins': did you mean 'joint'"):
        small.estimator(type(pair), 2).fit(small.data(2)[0], stages=["joins"])
    with pytest.raises(ConfigError, match="unknown key 'jonit': did you mean 'joint'"):
        small.estimator(type(pair), 2, jonit={})
    with pytest.raises(UsageError, match="unknown modality 'm9'"):
        small.estimator(type(pair), 2, networks={"m9": {}})
    with pytest.raises(ConfigError, match="unknown recipe 'toi': did you mean 'toy'"):
        type(pair).from_recipe("toi")


@pytest.mark.bad_input
def test_a_stage_before_those_that_it_needs_is_refused(small, kind):
    made = small.estimator(kind, 2)
    for stage in made.stage_names:
        if made.plan_.spec(stage).needs:
            with pytest.raises(
                StageError, match=f"'{stage}' needs stage '.*', which has not been"
            ):
                small.estimator(kind, 2).fit(small.data(2)[0], stages=[stage])


@pytest.mark.bad_input
def test_another_seed_for_some_of_the_stages_is_refused(small, kind, pair):
    """What stays would be of one seed and what is new of another, under one configuration."""
    before = {k: v.clone() for k, v in weights(pair).items()}
    for stage in pair.stage_names[1:]:
        with pytest.raises(StageError, match="was trained with seed 0: with seed 1 all stages"):
            pair.fit(small.data(2)[0], stages=[stage], seed=1)
    assert all(torch.equal(v, before[k]) for k, v in weights(pair).items())
    assert pair.trained_ == pair.stage_names


@pytest.mark.bad_input
def test_a_configuration_of_another_system_is_refused(kind, pair):
    class Other(kind):
        system = "another"

    with pytest.raises(UsageError, match=f"needs system 'another', but got '{kind.system}'"):
        Other.from_config(pair.config)
