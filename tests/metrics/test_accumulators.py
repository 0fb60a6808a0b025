"""Accumulators give in batches what NumPy gives at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvflow.core import UsageError
from mvflow.metrics import Coherence, MeanAndError

cuts = st.lists(st.integers(0, 50), max_size=5)


def batches(values, at):
    edges = [0, *sorted(at), values.shape[-1]]
    return [values[..., a:b] for a, b in zip(edges, edges[1:], strict=False)]


@given(st.integers(1, 5), cuts, st.integers(0, 99))
def test_coherence_in_batches_is_that_of_all_at_once(modalities, at, seed):
    rng = np.random.default_rng(seed)
    predictions, labels = rng.integers(3, size=(modalities, 50)), rng.integers(3, size=50)
    joint, conditional = Coherence(), Coherence()
    for p, y in zip(batches(predictions, at), batches(labels, at), strict=True):
        joint.update(p)
        conditional.update(p, y)
    assert joint.compute() == np.mean([len(set(column)) == 1 for column in predictions.T])
    assert conditional.compute() == np.mean((predictions == labels).all(0))


def test_coherence_runs_on_every_library(xp):
    predictions = np.random.default_rng(0).integers(2, size=(3, 40))
    expected = np.mean((predictions == predictions[0]).all(0))
    assert Coherence().update(xp.asarray(predictions)).compute() == expected
    mean = MeanAndError().update(xp.asarray(np.arange(5.0))).compute()
    assert mean == {"mean": 2.0, "standard_error": pytest.approx(np.sqrt(2.5 / 5))}


@pytest.mark.parametrize(("predictions", "expected"), [([[1, 2]], 1.0), ([[1, 2], [2, 1]], 0.0)])
def test_coherence_at_its_ends(predictions, expected):
    assert Coherence().update(np.array(predictions)).compute() == expected


def test_the_coherence_of_random_classes_is_chance():
    rng = np.random.default_rng(0)
    n, classes = 20_000, 5
    predictions = rng.integers(classes, size=(2, n))
    for found in (
        Coherence().update(predictions).compute(),
        Coherence().update(predictions[:1], rng.integers(classes, size=n)).compute(),
    ):
        error = np.sqrt(1 / classes * (1 - 1 / classes) / n)
        assert abs(found - 1 / classes) < 4 * error


@given(cuts, st.integers(0, 99), st.sampled_from([0.0, 1e6]))
def test_mean_and_error_in_batches_are_those_of_numpy(at, seed, offset):
    values = np.random.default_rng(seed).normal(size=50) + offset
    accumulator = MeanAndError()
    for part in batches(values, at):
        accumulator.update(part)
    found = accumulator.compute()
    # around 1e6 numbers round to 1e-10, so deviations of size 1 keep ten digits
    np.testing.assert_allclose(found["mean"], values.mean(), rtol=1e-12, atol=1e-12)
    expected = values.std(ddof=1) / np.sqrt(50)
    np.testing.assert_allclose(found["standard_error"], expected, rtol=1e-8)


def test_the_error_of_one_value_is_zero():
    assert MeanAndError().update(np.array([3.0])).compute() == {"mean": 3.0, "standard_error": 0.0}


@pytest.mark.bad_input
@pytest.mark.parametrize("metric", [Coherence, MeanAndError])
def test_nothing_added_has_no_value(metric):
    with pytest.raises(UsageError, match="was added: .* has no value"):
        metric().compute()
