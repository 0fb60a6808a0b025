"""Counts with library sizes, dispersions of columns, more zeros: against scipy's densities."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from mvflow import JNF, Modality
from mvflow.config import config_from_dict
from mvflow.core import ConfigError
from mvflow.core.parts import create
from mvflow.estimators import estimator_class
from mvflow.likelihoods import LikelihoodModule
from mvflow.likelihoods.counts import StandardisedCounts
from mvflow.nn import seeded

KINDS = ("poisson", "negative-binomial", "zero-inflated-negative-binomial")
SHAPE = (6,)


def soft(x):
    return 20 * np.tanh(x / 20)


def counts(rows=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(1.0, 4.0, size=(rows, *SHAPE))).astype(float)


def module(kind, **settings):
    p = LikelihoodModule(create("likelihoods", {"kind": kind, **settings}), SHAPE).double()
    if "log_dispersion" in p.learned:
        p.learned["log_dispersion"].data = torch.linspace(-2, 3, SHAPE[0], dtype=torch.float64)
    return p


def reference(kind, x, mean, r, odds):
    """Scipy's log probability of each count."""
    if kind == "poisson":
        return stats.poisson.logpmf(x, mean)
    found = stats.nbinom.logpmf(x, r, r / (r + mean))
    if kind == "negative-binomial":
        return found
    p = special.expit(odds)
    return np.log(p * (x == 0) + (1 - p) * np.exp(found))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", ["none", "observed", "depth"])
@pytest.mark.parametrize("dispersion", ["value", "column"])
def test_rows_have_the_density_of_scipy(kind, library, dispersion):
    """The mean is the exponential of the first outputs, or a share of the row's own counts."""
    by_column = dispersion == "column"
    settings = {} if kind == "poisson" else {"dispersion": dispersion}
    p = module(kind, library=library, **settings)
    x, rng = counts(), np.random.default_rng(1)
    outputs = rng.normal(size=(7, p.likelihood.outputs(SHAPE)[0] // 6, 6))
    size = rng.uniform(0.5, 3.0, size=(7, 1))
    logs = soft(outputs[:, 0])
    mean = {
        "none": np.exp(logs),
        "observed": x.sum(1, keepdims=True) * special.softmax(logs, 1),
        "depth": size * np.exp(logs),
    }[library]
    r = soft(np.linspace(-2, 3, 6) if by_column else outputs[:, 1 % outputs.shape[1]])
    expected = reference(kind, x, mean, np.exp(r), soft(outputs[:, -1])).sum(1)
    raw = torch.from_numpy(outputs.reshape(7, -1))
    found = p.log_prob(raw, torch.from_numpy(x), size=torch.from_numpy(size))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-10)
    again = p(raw, torch.from_numpy(size)).log_prob(torch.from_numpy(x))
    np.testing.assert_allclose(again.detach(), expected, rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", ["none", "observed"])
def test_gradients_are_those_of_finite_differences(kind, library):
    settings = {} if kind == "poisson" else {"dispersion": "column"}
    p, x = module(kind, library=library, **settings), torch.from_numpy(counts(3))
    x[0, :3] = 0
    with seeded(0, "raw"):
        raw = torch.randn(3, *p.likelihood.outputs(SHAPE), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda raw: p.log_prob(raw, x), raw.requires_grad_())
    if "log_dispersion" in p.learned:
        before = p.learned["log_dispersion"]

        def density(value):
            learned = {"log_dispersion": value, "library": torch.tensor(30.0)}
            return p.likelihood.log_prob(raw.detach(), x, SHAPE, learned)

        assert torch.autograd.gradcheck(density, before.data.clone().requires_grad_())


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_draws_and_of_the_library(kind):
    """Generated rows have the median library size of the training rows, which have any counts."""
    p = module(kind, library="observed")
    rows = np.concatenate([counts(50), np.zeros((30, 6))])
    p.measure(lambda: map(torch.from_numpy, np.split(rows, [20])))
    sums = rows.sum(1)
    library = np.sort(sums[sums > 0])[24]  # torch takes the lower of the two in the middle
    assert p.library == library
    with seeded(1, "raw"):
        raw = torch.randn(1, *p.likelihood.outputs(SHAPE), dtype=torch.float64)
        found = p(raw)
        draws = found.sample((20_000,))
    if kind != "zero-inflated-negative-binomial":
        np.testing.assert_allclose(found.mean.detach().sum(), library, rtol=1e-12)
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - found.mean).abs() < 5 * error).all()
    np.testing.assert_allclose(draws.var(0), found.variance.detach(), rtol=0.2)  # heavy tails


