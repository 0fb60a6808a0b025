"""Data of one's own: how rows are paired and split."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvflow.core import MvflowError
from mvflow_datasets import Store
from mvflow_datasets.importing import Wanted, import_data, split_shares
from mvflow_datasets.importing.pairing import divided, joined

keys_of_a_set = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=7).map(np.array)


@given(st.lists(keys_of_a_set, min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_the_join_is_all_combinations_that_share_a_key(sets):
    keys = {str(i): k for i, k in enumerate(sets)}
    expected = {()}
    for k in sets:
        expected = {
            (*c, i) for c in expected for i in range(len(k)) if not c or sets[0][c[0]] == k[i]
        }
    if not expected:
        with pytest.raises(MvflowError, match="no key occurs in all"):
            joined(keys)
        return
    found, positions = joined(keys)
    combinations = list(zip(*(positions[n].tolist() for n in keys), strict=True))
    assert len(combinations) == len(set(combinations))
    assert set(combinations) == expected
    assert all((k[positions[n]] == found).all() for n, k in keys.items())


@given(
    st.lists(st.integers(0, 30), min_size=40, max_size=200),
    st.sampled_from([(0.8, 0.2), (0.6, 0.2, 0.2)]),
    st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_splits_are_a_partition_that_keeps_groups_together(groups, shares, seed):
    groups = np.array(groups)
    try:
        parts = divided(groups, shares, seed)
    except MvflowError:
        assert len(np.unique(groups)) < 12  # few and large groups may leave a part empty
        return
    rows = np.concatenate(list(parts.values()))
    assert sorted(rows.tolist()) == list(range(len(groups)))
    seen = [set(groups[at].tolist()) for at in parts.values()]
    assert sum(map(len, seen)) == len(set.union(*seen))
    largest = np.bincount(groups).max()
    for share, at in zip(shares, parts.values(), strict=True):
        assert abs(len(at) - share * len(groups)) <= largest + 1
    again = divided(groups, shares, seed)
    assert all((parts[n] == again[n]).all() for n in parts)


def test_repeated_keys_copy_nothing_and_stay_on_one_side(here):
    people = [f"p{i}" for i in range(20)]
    visits = [p for p in people for _ in range(3)]
    scans = np.random.default_rng(0).normal(size=(60, 4)) * 9
    genes = np.arange(20.0)[:, None] * [1.0, 2.0]
    np.save("scan.npy", scans)
    np.save("visit.npy", np.array(visits))
    pd.DataFrame(genes, people, ["u", "v"]).rename_axis("who").to_csv("gene.csv")
    np.save("y.npy", np.arange(20) % 2)
    np.save("who.npy", np.array(people))
    wanted = Wanted(
        modalities={"scan": "scan.npy", "gene": "gene.csv"},
        labels="y.npy",
        keys={"scan": "visit.npy", "gene": ":who", "labels": "who.npy"},
        transforms={"gene": "none"},
    )
    done = import_data("out.h5", wanted)
    assert "60 rows of 20 keys, which repeat" in done.understood[2]
    seen = []
    with Store.open("out.h5") as store:
        for part in store.splits:
            genes_at = store[part].take(np.arange(len(store[part])))["gene"][:, 0]
            np.testing.assert_array_equal(store[part].labels, genes_at % 2)
            distinct = store.info()["splits"][part]["arrays"]["gene"]["distinct"]
            assert distinct == len(set(genes_at.tolist())) == len(genes_at) / 3
            seen.append(set(genes_at.tolist()))
    assert sum(map(len, seen)) == len(set.union(*seen)) == 20


def test_groups_stay_on_one_side(here):
    np.save("x.npy", np.repeat(np.arange(12.0), 5)[:, None] * [1.0, 1.0] + [0, 100])
    np.save("g.npy", np.repeat(np.arange(12), 5))
    said = {"groups": "g.npy", "transforms": {"x": "none"}, "split": (0.5, 0.5)}
    import_data("out.h5", Wanted(modalities={"x": "x.npy"}, **said))
    with Store.open("out.h5") as store:
        parts = [store[part].take(np.arange(len(store[part])))["x"] for part in store.splits]
    sides = [set(part[:, 0].tolist()) for part in parts]
    assert len(sides[0]) == len(sides[1]) == 6
    assert not sides[0] & sides[1]


@pytest.mark.bad_input
@pytest.mark.parametrize("text", ["", "1", "0.8", "0.8,0.1", "0.8,0.3", "1,0", "a,b", "nan,1"])
def test_splits_that_make_no_sense(text):
    with pytest.raises(MvflowError, match="sum to 1"):
        split_shares(text)
