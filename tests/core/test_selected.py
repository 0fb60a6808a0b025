"""Some rows of a source are a source."""

import numpy as np

from mvflow.core import ArraySource, Source, complete_rows
from mvflow.core.selected import SelectedRows
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
