"""Units: what goes into a store comes back as the files had it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from mvflow.core import DataError, Knots, Units
from mvflow_datasets.importing.transforms import TRANSFORMS, fit_units
from mvflow_datasets.units import pack_units, unpack_units

numbers = st.floats(0, 1e4, width=32)
steps = st.lists(st.sampled_from(TRANSFORMS), min_size=3, max_size=3)


def values(seed=0, rows=200):
    rng = np.random.default_rng(seed)
    return np.c_[rng.gamma(2, 30, rows), rng.poisson(0.7, rows), rng.normal(50, 9, rows)]


@given(steps, st.integers(0, 9), st.lists(numbers, min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_restore_is_the_inverse_of_apply_inside_and_outside_of_training(chosen, seed, row):
    units = fit_units(values(seed), chosen, is_image=False)
    x = np.array([row, *values(seed)[:20]], np.float64)
    back = units.restore(units.apply(x))
    np.testing.assert_allclose(back, x, rtol=1e-9, atol=1e-7)  # of a few float64 roundings


@given(steps, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_every_form_in_which_units_are_kept_gives_the_same(chosen, seed):
    units = fit_units(values(seed), chosen, is_image=False)
    units = replace(units, image_shape=(3, 1) if seed % 2 else ())
    arrays = pack_units(units)
    x = values(seed + 1)
    for other in (
        Units.from_dict(json.loads(json.dumps(units.to_dict()))),
        unpack_units(arrays.get, 3),
    ):
        np.testing.assert_array_equal(other.apply(x), units.apply(x))
        np.testing.assert_array_equal(other.restore(x), units.restore(x))
        assert other.image_shape == units.image_shape


def test_training_rows_are_standardised_and_quantiles_normal():
    x = values(rows=5000)
    y = fit_units(x, ["quantile", "log1p", "none"], is_image=False).apply(x)
    np.testing.assert_allclose(y[:, 1].mean(), 0, atol=1e-12)
    np.testing.assert_allclose(y[:, 1].std(), 1, rtol=1e-12)
    np.testing.assert_array_equal(y[:, 2], x[:, 2])
    # The empirical quantiles of 5,000 distinct values are those of the normal distribution, up
    # to 1,000 knots: within a thousandth of probability.
    ranks = (np.argsort(np.argsort(x[:, 0])) + 0.5) / len(x)
    np.testing.assert_allclose(norm.cdf(y[:, 0]), ranks, atol=1e-3)


def test_quantiles_rise_strictly_where_values_repeat():
    x = np.repeat([0.0, 1, 2, 7], [500, 30, 5, 1])[:, None]
    units = fit_units(x, ["quantile"], is_image=False)
    y = units.apply([[0.0], [1.0], [2.0], [7.0], [9.0]])
    assert (np.diff(y[:, 0]) > 0).all()
    np.testing.assert_allclose(units.restore(y)[:, 0], [0, 1, 2, 7, 9], atol=1e-12)


def test_a_constant_column_stays_finite_whatever_is_done_to_it():
    for step in TRANSFORMS:
        units = fit_units(np.full((30, 1), 4.0), [step], is_image=False)
        y = units.apply([[4.0], [5.0]])
        assert np.isfinite(y).all()
        np.testing.assert_allclose(units.restore(y), [[4], [5]], atol=1e-12)


def test_names_of_classes_and_their_numbers():
    units = Units(classes=("1", "2", "x"))
    assert units.apply([["x"], ["1"]]).tolist() == [[2], [0]]
    assert units.apply(np.array([2.0, 1.0])).tolist() == [1, 0]
    assert units.restore([2, 0]).tolist() == ["x", "1"]
    with pytest.raises(DataError, match="unknown class in 'kind' 'y'"):
        units.apply(["y"], "'kind'")


@pytest.mark.bad_input
def test_what_no_transform_can_take_is_one_sentence():
    with pytest.raises(DataError, match="'rna' are -2 at least once: log1p needs 0 or more"):
        Units(log1p=True).apply([[1.0, -2.0]], "'rna'")
    with pytest.raises(DataError, match="units of a modality are damaged"):
        Units.from_dict({"shift": {"a": 1}})
    with pytest.raises(DataError, match="units of a modality are damaged"):
        Units.from_dict({"knots": {"0": [1]}})


def test_knots_go_on_beyond_both_ends():
    knots = Knots(np.array([0.0, 1, 3]), np.array([-1.0, 0, 1]))
    x = np.array([-3.0, 0, 0.5, 2, 6])
    np.testing.assert_allclose(knots.restore(knots.apply(x)), x, atol=1e-12)
    assert knots.apply(np.array([6.0]))[0] == pytest.approx(3.0)


@given(steps, steps, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_values_of_one_store_are_converted_to_those_of_another(ours, theirs, seed):
    a = fit_units(values(seed), ours, is_image=False)
    b = fit_units(values(seed + 10), theirs, is_image=False)
    x = np.abs(values(seed + 1))
    np.testing.assert_allclose(a.convert(a.apply(x), b), b.apply(x), rtol=1e-7, atol=1e-7)
    assert a.has_same_values(a)
    assert a.has_same_values(b) == (not np.any(a.convert(a.apply(x), b) != a.apply(x)))


def test_draws_below_what_a_logarithm_can_be_are_converted_too():
    a, b = Units(log1p=True, scale=2.0), Units(log1p=True, shift=1.0)
    assert a.convert([[-3.0]], b).tolist() == [[-7.0]]  # linear: both are logarithms
    assert Units().convert([[-3.0]], Units(log1p=True)).tolist() == [[0.0]]  # no counts below 0


def test_classes_are_renumbered_and_columns_have_to_be_the_same():
    a, b = Units(classes=("no", "yes")), Units(classes=("yes", "no"))
    assert a.convert([0, 1, 1], b).tolist() == [1, 0, 0]
    assert a.convert([0, 1], Units()).tolist() == [0, 1]  # nobody knows the names there
    assert not a.has_same_values(b)
    assert a.has_same_values(Units())
    with pytest.raises(DataError, match="'yes'"):
        a.convert([1], Units(classes=("no", "maybe")))
    with pytest.raises(DataError, match=r"\(x, y\) on one side and \(y, x\)"):
        Units(("x", "y")).convert([[1.0, 2.0]], Units(("y", "x")))
    with pytest.raises(DataError, match="low/high"):
        Units(("x",), levels={"x": ("low", "high")}).convert([[1.0]], Units(("x",)))
