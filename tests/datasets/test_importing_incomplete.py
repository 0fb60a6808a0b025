"""Importing incomplete data: outer joins, what missing values mean, and what is refused."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from mvflow.core import MvflowError
from mvflow_datasets.importing.pairing import joined

keys_of_a_set = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5).map(np.array)


@given(st.lists(keys_of_a_set, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_the_outer_join_is_that_of_pandas_and_holds_the_inner_one(sets):
    keys = {str(i): k for i, k in enumerate(sets)}
    merged = pd.DataFrame({"key": sets[0], "0": np.arange(len(sets[0]))})
    for name, k in list(keys.items())[1:]:
        merged = merged.merge(pd.DataFrame({"key": k, name: np.arange(len(k))}), "outer", "key")
    expected = merged.fillna(-1).set_index("key").astype(int)
    found, positions = joined(keys, outer=keys)
    rows = list(zip(found.tolist(), *(positions[n].tolist() for n in keys), strict=True))
    assert sorted(rows) == sorted(expected[list(keys)].itertuples(name=None))
    assert found.tolist() == sorted(found.tolist())
    complete = {row for row in rows if min(row[1:]) >= 0}
    try:
        inner_keys, inner = joined(keys)
    except MvflowError:
        assert not complete
        return
    assert complete == {*zip(inner_keys.tolist(), *(inner[n].tolist() for n in keys), strict=True)}
