"""VampPrior on several systems: what it is a mixture of, how it is trained, who cannot have it."""

import copy

import numpy as np
import pytest
import torch

from mvflow import load
from mvflow.core import ArraySource, ConfigError, Modality, Observed
from mvflow.core.parts import create
from mvflow.estimators import estimator_class
from mvflow.training import Table

SMALL = {"kind": "mlp", "hidden": [8]}
TRAIN = {"epochs": 3, "batch_size": 50, "learning_rate": 1e-2}
PRIOR = {"kind": "vampprior", "components": 5, **TRAIN, "epochs": 20}


def data(rows, seed):
    """Two groups of rows, seen in numbers and in classes."""
    rng = np.random.default_rng(seed)
    group = rng.integers(2, size=rows)
    numbers = (4.0 * group - 2)[:, None] + 0.3 * rng.normal(size=(rows, 2))
    classes = np.where(rng.random(rows) < 0.9, group, 2)
    return {"a": numbers.astype(np.float32), "b": classes}


@pytest.fixture(scope="module", params=["jnf", "mvae", "mmvae-plus"])
def fitted(request):
    modalities = [Modality("a", (2,)), Modality("b", (3,), "categorical")]
    networks = {m.name: {"encoder": SMALL, "decoder": SMALL} for m in modalities}
    sections = {"joint": TRAIN, "prior": PRIOR}
    if request.param == "jnf":
        sections |= {"flows": {**TRAIN, "epochs": 1}, "posterior": "gaussian"}
    kind = estimator_class(request.param)
    return kind(modalities, 2, networks=networks, **sections).fit(data(200, 0))


def latents(system, x):
    encode = getattr(system, "encode", system.posterior)
    with torch.no_grad():
        return encode(Observed({n: torch.from_numpy(v) for n, v in x.items()})).sample()


def test_it_is_the_mean_of_q_at_the_pseudo_rows(fitted):
    system = fitted.system_
    rows = system.fitted_prior.pseudo_rows()
    encode = getattr(system, "encode", system.posterior)
    z = torch.randn(7, 1, system.latent.dim)
    found = system.fitted_prior().log_prob(z)
    with torch.no_grad():
        each = encode(Observed(rows)).log_prob(z.expand(-1, 5, -1))
    assert found.shape == (7, 1)
    torch.testing.assert_close(found[:, 0], each.logsumexp(1) - np.log(5), rtol=1e-5, atol=1e-5)


def test_it_begins_at_training_rows_and_becomes_likelier(fitted):
    system, x = copy.deepcopy(fitted.system_), data(200, 0)
    trained = system.fitted_prior
    torch.manual_seed(0)
    z = latents(system, data(300, 1))
    with torch.no_grad():
        after = trained().log_prob(z[:, None]).mean()
    (stage,) = system.settings.prior.stages(system, trained)
    stage.start(Table.of(ArraySource(x, fitted.modalities), "cpu", 10**9))
    pseudo = [rows.detach().numpy() for rows in trained.pseudo_rows().values()]
    training = [tuple(map(str, row)) for row in zip(x["a"], x["b"], strict=True)]
    assert all(tuple(map(str, row)) in training for row in zip(*pseudo, strict=True))
    with torch.no_grad():
        before, standard = trained().log_prob(z[:, None]).mean(), system.prior().log_prob(z).mean()
    assert after > before
    assert after > standard
    assert fitted.plan_.spec("prior").needs == ("joint",)


@pytest.mark.parametrize("complete", [0, 3, 20])
def test_it_begins_at_what_is_present(fitted, complete):
    """Complete rows come first; what others lack is taken from rows that have it."""
    system, x = copy.deepcopy(fitted.system_), data(60, 0)
    rng, trained = np.random.default_rng(1), system.fitted_prior
    has = {"a": rng.random((60, 2)) < 0.5, "b": rng.random(60) < 0.5}
    has["a"][has["b"] & has["a"].all(1), 0] = False  # none is complete but the first ones
    for mask in has.values():
        mask[:complete] = True
    hidden = {"a": np.where(has["a"], x["a"], np.nan), "b": np.where(has["b"], x["b"], 0)}
    some = has["a"].any(1) | has["b"]
    rows = ArraySource(
        {n: v[some] for n, v in hidden.items()},
        fitted.modalities,
        present={n: m[some] for n, m in has.items()},
    )
    (stage,) = system.settings.prior.stages(system, trained)
    stage.start(Table.of(rows, "cpu", 10**9))
    pseudo = {n: v.detach().numpy() for n, v in trained.pseudo_rows().items()}
    for column in range(2):
        assert np.isin(pseudo["a"][:, column], x["a"][has["a"][:, column], column]).all()
    assert np.isin(pseudo["b"], x["b"][has["b"]]).all()
    training = {(*a, b) for a, b in zip(x["a"][:complete], x["b"][:complete], strict=True)}
    begun = [(*a, b) in training for a, b in zip(pseudo["a"], pseudo["b"], strict=True)]
    assert sum(begun) >= min(complete, 5)


def test_it_is_drawn_from_where_nothing_is_given_and_kept(fitted, tmp_path):
    z = fitted.sample_latent(n=50)
    assert fitted.priors() == ["standard", "vampprior"]
    assert not np.array_equal(z, fitted.sample_latent(n=50, prior="standard"))
    fitted.save(tmp_path / "run")
    np.testing.assert_array_equal(load(tmp_path / "run").sample_latent(n=50), z)
    weights = set(load(tmp_path / "run").system_.fitted_prior.state_dict())
    assert weights == {"rows_0", "rows_1"}  # no copy of the encoder


def test_the_encoder_is_frozen(fitted):
    alone = fitted.with_parts(prior="standard")
    for name, value in alone.system_.state_dict().items():
        assert torch.equal(value, fitted.system_.state_dict()[name]), name
    assert fitted.trained_[-1] == "prior"


def test_a_system_with_an_unnormalised_posterior_is_refused(fitted):
    class Chain(torch.nn.Module):
        settings = fitted.config
        modalities = fitted.modalities

        def posterior(self, observed):
            return object()

    with pytest.raises(
        ConfigError, match="'vampprior' needs q.*unnormalised.*use prior 'mixture'"
    ):
        create("priors", PRIOR).build(Chain())


@pytest.mark.slow
def test_the_defaults_train_it_until_more_brings_little():
    """Narrow posteriors in six dimensions, where training rows are a bad place to stay at."""
    rng = np.random.default_rng(0)
    z, weight = rng.normal(size=(400, 6)), rng.normal(size=(6, 12))
    x = {n: (z @ weight + 0.1 * rng.normal(size=(400, 12))).astype(np.float32) for n in "ab"}
    specs = [Modality(n, (12,), {"kind": "normal", "scale": 0.3}) for n in "ab"]
    train, held = ({n: v[part] for n, v in x.items()} for part in (slice(300), slice(300, None)))
    joint = {"epochs": 60, "batch_size": 50, "learning_rate": 3e-3}
    model = estimator_class("jnf")(specs, 6, joint=joint, flows={"epochs": 0}).fit(train)
    latents = model.draw(held, 1).z[0]

    def held_out(**settings):
        prior = model.with_parts(prior={"kind": "vampprior", "components": 40, **settings})
        prior.fit(train, stages=["prior"])
        return float(prior.prior_log_prob(latents, "vampprior").mean())

    begun, default, longer = held_out(epochs=0), held_out(), held_out(epochs=400)
    assert longer - default < 0.1 * (longer - begun)
