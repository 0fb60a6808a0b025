"""Imputing: means, intervals that hold, names and units of files, rows unlike training."""

import numpy as np
import pytest

from mvflow import JNF, Modality
from mvflow.core import UsageError
from mvflow.metrics import CalibratedIntervals

SPECS = [Modality("a", (3,)), Modality("b", (2,)), Modality("c", (4,), "categorical")]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(512, 2))
    a = z @ rng.normal(size=(2, 3)) + 0.1 * rng.normal(size=(512, 3))
    b = z + 0.1 * rng.normal(size=(512, 2))
    return {"a": a, "b": b, "c": (z[:, 0] > 0) + 2 * (z[:, 1] > 0)}


@pytest.fixture(scope="module")
def model(rows):
    short = {"epochs": 3, "learning_rate": 5e-3, "batch_size": 64}
    train = {name: x[:384] for name, x in rows.items()}
    return JNF(SPECS, latent_dim=2, joint=short, flows=short).fit(train, seed=0)


def some(rows, start, stop, *names):
    return {name: rows[name][start:stop] for name in names}


def test_means_and_intervals_are_those_of_generated_draws(model, rows):
    given = some(rows, 384, 400, "a")
    absent = model.impute(given, n=50, level=0.8, seed=3)
    assert {*absent} == {"b", "c"}
    means = model.generate(given, 50, seed=3, noise=False)
    noisy = model.generate(given, 50, seed=3, noise=True)
    np.testing.assert_array_equal(absent["b"].mean, means["b"].mean(0))
    low, high = np.quantile(noisy["b"], [0.1, 0.9], axis=0, method="weibull")
    np.testing.assert_allclose(absent["b"].low, low, rtol=1e-6)
    np.testing.assert_allclose(absent["b"].high, high, rtol=1e-6)
    np.testing.assert_allclose(absent["c"].mean.sum(-1), 1, rtol=1e-5)  # float32 probabilities
    assert absent["c"].low is None


def test_calibrated_intervals_are_wider_by_the_margin_of_their_direction(model, rows):
    given = some(rows, 384, 400, "a")
    margin = np.array([[0.5, 0.25]])
    wide = CalibratedIntervals((0.9,), 100, {"a->b": margin})
    raw, calibrated = (model.impute(given, targets=["b"], intervals=i)["b"] for i in (None, wide))
    np.testing.assert_allclose(calibrated.low, raw.low - margin)
    np.testing.assert_allclose(calibrated.high, raw.high + margin)
    assert (raw.is_calibrated, calibrated.is_calibrated) == (False, True)


def test_rows_unlike_training_are_marked_and_those_like_it_hardly_ever(model, rows):
    reference = some(rows, 384, 448, "a", "b", "c")
    like = model.unlike(some(rows, 448, 512, "a"), reference)
    # each is marked with probability 1/65; five of 64 or more have probability 0.003
    assert like.sum() < 5
    far = some(rows, 448, 450, "a")
    far["a"] = far["a"] + np.array([[0.0], [50.0]])
    assert model.unlike(far, reference).tolist() == [bool(like[0]), True]


@pytest.mark.bad_input
def test_what_cannot_be_imputed_is_said(model, rows):
    given = some(rows, 0, 4, "a")
    with pytest.raises(UsageError, match="'a' is both given and to be imputed"):
        model.impute(given, targets=["a"])
    with pytest.raises(UsageError, match="nothing to impute"):
        model.impute(some(rows, 0, 4, "a", "b", "c"))
    with pytest.raises(UsageError, match="expected a number between 0 and 1"):
        model.impute(given, level=90)
