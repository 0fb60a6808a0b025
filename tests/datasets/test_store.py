"""What a store keeps: every value, every attribute, the same bytes for the same contents."""

import dataclasses
import json

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mvflow.core import Modality, UsageError
from mvflow_datasets import SplitData, Store, write_store

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def unpaired_splits(draw):
    """Modalities of any shape, with their rows; odd sizes put the next array at odd places."""
    rows = draw(st.integers(0, 6))
    shapes = draw(st.lists(hnp.array_shapes(max_dims=3, max_side=4), min_size=1, max_size=3))
    kinds = [(np.uint8, None), (np.float32, FLOATS)]
    arrays = {}
    for i, shape in enumerate(shapes):
        dtype, elements = draw(st.sampled_from(kinds))
        arrays[f"m{i}"] = draw(hnp.arrays(dtype, (rows, *shape), elements=elements))
    labels = draw(st.none() | hnp.arrays(np.int64, rows))
    return SplitData(arrays, labels=labels)


@settings(deadline=None, max_examples=50)
@given(data=unpaired_splits())
def test_what_is_written_is_read(folder, data):
    specs = [Modality(name, x.shape[1:]) for name, x in data.arrays.items()]
    path = write_store(folder / "trip.h5", name="trip", modalities=specs, splits={"only": data})
    with Store.open(path) as store:
        split = store["only"]
        assert store.modalities == tuple(specs)
        assert (split.labels is None) == (data.labels is None)
        np.testing.assert_array_equal(split.labels, data.labels)
        for name, column in split.columns().items():
            assert column.index is None
            assert column.values.dtype == data.arrays[name].dtype
            assert column.values.flags.aligned
            np.testing.assert_array_equal(column.values, data.arrays[name])


def test_attributes_are_kept(small, tmp_path):
    given = {
        "builder": {"name": "b", "parameters": {"rows": 3}, "seed": 1, "mvflow": "0"},
        "sources": {"ü.wav": "ab" * 32},
        "note": "a subset",
    }
    splits = {name: small.split_data(4, i) for i, name in enumerate(("train", "test", "a"))}
    path = small.save(tmp_path / "new" / "folder" / "s.h5", splits, **given)
    with Store.open(str(path)) as store:
        assert store.name == "small"
        assert store.path == path
        assert store.modalities == small.modalities
        assert store.splits == ("train", "test", "a")
        assert {key: getattr(store, key) for key in given} == given


def test_thousands_of_sources_fit(small, tmp_path):
    sources = {f"{i}_speaker_{i}.wav": f"{i:064x}" for i in range(3000)}
    path = small.save(tmp_path / "s.h5", {"train": small.split_data(2)}, sources=sources)
    with Store.open(path) as store:
        assert store.sources == sources


def test_the_same_contents_give_the_same_bytes_and_others_do_not(small, tmp_path):
    def written(name, seed):
        data = small.split_data(9, seed, paired=True)
        return small.save(tmp_path / name, {"train": data}).read_bytes()

    assert written("a.h5", 1) == written("b.h5", 1)
    assert written("a.h5", 1) != written("b.h5", 2)


def test_the_fingerprint_tells_contents_apart_and_nothing_else(small, tmp_path):
    def fingerprint(data, **changes):
        with Store.open(small.save(tmp_path / "s.h5", {"train": data}, **changes)) as store:
            return store.fingerprint

    data = small.split_data(9, paired=True)
    base = fingerprint(data)
    assert fingerprint(data, class_names={0: "dog"}, factor_names={"f": "F (cm)"}) == base
    assert fingerprint(data, name="other", builder={"seed": 3}, sources={"a": "b"}) == base
    scale = dataclasses.replace(small.modalities[0], likelihood="laplace")
    assert fingerprint(data, modalities=(scale, *small.modalities[1:])) != base
    pixel = {k: v.copy() for k, v in data.arrays.items()}
    pixel["image"][2, 0, 1, 1] ^= 1
    changed = [
        {"arrays": pixel},
        {"labels": data.labels + 1},
        {"pairs": data.pairs | {"score": np.roll(data.pairs["score"], 1)}},
        {"factors": {}},
    ]
    others = [fingerprint(dataclasses.replace(data, **change)) for change in changed]
    assert len({base, *others}) == 5


