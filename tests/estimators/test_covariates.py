"""Estimators with covariates: an effect of the batch is learned, held, and taken out."""

import numpy as np
import pytest
import torch

from mvflow import JNF, JNFShared, Modality, load
from mvflow.core import ArraySource, DataError, Observed, UsageError, registry
from mvflow.estimators import estimator_class
from mvflow.nn import seeded

SHIFT = np.array([4.0, -4.0, 0.0])


def shifted(rows=400, seed=0):
    """Two modalities of one cause; rows of batch B are shifted in the first."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, 1))
    batch = rng.choice(["A", "B"], rows)
    a = z * [1.0, 1.0, -1.0] + (batch == "B")[:, None] * SHIFT + 0.1 * rng.normal(size=(rows, 3))
    b = z * [1.0, -1.0] + 0.1 * rng.normal(size=(rows, 2))
    return {"a": a.astype(np.float32), "b": b.astype(np.float32)}, batch


@pytest.fixture(scope="module")
def rows():
    return shifted()


@pytest.fixture(scope="module")
def model(rows):
    x, batch = rows
    training = {"epochs": 20, "batch_size": 50, "learning_rate": 2e-2}
    made = JNF(
        [Modality(n, v.shape[1:], {"kind": "normal", "scale": 0.3}) for n, v in x.items()],
        2,
        joint={**training, "merge": [16]},
        posterior="gaussian",
        flows={**training, "epochs": 10},
        networks={n: dict.fromkeys(("encoder", "decoder"), "linear-mlp") for n in x},
    )
    return made.fit(x, covariates={"batch": batch})


def test_what_is_held_takes_the_effect_out(model, rows):
    x, batch = rows
    given = {"b": x["b"]}
    found = {
        level: model.generate(given, 20, covariates={"batch": batch}, hold={"batch": level})["a"]
        for level in ("A", "B")
    }
    # the shift, which a model that ignores the batch would not show at all
    np.testing.assert_allclose((found["B"] - found["A"]).mean((0, 1)), SHIFT, atol=0.4)
    own = model.generate(given, 20, covariates={"batch": batch})["a"]
    chosen = np.where((batch == "B")[:, None], found["B"], found["A"])
    np.testing.assert_allclose(own, chosen, atol=1e-5)


def test_latents_do_not_hold_what_covariates_say(model, rows):
    x, batch = rows
    (z, spread), is_b = model.encode(x, covariates={"batch": batch}), batch == "B"
    apart = np.abs(z[is_b].mean(0) - z[~is_b].mean(0))
    deviation = np.sqrt(z.var(0) + (spread**2).mean(0))
    assert (apart / deviation).max() < 0.5  # in the data, 4 standard deviations of the cause


def test_independence_adds_the_correlation_of_the_means_with_covariates(model, rows):
    x, batch = rows
    taken = ArraySource(x, covariates={"batch": batch}).take(range(50))
    observed = Observed.from_columns({k: torch.from_numpy(v) for k, v in taken.items()})
    joint = model.system_.joint
    totals = []
    for weight in (0.0, 3.0):
        with seeded(0, "loss"):
            totals.append(joint.losses(observed, 1.0, weight))
    loc = joint.posterior(observed).base_dist.loc.numpy()
    both = np.corrcoef(loc.T, taken["covariates/batch"].T)[: loc.shape[1], loc.shape[1] :]
    # float32 sums over fifty rows
    np.testing.assert_allclose(totals[1].terms["dependence"], (both**2).sum(), rtol=1e-4)
    added = totals[1].total - totals[0].total
    np.testing.assert_allclose(added, 3 * (both**2).sum(), rtol=1e-3)
    assert "dependence" not in totals[0].terms


def test_columns_of_a_source_stand_for_values(model, rows):
    x, batch = rows
    taken = ArraySource(x, covariates={"batch": batch}).take(np.arange(len(batch)))
    for found, expected in (
        (model.encode(taken), model.encode(x, covariates={"batch": batch})),
        (
            [model.log_likelihood(taken, n=5)],
            [model.log_likelihood(x, n=5, covariates={"batch": batch})],
        ),
        ([model.draw(taken, 2).z], [model.draw(x, 2, covariates={"batch": batch}).z]),
    ):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_likelihoods_are_those_under_the_right_batch(model, rows):
    x, batch = rows
    other = np.where(batch == "A", "B", "A")
    right = model.log_likelihood(x, n=50, covariates={"batch": batch})
    wrong = model.log_likelihood(x, n=50, covariates={"batch": other})
    assert (right > wrong).mean() > 0.95


def test_draws_of_the_prior_are_of_the_batch_that_is_said(model):
    found = [model.generate(None, 500, covariates={"batch": level})["a"] for level in "AB"]
    np.testing.assert_allclose((found[1] - found[0]).mean((0, 1)), SHIFT, atol=0.4)
    each = model.generate(None, 2, covariates={"batch": ["A", "B"]}, noise=False)["a"]
    z = model.draw(None, 2).z
    for i, level in enumerate("AB"):
        alone = model.decode(z[i], ["a"], covariates={"batch": level})["a"]
        np.testing.assert_allclose(each[i], alone, atol=1e-5)


def test_it_is_kept_with_the_run(model, rows, tmp_path):
    model.save(tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.config.covariates["batch"].levels == ("A", "B")
    x, batch = rows
    for one, other in zip(
        again.encode(x, covariates={"batch": batch}),
        model.encode(x, covariates={"batch": batch}),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.bad_input
def test_missing_and_unknown_values_are_named(model, rows):
    x, batch = rows
    with pytest.raises(UsageError, match="covariate 'batch' .A, B."):
        model.generate({"b": x["b"]})
    with pytest.raises(UsageError, match="covariate 'batch'"):
        model.generate()
    with pytest.raises(DataError, match="'C'"):
        model.generate({"b": x["b"]}, covariates={"batch": "C"})
    with pytest.raises(UsageError, match="'site'"):
        model.generate({"b": x["b"]}, covariates={"batch": batch}, hold={"site": "C"})
    with pytest.raises(DataError, match="the data do not"):
        model.fit(x, stages=["flows"])


@pytest.mark.bad_input
def test_a_model_without_covariates_says_so(fitted, small):
    with pytest.raises(UsageError, match="no covariates"):
        fitted(JNF, 2).generate(covariates={"batch": "A"})


@pytest.mark.parametrize("system", registry("systems").names())
def test_every_system_passes_them_on(system, small, rows):
    x, batch = rows
    kind = estimator_class(system)
    modalities = [Modality(n, v.shape[1:]) for n, v in x.items()]
    age = np.linspace(20.0, 80.0, len(batch))
    made = small.estimator(kind, 2).set_params(
        modalities=modalities, networks=None, data={"validation": 0.1}
    )
    made.fit(x, covariates={"batch": batch, "age": age})
    assert made.config.covariates["age"].scale == pytest.approx(age.std())
    values = {"batch": batch[:4], "age": age[:4]}
    given = {n: v[:4] for n, v in x.items()}
    for names in (["a"], ["b"], ["a", "b"]):
        some = {n: given[n] for n in names}
        draws = made.draw(some, 3, covariates=values)
        other = made.draw(some, 3, covariates={**values, "age": age[::-1][:4]})
        assert not np.allclose(draws.z, other.z)  # encoders see it
    own = made.decode(draws.z, covariates=draws.covariates)
    held = made.decode(draws.z, covariates={**draws.covariates, "batch": "A"})
    for name, made_of in own.items():  # and so do decoders
        same = np.isclose(held[name], made_of).all((0, 2))
        np.testing.assert_array_equal(same, batch[:4] == "A")
    assert np.isfinite(made.log_likelihood(given, n=4, covariates=values)).all()
    assert kind is not JNFShared or made.project(given)["a"].shape[0] == 4
