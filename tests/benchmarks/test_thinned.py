"""Stores made incomplete: whose rows, what is left, and what the model may still read."""

import sys

import numpy as np
import pytest

from benchmarks.thinned import main, thinned
from mvflow_datasets import Store, find_builder


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_no_row_of_a_chosen_item_is_complete_and_all_others_are(share):
    rng = np.random.default_rng(0)
    pairs = np.stack([rng.permutation(400), np.repeat(np.arange(100), 4)], 1)
    thin = thinned(pairs, 1, share, rng)
    complete = (thin >= 0).all(1)
    items = {*pairs[~complete, 1]}
    assert len(items) == share * 100
    assert not items & {*pairs[complete, 1]}
    np.testing.assert_array_equal(thin[thin >= 0], pairs[thin >= 0])
    assert ((thin >= 0).sum(1)[~complete] == 1).all()


def test_the_stores_have_all_rows_and_the_complete_ones(tmp_path, monkeypatch):
    store = find_builder("toy").build(tmp_path / "toy.h5", rows=200, test_rows=20)
    words = [str(store), "--out", str(tmp_path), "--by", "square"]
    monkeypatch.setattr(sys, "argv", ["thinned", *words])
    main()
    with (
        Store.open(store) as all_,
        Store.open(tmp_path / "incomplete.h5") as incomplete,
        Store.open(tmp_path / "dropped.h5") as dropped,
    ):
        index = [incomplete["train"].columns()[n].index for n in ("circle", "square")]
        complete = (np.stack(index) >= 0).all(0)
        assert len(incomplete["train"]) == len(all_["train"]) == 200
        assert len(dropped["train"]) == complete.sum() < 200
        for name in ("circle", "square"):
            x = all_["train"].take(np.flatnonzero(complete))[name]
            np.testing.assert_array_equal(dropped["train"].take(range(complete.sum()))[name], x)
            rest = all_["test"].take(range(20))[name]
            np.testing.assert_array_equal(incomplete["test"].take(range(20))[name], rest)
