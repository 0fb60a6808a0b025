"""Covariates: encodings, and what is said of values that do not fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvflow.core import (
    ArraySource,
    Covariate,
    DataError,
    UsageError,
    as_source,
    check_source,
    fingerprint,
)


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=30))
def test_indicators_name_the_level_of_each_row(values):
    covariate = Covariate.of("batch", values)
    encoded = covariate.encode(values)
    assert (encoded.sum(1) == 1).all()
    assert [covariate.levels[i] for i in encoded.argmax(1)] == [str(np.str_(v)) for v in values]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_numbers_are_standardised(values):
    covariate = Covariate.of("age", values)
    assert covariate.levels is None
    back = covariate.encode(values)[:, 0] * np.float64(covariate.scale) + covariate.mean
    # float32 standard scores: as many digits of the largest one
    tolerance = 1e-6 * (abs(covariate.mean) + np.ptp(values) + 1)
    np.testing.assert_allclose(back, values, atol=tolerance)


def test_one_value_stands_for_all_rows():
    batch = Covariate("batch", ("A", "B"))
    np.testing.assert_array_equal(batch.encode("B", 3), batch.encode(["B"] * 3))
    np.testing.assert_array_equal(Covariate("dose").encode(2.0, 2), [[2.0], [2.0]])


def test_whole_numbers_and_truth_values_are_levels():
    assert Covariate.of("batch", np.array([10, 2, 10])).levels == ("2", "10")
    assert Covariate.of("treated", [True, False]).levels == ("False", "True")
    assert Covariate("batch", ("2", "10")).encode([10]).tolist() == [[0.0, 1.0]]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: Covariate("batch", ("A", "B")).encode(["C"]), DataError, "'C'"),
        (lambda: Covariate("batch", ("A",)).encode(["A"], 2), DataError, "1 values for 2 rows"),
        (lambda: Covariate("age").encode([1.0, np.nan]), DataError, "row 1"),
        (lambda: Covariate("age").encode(["old"]), DataError, "number"),
        (lambda: Covariate("age").encode([[1.0]]), UsageError, "one value for each row"),
        (lambda: Covariate.of("b", np.array(["a", None], object)), DataError, "row 1"),
        (lambda: Covariate.of("id", np.arange(2000)), DataError, "floats"),
        (lambda: Covariate("a/b"), DataError, "not usable"),
        (lambda: Covariate("b", ("A", "A")), DataError, "different"),
        (lambda: Covariate("b", scale=0.0), DataError, "positive"),
    ],
)
def test_values_that_do_not_fit_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_a_source_has_its_covariates_as_columns():
    x, batch = {"a": np.arange(6.0).reshape(3, 2)}, ["B", "A", "B"]
    rows = ArraySource(x, covariates={"batch": batch})
    assert rows.covariates == {"batch": Covariate("batch", ("A", "B"))}
    np.testing.assert_array_equal(rows.take([1, 0])["covariates/batch"], [[1, 0], [0, 1]])
    assert fingerprint(rows) != fingerprint(ArraySource(x))
    other = ArraySource(x, covariates={"batch": ["A", "A", "B"]})
    assert fingerprint(rows) != fingerprint(other)
    wider = rows.with_covariates([Covariate("batch", ("A", "B", "C"))])
    np.testing.assert_array_equal(wider.take([0])["covariates/batch"], [[0, 1, 0]])
    assert rows.take([0])["covariates/batch"].shape == (1, 2)


@pytest.mark.bad_input
def test_covariates_of_rows_and_model_are_compared():
    x = {"a": np.zeros((2, 1))}
    wanted = [Covariate("batch", ("A", "B"))]
    with pytest.raises(DataError, match="'batch', but the data do not"):
        check_source(ArraySource(x), ArraySource(x).modalities, wanted)
    rows = ArraySource(x, covariates={"batch": ["A", "C"]})
    with pytest.raises(DataError, match="one of A, C, but of the model one of A, B"):
        check_source(rows, rows.modalities, wanted)
    with pytest.raises(UsageError, match="of its own"):
        as_source(rows, covariates={"batch": ["A", "B"]})
