"""One suite for the contract of a `Source`: rows, labels, factors and columns that agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvflow.core import ArraySource, DataError, Source, UsageError
from mvflow_datasets import Store

ROWS = 23


def in_memory(small, folder, data):
    return ArraySource(
        data.arrays, small.modalities, labels=data.labels, factors=data.factors, pairs=data.pairs
    )


def in_store(small, folder, data):
    path = small.save(folder / f"{data.pairs is not None}.h5", {"train": data})
    return Store.open(path)["train"]


KINDS = {
    "memory": (in_memory, False),
    "memory-paired": (in_memory, True),
    "store": (in_store, False),
    "store-paired": (in_store, True),
}


@pytest.fixture(scope="module", params=KINDS)
def both(request, small, folder):
    """A source, and the data that it was made of."""
    make, paired = KINDS[request.param]
    data = small.split_data(ROWS, seed=5, paired=paired)
    return make(small, folder, data), data


def expected(data, name, rows):
    """The definition of a row, spelled out."""
    return np.stack(
        [np.asarray(data.arrays[name])[data.pairs[name][i] if data.pairs else i] for i in rows]
    )


def test_it_is_a_source_of_the_given_rows(both, small):
    source, data = both
    assert isinstance(source, Source)
    assert len(source) == ROWS
    assert source.modalities == small.modalities
    np.testing.assert_array_equal(source.labels, data.labels)
    assert set(source.factors) == set(data.factors)
    for name, values in data.factors.items():
        np.testing.assert_array_equal(source.factors[name], values)


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=40))
def test_take_gives_the_rows_asked_for_in_their_order_with_repeats(both, rows):
    source, data = both
    taken = source.take(rows)
    assert list(taken) == [m.name for m in source.modalities]
    for name, values in taken.items():
        np.testing.assert_array_equal(values, expected(data, name, rows))


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(st.integers(0, ROWS - 1), max_size=40))
def test_columns_indexed_by_hand_equal_take(both, rows):
    source, _ = both
    at = np.array(rows, np.int64)
    columns, taken = source.columns(), source.take(at)
    assert list(columns) == list(taken)
    for name, column in columns.items():
        by_hand = column.values[at if column.index is None else column.index[at]]
        assert by_hand.dtype == taken[name].dtype
        np.testing.assert_array_equal(by_hand, taken[name])


def test_columns_cover_every_row(both):
    source, data = both
    for column in source.columns().values():
        assert (column.index is None) == (data.pairs is None)
        assert len(column.values if column.index is None else column.index) == ROWS


def test_no_rows_give_empty_arrays_of_the_right_shape(both):
    source, _ = both
    taken = source.take([])
    assert taken["image"].shape == (0, 1, 2, 3)
    assert taken["class"].shape == (0,)


def test_what_was_taken_is_a_copy(both):
    source, _ = both
    taken = source.take([3])
    taken["image"][...] += 1
    assert not np.array_equal(taken["image"], source.take([3])["image"])


@pytest.mark.parametrize("row", [ROWS, 10**9])
def test_a_row_past_the_end_is_refused(both, row):
    source, _ = both
    with pytest.raises((DataError, IndexError)):
        source.take([0, row])


@pytest.mark.bad_input
@pytest.mark.parametrize("row", [-1, ROWS])
@pytest.mark.parametrize("paired", [False, True])
def test_a_store_names_the_row_and_its_range(small, tmp_path, row, paired):
    source = in_store(small, tmp_path, small.split_data(ROWS, paired=paired))
    with pytest.raises(
        DataError, match=f"^row {row} is out of range: split 'train' has .* 0 to 22"
    ):
        source.take([0, row])


@pytest.mark.bad_input
@pytest.mark.parametrize("rows", [[0.5], [True, False], [[0]], 3])
def test_a_store_refuses_rows_that_are_not_whole_numbers(small, tmp_path, rows):
    source = in_store(small, tmp_path, small.split_data(ROWS))
    with pytest.raises(UsageError, match="^rows must be a list of whole numbers: got"):
        source.take(rows)
