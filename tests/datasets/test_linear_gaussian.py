"""The linear-Gaussian set: its closed form against SciPy, Eq. 12, and a model trained on it."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from mvflow import JNF
from mvflow.core import DataError, UsageError
from mvflow_datasets import SplitData, Store, find_builder, write_store
from mvflow_datasets.linear_gaussian import BUILDER, Gaussian, LinearGaussian

NAMES = ("m0", "m1", "m2")
SUBSETS = [s for size in (1, 2, 3) for s in combinations(NAMES, size)]


def correlated(latent, seed=0):
    """Three modalities with loadings at random: posteriors that no diagonal Gaussian equals."""
    rng = np.random.default_rng(seed)
    sizes = dict(zip(NAMES, (latent, 2, 4), strict=True))
    return LinearGaussian(
        {n: rng.normal(size=(k, latent)) for n, k in sizes.items()},
        {n: rng.normal(size=k) for n, k in sizes.items()},
        {n: 0.5 + 0.3 * j for j, n in enumerate(sizes)},
    )


MODELS = {
    "drawn": LinearGaussian.drawn(modalities=3, latent=2, seed=4),
    "correlated-1": correlated(1),
    "correlated-3": correlated(3),
}


@pytest.fixture(params=MODELS)
def exact(request):
    return MODELS[request.param]


def joint(exact):
    """Mean and covariance of (z, x_0, x_1, x_2), and the place of each part in it."""
    d = exact.latent_dim
    w = np.concatenate([np.eye(d), *(exact.loadings[n] for n in NAMES)])
    mean = np.concatenate([np.zeros(d), *(exact.offsets[n] for n in NAMES)])
    noise = [np.zeros(d), *(np.full(len(exact.offsets[n]), exact.noise[n] ** 2) for n in NAMES)]
    ends = np.cumsum([d, *(len(exact.offsets[n]) for n in NAMES)])
    places = np.split(np.arange(ends[-1]), ends[:-1])
    return (
        mean,
        w @ w.T + np.diag(np.concatenate(noise)),
        dict(zip(("z", *NAMES), places, strict=True)),
    )


def conditioned(exact, of, x):
    """Mean (rows, size) and covariance of some parts given x, from the joint Gaussian of all."""
    mean, covariance, places = joint(exact)
    a = np.concatenate([places[n] for n in of])
    b = np.concatenate([places[n] for n in x])
    gain = covariance[np.ix_(a, b)] @ np.linalg.inv(covariance[np.ix_(b, b)])
    centred = np.concatenate(list(x.values()), 1) - mean[b]
    rest = covariance[np.ix_(a, a)] - gain @ covariance[np.ix_(b, a)]
    return mean[a] + centred @ gain.T, rest


def rows(exact, count=6, seed=0):
    return exact.sample(count, np.random.default_rng(seed))


def pick(x, names):
    return {name: x[name] for name in names}


@pytest.mark.parametrize("given", SUBSETS)
def test_posteriors_are_those_of_the_joint_gaussian(exact, given):
    z, x = rows(exact)
    found = exact.posterior(pick(x, given))
    mean, covariance = conditioned(exact, ["z"], pick(x, given))
    np.testing.assert_allclose(found.mean, mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-8, atol=1e-10)
    density = [multivariate_normal(m, covariance).logpdf(v) for m, v in zip(mean, z, strict=True)]
    np.testing.assert_allclose(found.log_prob(z), density, rtol=1e-8)


def test_the_posterior_of_nothing_is_the_prior(exact):
    prior = exact.posterior({})
    np.testing.assert_array_equal(prior.mean, np.zeros((1, exact.latent_dim)))
    np.testing.assert_array_equal(prior.covariance, np.eye(exact.latent_dim))


@pytest.mark.parametrize("given", [(), *SUBSETS])
def test_likelihoods_are_those_of_the_joint_gaussian(exact, given):
    _, x = rows(exact)
    mean, covariance, places = joint(exact)
    for target in SUBSETS:
        if set(target) & set(given):
            continue
        found = exact.log_likelihood(pick(x, target), pick(x, given))
        values = np.concatenate([x[n] for n in target], 1)
        if given:
            means, rest = conditioned(exact, target, pick(x, given))
        else:
            at = np.concatenate([places[n] for n in target])
            means, rest = np.tile(mean[at], (len(values), 1)), covariance[np.ix_(at, at)]
        wanted = [
            multivariate_normal(m, rest).logpdf(v) for m, v in zip(means, values, strict=True)
        ]
        np.testing.assert_allclose(found, wanted, rtol=1e-8)


def test_conditional_likelihood_is_a_ratio_of_evidences(exact):
    _, x = rows(exact)
    found = exact.log_likelihood({"m2": x["m2"]}, {"m0": x["m0"]})
    both = exact.log_likelihood(pick(x, ["m0", "m2"])) - exact.log_likelihood({"m0": x["m0"]})
    np.testing.assert_allclose(found, both, rtol=1e-9)


@pytest.mark.parametrize("given", SUBSETS)
def test_equation_12_divides_by_the_prior_one_time_less_than_there_are_experts(exact, given):
    _, x = rows(exact)
    known, found = exact.posterior(pick(x, given)), exact.product(pick(x, given))
    np.testing.assert_allclose(found.mean, known.mean, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.covariance, known.covariance, rtol=1e-9, atol=1e-11)


def test_one_division_by_the_prior_is_wrong_from_three_modalities_on(exact):
    """Appendix F.3 prints one: right for two modalities, too narrow for three."""
    _, x = rows(exact)
    for given in combinations(NAMES, 2):
        divided = exact.product(pick(x, given), divisions=1)
        np.testing.assert_allclose(divided.kl(exact.posterior(pick(x, given))), 0, atol=1e-9)
    wrong, known = exact.product(x, divisions=1), exact.posterior(x)
    assert np.all(np.diag(wrong.covariance) < np.diag(known.covariance))
    assert np.all(wrong.kl(known) > 0.003)


def test_kl_is_that_of_monte_carlo(exact):
    _, x = rows(exact, 1)
    p, q = exact.posterior(x), exact.posterior({"m0": x["m0"]})
    rng = np.random.default_rng(0)
    z = p.mean + rng.normal(size=(20_000, exact.latent_dim)) @ np.linalg.cholesky(p.covariance).T
    terms = p.log_prob(z) - q.log_prob(z)
    assert abs(terms.mean() - p.kl(q)[0]) < 4 * terms.std() / np.sqrt(len(z))
    np.testing.assert_allclose(p.kl(p), 0, atol=1e-12)


def test_samples_have_the_moments_of_the_model(exact):
    z, x = rows(exact, 40_000)
    found = np.cov(np.concatenate([z, *(x[n] for n in NAMES)], 1), rowvar=False)
    _, covariance, _ = joint(exact)
    spread = np.diag(covariance)
    error = np.sqrt((np.outer(spread, spread) + covariance**2) / len(z))  # of a Wishart matrix
    assert np.all(abs(found - covariance) < 5 * error)


# The store


def build(path, **options):
    return BUILDER.build(path / "s.h5", **{"rows": 300, "test_rows": 50, **options})


def test_the_builder_is_registered():
    assert find_builder("linear-gaussian") is BUILDER


@pytest.mark.parametrize(("modalities", "latent"), [(1, 1), (2, 3), (5, 2)])
def test_the_model_is_rebuilt_from_the_store(tmp_path, modalities, latent):
    path = build(tmp_path, modalities=modalities, latent=latent, seed=7)
    with Store.open(path) as store:
        exact = LinearGaussian.of_store(store)
        for ours, theirs in zip(exact.modalities, store.modalities, strict=True):
            assert (ours.name, ours.shape, ours.weight) == (theirs.name, theirs.shape, 1.0)
            assert ours.likelihood_part == theirs.likelihood_part
        assert exact.latent_dim == latent
        assert {m.weight for m in store.modalities} == {1.0}
        split = store["train"]
        assert sorted(split.factors) == [f"z{k}" for k in range(latent)]
        x = split.take(np.arange(300))
        z = np.stack([split.factors[f"z{k}"] for k in range(latent)], 1)
        assert {v.dtype.name for v in (*x.values(), z)} == {"float32"}
        for name, w in exact.loadings.items():
            white = (x[name] - z @ w.T - exact.offsets[name]) / exact.noise[name]
            square = (white**2).sum(1)  # chi-square with as many degrees as there are values
            assert abs(square.mean() - len(w)) < 4 * np.sqrt(2 * len(w) / 300)


def test_drawn_posteriors_are_diagonal():
    exact = LinearGaussian.drawn(modalities=4, latent=3, seed=1)
    for given in combinations(exact.loadings, 2):
        x = {n: np.zeros((1, len(exact.offsets[n]))) for n in given}
        covariance = exact.posterior(x).covariance
        np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-12)


def test_a_seed_gives_the_same_bytes_and_another_seed_another_model(tmp_path):
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        made.append(build(tmp_path / name, seed=seed).read_bytes())
    assert made[0] == made[1] != made[2]


@pytest.mark.bad_input
def test_other_stores_are_refused(tmp_path):
    path = write_store(
        tmp_path / "other.h5", name="other", modalities=MODELS["drawn"].modalities[:1],
        splits={"train": SplitData({"m0": np.zeros((3, 3), np.float32)})},
    )  # fmt: skip
    with (
        Store.open(path) as store,
        pytest.raises(DataError, match="was made by None, not by 'linear-gaussian'"),
    ):
        LinearGaussian.of_store(store)


@pytest.mark.bad_input
def test_wrong_use():
    exact = MODELS["drawn"]
    _, x = rows(exact)
    with pytest.raises(UsageError, match="name one to score that is not given"):
        exact.log_likelihood({"m0": x["m0"]}, {"m0": x["m0"]})
    with pytest.raises(UsageError, match="name one to score"):
        exact.log_likelihood({})
    with pytest.raises(UsageError, match="unknown modality 'm9'"):
        exact.posterior({"m9": x["m0"]})


# The whole pipeline, from the recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of the recipe, trained in seconds; rows, and the exact answer in its own latents."""
    path = BUILDER.build(tmp_path_factory.mktemp("lg") / "s.h5", test_rows=200)
    with Store.open(path) as store:
        exact = LinearGaussian.of_store(store)
        estimator = JNF.from_recipe("linear-gaussian").fit(store["train"], seed=0)
        x = store["test"].take(np.arange(200))
    # p(X) does not change when z is rotated: Procrustes' rotation takes z to the model's latents
    u, _, v = np.linalg.svd(exact.posterior(x).mean.T @ estimator.encode(x)[0])
    turned = LinearGaussian(
        {n: w @ u @ v for n, w in exact.loadings.items()}, exact.offsets, exact.noise
    )
    return estimator, turned, x