def test_encoders_see_shares_where_the_library_is_modelled():
    x = torch.from_numpy(counts())
    flat = create("likelihoods", {"kind": "poisson", "library": "observed"}).flat(SHAPE)
    torch.testing.assert_close(flat(x), flat(5 * x), rtol=1e-12, atol=0)
    assert flat(torch.zeros(1, 6)).isfinite().all()


def test_a_number_of_each_row_scales_what_is_generated():
    """A size factor among the covariates: twice of it is twice the mean."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.5, 2.0, 60)
    x = rng.poisson(depth[:, None] * [4.0, 9.0])
    likelihood = {"kind": "negative-binomial", "library": "depth", "dispersion": "column"}
    made = JNF([Modality("rna", (2,), likelihood)], 2, joint={"epochs": 1}, flows={"epochs": 1})
    made.fit({"rna": x}, covariates={"depth": depth})
    z = np.zeros((1, 2))
    # all else that the decoder sees of the covariate is the same
    one, two = (
        made.system_.joint.decoders.likelihood("rna")(torch.zeros(1, 2), torch.tensor([[size]]))
        for size in (1.0, 2.0)
    )
    torch.testing.assert_close(two.mean, 2 * one.mean)
    found = made.decode(z, covariates={"depth": 1.5})["rna"]
    raw = made.system_.joint.decoders._raw(
        "rna",
        torch.zeros(1, 2),
        {"depth": torch.from_numpy(made.config.covariate_specs()[0].encode([1.5]))},
    )
    np.testing.assert_allclose(found, 1.5 * np.exp(soft(raw.detach().numpy())), rtol=1e-5)


@pytest.mark.bad_input
@pytest.mark.parametrize("covariates", [{}, {"depth": {"levels": ["A"]}}])
def test_a_size_has_to_be_a_number(covariates):
    likelihood = {"kind": "poisson", "library": "depth"}
    made = JNF([Modality("rna", (2,), likelihood)], 2, covariates=covariates)
    with pytest.raises(ConfigError, match="library='depth'"):
        made.facts()


@pytest.mark.parametrize("system", ["jnf", "mvae", "jmvae"])
@pytest.mark.parametrize("library", ["none", "observed"])
def test_standardised_inputs_are_so_over_the_rows_that_a_stage_sees(system, library):
    """In every encoder of every stage; mixed tables standardise their columns of counts."""
    x = counts(60)
    counted = {"kind": "poisson", "library": library, "inputs": "standardised"}
    groups = [{"likelihood": "normal", "columns": 2}, {"likelihood": counted, "columns": 4}]
    specs = [
        Modality("a", SHAPE, counted),
        Modality("b", SHAPE, {"kind": "mixed", "groups": groups}),
    ]
    short = {"epochs": 0, "batch_size": 16}
    settings = {"jnf": {"joint": short, "flows": short}, "jmvae": {"joint": short}, "mvae": {}}
    raw = {
        "system": system,
        "latent_dim": 2,
        "modalities": {m.name: {"shape": m.shape, "likelihood": m.likelihood} for m in specs},
        "data": {"validation": 0},
        **settings[system],
    }
    raw = raw if system != "mvae" else {**raw, "joint": short}
    made = estimator_class(system).from_config(config_from_dict(raw)).fit({"a": x, "b": x})
    layers = [p for p in made.system_.modules() if isinstance(p, StandardisedCounts)]
    assert len(layers) == {"jnf": 4, "jmvae": 4, "mvae": 2}[system]
    for layer in layers:
        seen = layer(torch.from_numpy(x[:, -len(layer.mean) :].astype(np.float32)))
        torch.testing.assert_close(seen.mean(0), torch.zeros(len(layer.mean)), atol=1e-5, rtol=0)
        torch.testing.assert_close(seen.std(0, correction=0), torch.ones(len(layer.mean)))


def test_standardised_shares_do_not_depend_on_the_depth_of_a_row_nor_on_absent_rows():
    x = torch.from_numpy(counts(20))
    layer = StandardisedCounts(6, by_row=True).double()
    layer.measure(lambda: [x, torch.full((3, 6), torch.nan)])
    torch.testing.assert_close(layer(x), layer(7 * x), rtol=1e-9, atol=1e-9)
    shares = torch.sqrt(x / x.sum(1, keepdim=True))
    torch.testing.assert_close(
        layer(x), (shares - shares.mean(0)) / shares.std(0, correction=0), rtol=1e-5, atol=1e-5
    )


def test_settings_that_came_later_leave_the_keys_of_older_runs_alone():
    assert "inputs" not in create("likelihoods", "poisson").to_dict()
    kept = create("likelihoods", {"kind": "poisson", "inputs": "standardised"}).to_dict()
    assert kept["inputs"] == "standardised"
