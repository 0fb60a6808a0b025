"""Rows of sources are a source: views of some, and copies of some of several."""

import numpy as np

from mvflow.core import ArraySource, SelectedRows, Source, TakenRows, complete_rows, row_presence
from mvflow.training import Table

ROWS = 20
EVERY = np.arange(ROWS)


def source(present=None, labels=None):
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(ROWS, 2)), "b": rng.normal(size=(7, 3))}
    pairs = {"a": EVERY, "b": EVERY % 7}
    return ArraySource(
        x, labels=labels, factors={"f": EVERY}, pairs=pairs, present=present, class_names={0: "x"}
    )


def test_selected_rows_are_those_rows_in_memory_and_in_tables():
    whole = source({"b": EVERY % 3 > 0}, EVERY % 4)
    chosen = np.array([5, 3, 3, 18])
    some = SelectedRows(whole, chosen)
    assert isinstance(some, Source)
    expected = whole.take(chosen)
    batch = next(Table.of(some).batches(4))
    for name, values in expected.items():
        np.testing.assert_array_equal(some.take(range(4))[name], values)
        np.testing.assert_array_equal(batch[name], values)
    np.testing.assert_array_equal(some.labels, whole.labels[chosen])
    np.testing.assert_array_equal(some.factors["f"], chosen)
    assert some.class_names == {0: "x"}


def test_complete_rows_have_everything_and_a_known_class_if_some_do():
    whole = source({"b": EVERY % 3 > 0}, np.where(EVERY % 2, EVERY % 4, -1))
    assert complete_rows(whole).factors["f"].tolist() == [
        i for i in range(ROWS) if i % 3 and i % 2
    ]
    unknown = source({"b": EVERY % 3 > 0}, np.full(ROWS, -1))
    assert len(complete_rows(unknown)) == (EVERY % 3 > 0).sum()
    for same in (source(), source({"a": EVERY < 9, "b": EVERY >= 9})):
        assert complete_rows(same) is same


def test_taken_rows_keep_what_is_absent_and_covariates():
    masks = {"a": np.array([True, False, True, True])}
    some = ArraySource(
        {"a": np.arange(8.0).reshape(4, 2), "b": np.ones((4, 1))},
        covariates={"batch": [*"ABAB"]},
        present=masks,
        labels=[0, 1, 2, 3],
    )
    whole = ArraySource(
        {"a": np.ones((2, 2)), "b": np.ones((2, 1))}, covariates={"batch": [*"AB"]}, labels=[4, 5]
    )
    taken = TakenRows([SelectedRows(some, [3, 1]), SelectedRows(whole, [0])])
    x = taken.take([0, 1, 2])
    np.testing.assert_array_equal(x["a"], [[6, 7], [0, 0], [1, 1]])
    np.testing.assert_array_equal(x["present/a"], [True, False, True])
    np.testing.assert_array_equal(x["covariates/batch"], [[0, 1], [0, 1], [1, 0]])
    np.testing.assert_array_equal(taken.labels, [3, 1, 4])
    np.testing.assert_array_equal(taken.columns()["a"].index, [0, -1, 2])


def test_taken_rows_lack_a_modality_of_which_no_entry_is_present():
    """As the source says; masks of rows beside masks of entries become masks of entries."""
    entries = np.array([[True, False], [False, False], [True, True]])
    x = {"a": np.ones((3, 2)), "b": np.ones((3, 1))}
    of_entries = ArraySource(x, present={"a": entries})
    of_rows = ArraySource(x, present={"a": np.array([True, False, True])})
    for sources in ([of_entries, of_rows, ArraySource(x)], [of_rows, of_entries]):
        taken = TakenRows(sources)
        has = np.concatenate([row_presence(source)["a"] for source in sources])
        np.testing.assert_array_equal(row_presence(taken)["a"], has)
        masks = [s.take(range(3)).get("present/a", np.ones(3, bool)) for s in sources]
        whole = [np.broadcast_to(m.reshape(3, -1), (3, 2)) for m in masks]
        np.testing.assert_array_equal(
            taken.take(range(len(taken)))["present/a"], np.concatenate(whole)
        )