def test_arrays_are_mapped_read_only_and_outlive_the_store(store_path):
    with Store.open(store_path) as store:
        columns = store["train"].columns()
    assert all(isinstance(column.values, np.memmap) for column in columns.values())
    with h5py.File(store_path) as file:
        for name, column in columns.items():
            np.testing.assert_array_equal(column.values, file["train"][name][...])
    with pytest.raises(ValueError, match="read-only"):
        columns["image"].values[0] = 0


def rewrite_compressed(path):
    """Give the images of the training split a compressed, chunked layout."""
    with h5py.File(path, "r+") as file:
        values = file["train/image"][...]
        del file["train/image"]
        file.create_dataset("train/image", data=values, chunks=(2, 1, 2, 3), compression="gzip")


@settings(deadline=None, max_examples=20)
@given(rows=st.lists(st.integers(0, 39), max_size=30))
def test_a_compressed_store_reads_like_a_mapped_one(folder, small, rows):
    paths = [folder / "mapped.h5", folder / "compressed.h5"]
    for path in paths:
        if not path.exists():
            small.save(path, {"train": small.split_data(40, 1, paired=True)})
            if path.stem == "compressed":
                rewrite_compressed(path)
    with Store.open(paths[0]) as mapped, Store.open(paths[1]) as compressed:
        a, b = mapped["train"], compressed["train"]
        assert not isinstance(b.columns()["image"].values, np.memmap)
        np.testing.assert_array_equal(a.columns()["image"].values, b.columns()["image"].values)
        np.testing.assert_array_equal(a.take(rows)["image"], b.take(rows)["image"])


@pytest.mark.bad_input
def test_a_compressed_store_that_was_closed_says_so(store_path):
    rewrite_compressed(store_path)
    with Store.open(store_path) as store:
        split = store["train"]
    with pytest.raises(UsageError, match="^the store is closed: open it again"):
        split.take([0])


def test_pairs_copy_no_values(small, tmp_path):
    sizes = {}
    for rows in (10, 10010):
        data = small.split_data(rows, paired=True)
        data = dataclasses.replace(data, factors={}, labels=None)
        sizes[rows] = small.save(tmp_path / f"{rows}.h5", {"train": data}).stat().st_size
    per_row = (sizes[10010] - sizes[10]) / 10000
    assert per_row == pytest.approx(3 * 4, abs=0.5)  # three int32 a row, up to alignment


def test_info_is_plain_and_counts_what_is_there(store_path):
    with Store.open(store_path) as store:
        info = store.info()
        labels = store["train"].labels
    assert json.loads(json.dumps(info)) == info
    assert info["bytes"] == store_path.stat().st_size
    assert info["splits"]["train"]["rows"] == 40
    assert info["splits"]["train"]["labels"] == {
        str(c): int((labels == c).sum()) for c in np.unique(labels)
    }
    assert info["splits"]["train"]["factors"] == ["width", "writer"]
    assert info["splits"]["train"]["arrays"]["score"] == {"dtype": "float32", "distinct": 3}
    assert info["splits"]["test"]["arrays"]["score"]["distinct"] == 12
    assert info["modalities"][0]["shape"] == [1, 2, 3]


@pytest.mark.bad_input
def test_an_unknown_split_names_the_nearest(store_path):
    with Store.open(store_path) as store, pytest.raises(UsageError) as caught:
        store["tets"]
    assert str(caught.value) == "unknown split 'tets': did you mean 'test'? Known: test, train"


def test_closing_twice_does_no_harm(store_path):
    store = Store.open(store_path)
    store.close()
    store.close()
    assert "small" in repr(store)
    assert "40 rows" in repr(store["train"])
