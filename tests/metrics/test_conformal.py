"""The promise of conformal intervals: coverage of new rows, whatever the distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mvflow.core import DataError, UsageError
from mvflow.metrics import CalibratedIntervals, conformal_quantile, interval_scores

REPEATS = 2000


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 60),
    st.sampled_from([0.5, 0.8, 0.9, 0.95]),
    st.sampled_from(["normal", "cauchy", "exponential", "integers"]),
    st.integers(0, 10),
)
def test_a_new_row_lies_inside_with_the_promised_probability(count, level, kind, seed):
    """Exactly ceil((n + 1) level) / (n + 1) without ties, and no less with them."""
    rng = np.random.default_rng(seed)
    shape = (count + 1, REPEATS)
    scores = {
        "normal": rng.normal(size=shape),
        "cauchy": rng.standard_cauchy(size=shape),
        "exponential": rng.exponential(size=shape),
        "integers": rng.integers(3, size=shape).astype(float),
    }[kind]
    limit = conformal_quantile(scores[:-1], level)
    inside = int((scores[-1] <= limit).sum())
    rank = np.ceil((count + 1) * level - 1e-9)
    promised = min(rank / (count + 1), 1.0)
    # fewer than this happen by chance in one of 10^6 tests
    assert inside >= stats.binom.ppf(1e-6, REPEATS, promised)
    if kind != "integers" and rank <= count:
        assert inside <= stats.binom.ppf(1 - 1e-6, REPEATS, promised)
        assert level <= promised <= level + 1 / (count + 1)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.1, 4.0), st.floats(-1, 1), st.integers(0, 5))
def test_intervals_of_any_width_and_place_are_widened_or_narrowed_to_their_level(wide, off, seed):
    rng, count = np.random.default_rng(seed), 39
    true = rng.normal(size=(count + 1, REPEATS))
    low, high = np.full_like(true, off - wide), np.full_like(true, off + wide)
    margin = conformal_quantile(interval_scores(true, low, high)[:-1], 0.9)
    inside = ((true >= low - margin) & (true <= high + margin))[-1].sum()
    assert stats.binom.ppf(1e-6, REPEATS, 0.9) <= inside
    assert inside <= stats.binom.ppf(1 - 1e-6, REPEATS, 0.9)


def test_too_few_rows_promise_nothing_less_than_everything():
    assert np.isinf(conformal_quantile(np.zeros((18, 2)), 0.95)).all()
    assert np.isfinite(conformal_quantile(np.zeros((19, 2)), 0.95)).all()


def test_subsets_that_were_not_measured_take_the_widest_of_their_size():
    margins = {
        "a+b->d": np.array([[1.0, 5.0]]),
        "a+c->d": np.array([[2.0, 3.0]]),
        "a->d": np.array([[9.0, 9.0]]),
    }
    found = CalibratedIntervals((0.9,), 100, margins)
    np.testing.assert_array_equal(found.margin("d", ["b", "a"], 0.9), [1.0, 5.0])
    np.testing.assert_array_equal(found.margin("d", ["b", "c"], 0.9), [2.0, 5.0])
    with pytest.raises(UsageError, match="3 observed"):
        found.margin("d", ["a", "b", "c"], 0.9)
    with pytest.raises(UsageError, match=r"levels 0.9: 0.7 is none"):
        found.margin("d", ["a"], 0.7)
    again = CalibratedIntervals.from_arrays(found.to_arrays(), "file")
    assert again.levels == (0.9,)
    assert again.draws == 100
    np.testing.assert_array_equal(again.margins["a+c->d"], margins["a+c->d"])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"levels": np.array([0.9]), "draws": np.array([100.0]), "a->b": np.zeros((2, 3))},
        {"levels": np.array([0.9]), "draws": np.array([100.0]), "a->b": np.full((1, 3), np.nan)},
        {"levels": np.zeros((1, 1)), "draws": np.array([100.0])},
    ],
)
def test_damaged_margins_are_a_sentence(arrays):
    with pytest.raises(DataError, match="intervals.safetensors"):
        CalibratedIntervals.from_arrays(arrays, "intervals.safetensors")


def test_scores_that_are_not_known_do_not_count():
    scores = np.random.default_rng(0).normal(size=(30, 2, 3))
    scores[np.random.default_rng(1).random(scores.shape) < 0.4] = np.nan
    found = conformal_quantile(scores, 0.8)
    for i in np.ndindex(2, 3):
        column = scores[(slice(None), *i)]
        assert found[i] == conformal_quantile(column[np.isfinite(column)], 0.8)