def learnt(estimator, given, draws=1000):
    """Mean and variance of q(z|x_S) from draws, each (rows, latent)."""
    z = estimator.sample_latent(given, draws, seed=1)
    return z.mean(0, dtype=np.float64), z.var(0, dtype=np.float64)


def divergences(known, mean, variance):
    """KL(exact || N(mean, variance)) of each row."""
    found = [
        Gaussian(known.mean[i : i + 1], known.covariance).kl(
            Gaussian(mean[i : i + 1], np.diag(variance[i]))
        )
        for i in range(len(mean))
    ]
    return np.concatenate(found)


@pytest.mark.slow
def test_the_trained_joint_posterior_is_the_exact_one(trained):
    estimator, exact, x = trained
    loc, scale = estimator.encode(x)
    # measured .001; an error of 5 % in every mean (in units of the width) would make .0025
    assert divergences(exact.posterior(x), loc, scale**2.0).mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_trained_unimodal_posteriors_are_the_exact_ones(trained, name):
    estimator, exact, x = trained
    given = {name: x[name]}
    found = divergences(exact.posterior(given), *learnt(estimator, given))
    # the moments of 1,000 draws alone cost .002; measured .003, and .2 to .5 when half trained
    assert found.mean() < 0.03


@pytest.mark.slow
def test_the_product_of_two_trained_posteriors_is_the_exact_one(trained):
    estimator, exact, x = trained
    given = {name: x[name][:60] for name in ("m0", "m1")}
    found = divergences(exact.posterior(given), *learnt(estimator, given, 400))
    # measured .014: errors of two experts, .006, and a chain worth 100 to 400 draws, .005 to .02
    assert found.mean() < 0.06
    single = divergences(exact.posterior(given), *learnt(estimator, {"m0": given["m0"]}))
    assert single.mean() > 3 * found.mean()  # one expert is no stand-in for the product


@pytest.mark.slow
def test_trained_likelihoods_are_the_exact_ones(trained):
    estimator, exact, x = trained
    # measured .003 and .001 nats, with standard errors of .003; half trained it is .05 to .4
    joint = estimator.log_likelihood(x, n=200) - exact.log_likelihood(x)
    assert abs(joint.mean()) < 0.03
    scored, given = {"m1": x["m1"]}, {"m0": x["m0"]}
    crossed = estimator.log_likelihood(scored, given=given, n=200)
    assert abs((crossed - exact.log_likelihood(scored, given)).mean()) < 0.03
