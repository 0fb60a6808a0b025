"""Rows held as stored: gathering equals indexing, and splits share nothing scarce."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvflow.core import ArraySource, DataError, Modality
from mvflow.training import Table, TensorColumn, as_input

ROWS = 60
SPECS = [
    Modality("image", (1, 2, 3), "laplace"),
    Modality("score", (4,)),
    Modality("class", (5,), "categorical"),
]


def arrays(seed=0, image=ROWS, score=ROWS, classes=ROWS):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(256, size=(image, 1, 2, 3), dtype=np.uint8),
        "score": rng.normal(size=(score, 4)).astype(np.float32),
        "class": rng.integers(5, size=classes),
    }


def source(paired, seed=0):
    if not paired:
        return ArraySource(arrays(), SPECS)
    rng = np.random.default_rng(seed)
    count = {"image": 40, "score": 25, "class": 50}
    pairs = {n: rng.integers(k, size=ROWS) for n, k in count.items()}
    made = arrays(seed, 40, 25, 50)
    return ArraySource(made, SPECS, pairs=pairs)


@pytest.mark.parametrize("paired", [False, True])
@settings(deadline=None, max_examples=25)
@given(rows=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=20))
def test_gathering_is_indexing(paired, rows):
    data = source(paired)
    found, expected = Table.of(data).gather(torch.tensor(rows)), data.take(rows)
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(found["image"], expected["image"].astype(np.float32) / 255)
    assert found["image"].dtype == torch.float32
    np.testing.assert_array_equal(found["score"], expected["score"])
    np.testing.assert_array_equal(found["class"], expected["class"])
    assert found["class"].dtype == torch.int64


def test_the_stored_type_is_kept_until_it_is_gathered():
    table = Table.of(source(paired=True))
    assert table.columns["image"].values.dtype == torch.uint8
    assert len(table.columns["image"].values) == 40
    assert len(table) == ROWS


def test_all_uint8_values_are_their_share_of_255():
    x = torch.arange(256, dtype=torch.uint8)
    np.testing.assert_array_equal(as_input(x), np.arange(256, dtype=np.float32) / 255)


@pytest.mark.parametrize("size", [1, 7, ROWS, 1000])
def test_batches_are_all_rows_in_order(size):
    data = source(paired=True)
    parts = list(Table.of(data).batches(size))
    assert max(len(p["score"]) for p in parts) <= size
    np.testing.assert_array_equal(
        torch.cat([p["score"] for p in parts]), data.take(range(ROWS))["score"]
    )


@settings(deadline=None, max_examples=25)
@given(rows=st.lists(st.integers(0, ROWS - 1), min_size=2, max_size=30), data=st.data())
def test_a_view_of_a_view_is_indexing_twice(rows, data):
    table = Table.of(source(paired=True))
    inner = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=10))
    found = table.subset(np.array(rows)).subset(np.array(inner)).gather(torch.arange(len(inner)))
    expected = table.gather(torch.tensor([rows[i] for i in inner]))
    assert all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize("paired", [False, True])
def test_joined_columns_belong_to_the_rows_of_a_view(paired):
    table = Table.of(source(paired))
    rows = np.array([5, 3, 40, 3])
    value = torch.arange(4.0)
    joined = table.subset(rows).joined({"extra": TensorColumn(value, None)})
    assert len(joined) == 4
    found = joined.gather(torch.tensor([3, 0]))
    expected = table.gather(torch.tensor([3, 5]))
    assert all(torch.equal(found[n], expected[n]) for n in expected)
    assert torch.equal(found["extra"], torch.tensor([3.0, 0.0]))


@pytest.mark.parametrize("budget", [None, 0])
def test_hashes_tell_values_from_which_rows(budget):
    table = Table.of(source(paired=True), budget=budget)
    other = Table.of(source(paired=True, seed=1), budget=budget)
    view, same = table.subset(np.array([5, 3])), table.subset(np.array([5, 3, 7])[:2])
    assert view.selection() == same.selection() != table.subset(np.array([3, 5])).selection()
    assert table.selection() is None
    assert table.fingerprint() == Table.of(source(paired=True)).fingerprint()
    assert table.fingerprint() == view.fingerprint() != other.fingerprint()


def test_it_names_all_that_it_holds():
    def held(table):
        return sum(t.nbytes for t in table.tensors())

    table, streamed = (Table.of(source(paired=True), budget=b) for b in (None, 0))
    stored = 40 * 6 + 25 * 4 * 4 + 50 * 8
    assert held(table) == stored + 3 * 8 * ROWS
    assert held(streamed) == 3 * 8 * ROWS
    assert held(table.subset(np.arange(7))) == held(table) + 8 * 7


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    rows=st.integers(200, 400),
    few=st.integers(50, 80),
    share=st.floats(0.05, 0.5),
)
def test_a_split_never_shares_the_values_of_the_scarcest_modality(seed, rows, few, share):
    rng = np.random.default_rng(seed)
    pairs = {"a": rng.integers(few, size=rows), "b": rng.integers(3 * few, size=rows)}
    pairs["b"][0] = 3 * few - 1  # so that a is the scarcer one
    values = {"a": np.arange(few, dtype=float)[:, None], "b": np.zeros((3 * few, 1))}
    table = Table.of(ArraySource(values, pairs=pairs))
    train, held = table.split(share, np.random.default_rng(seed))
    left, right = (t.gather(torch.arange(len(t)))["a"] for t in (train, held))
    assert not set(left.flatten().tolist()) & set(right.flatten().tolist())
    assert len(train) + len(held) == rows
    distinct = len(np.unique(pairs["a"]))
    assert len(set(right.flatten().tolist())) == max(1, round(share * distinct))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**20), share=st.floats(0.02, 0.9))
def test_unpaired_rows_are_divided_without_loss(seed, share):
    values = {"a": np.arange(100, dtype=float)[:, None]}
    train, held = Table.of(ArraySource(values)).split(share, np.random.default_rng(seed))
    parts = [t.gather(torch.arange(len(t)))["a"].flatten().tolist() for t in (train, held)]
    assert sorted(parts[0] + parts[1]) == list(range(100))
    assert len(parts[1]) == round(share * 100)
    for part in parts:
        assert part == sorted(part)


def test_a_split_of_a_view_divides_the_rows_of_that_view():
    table = Table.of(ArraySource({"a": np.arange(100, dtype=float)[:, None]}))
    view = table.subset(np.arange(40, 80))
    parts = view.split(0.25, np.random.default_rng(0))
    found = [t.gather(torch.arange(len(t)))["a"].flatten().tolist() for t in parts]
    assert sorted(found[0] + found[1]) == list(range(40, 80))
    assert len(found[1]) == 10


def test_with_few_distinct_values_rows_are_divided():
    pairs = {"a": np.arange(100) % 4}
    table = Table.of(ArraySource({"a": np.arange(4.0)[:, None]}, pairs=pairs))
    train, held = table.split(0.1, np.random.default_rng(0))
    assert (len(train), len(held)) == (90, 10)


def test_no_share_holds_nothing_out():
    table = Table.of(source(paired=False))
    assert table.split(0, np.random.default_rng(0)) == (table, None)


@pytest.mark.bad_input
def test_too_few_rows_to_hold_out_are_refused():
    table = Table.of(ArraySource({"a": np.zeros((1, 1))}))
    with pytest.raises(DataError, match="cannot hold out 5% of 1 rows for validation"):
        table.split(0.05, np.random.default_rng(0))


PRESENT = {
    "image": np.arange(ROWS) % 3 > 0,
    "score": np.arange(4 * ROWS).reshape(ROWS, 4) % 5 > 0,
    "class": np.arange(ROWS) % 2 > 0,
}


@pytest.mark.parametrize("budget", [None, 0])
@settings(deadline=None, max_examples=25)
@given(rows=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=20))
def test_rows_that_lack_modalities_are_gathered_as_they_are_taken(budget, rows):
    x = arrays() | {"score": np.where(PRESENT["score"], arrays()["score"], np.nan)}
    data = ArraySource(x, SPECS, present=PRESENT)
    table, expected = Table.of(data, budget=budget), data.take(rows)
    at = np.array(rows)
    reordered = table.subset(at[::-1].copy()).subset(np.arange(len(at))[::-1].copy())
    for view in (table.subset(at), reordered):
        batch = next(view.batches(len(at)))
        assert batch.keys() == expected.keys()
        np.testing.assert_array_equal(batch["image"], expected["image"].astype(np.float32) / 255)
        for name in expected.keys() - {"image"}:
            np.testing.assert_array_equal(batch[name], expected[name])


def test_a_modality_that_no_row_has_is_zeros():
    data = ArraySource(arrays(), SPECS, present={"image": np.zeros(ROWS, bool)})
    for budget in (None, 0):
        batch = next(Table.of(data, budget=budget).batches(3))
        assert not batch["image"].any()
        assert not batch["present/image"].any()


def test_one_column_comes_with_what_of_it_is_present():
    table = Table.of(ArraySource(arrays(), SPECS, present=PRESENT))
    assert {*table.only("score").columns} == {"score", "present/score"}


def test_rows_that_lack_the_scarcest_modality_are_divided_like_others():
    data = ArraySource(arrays(), SPECS, present={"class": np.arange(ROWS) < 24})
    train, held = Table.of(data).split(0.25, np.random.default_rng(0))
    assert len(held) == 15
    lacking = [
        int((~t.gather(torch.arange(len(t)))["present/class"]).sum()) for t in (train, held)
    ]
    assert min(lacking) > 0
