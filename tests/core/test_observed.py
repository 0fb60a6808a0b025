"""What of some rows is present."""

import numpy as np
import pytest

from mvflow.core import Observed


@pytest.fixture
def observed(xp):
    x = {"a": np.array([[1.0, np.nan], [np.inf, np.nan], [5.0, 6.0]]), "b": np.arange(3.0)}
    present = {"a": np.array([[True, False], [False, False], [True, True]])}
    return Observed(
        {n: xp.asarray(v) for n, v in x.items()}, {n: xp.asarray(v) for n, v in present.items()}
    )


def test_what_is_absent_is_zero_and_never_read(observed):
    np.testing.assert_array_equal(np.asarray(observed.filled("a")), [[1, 0], [0, 0], [5, 6]])
    assert observed.filled("b") is observed.x["b"]


def test_a_row_is_present_if_any_of_its_values_is(observed):
    np.testing.assert_array_equal(np.asarray(observed.is_present("a")), [True, False, True])
    assert observed.is_present("b") is None


def test_a_mask_of_rows_covers_all_of_their_values(xp):
    x, rows = np.full((2, 3, 1), np.nan), np.array([False, True])
    x[1] = 4.0
    observed = Observed({"a": xp.asarray(x)}, {"a": xp.asarray(rows)})
    np.testing.assert_array_equal(np.asarray(observed.filled("a"))[:, :, 0], [[0] * 3, [4] * 3])
    np.testing.assert_array_equal(np.asarray(observed.is_present("a")), rows)
