"""What a store keeps: every value, every attribute, the same bytes for the same contents."""

import dataclasses
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mvflow.core import Modality, UsageError, fingerprint
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
    labels = draw(st.none() | hnp.arrays(np.int64, rows, elements=st.integers(0, 2**63 - 1)))
    return SplitData(arrays, labels=labels)


@settings(deadline=None, max_examples=50)
@given(data=unpaired_splits())
def test_what_is_written_is_read(folder, data):
    bytes_only = [x for x in data.arrays.values() if x.dtype == np.uint8]
    assume(all(x.max(initial=0) != 1 for x in bytes_only))  # 0 and 1 as bytes are refused
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


def test_the_order_in_which_facts_are_given_does_not_matter(small, tmp_path):
    facts = {
        "builder": {"name": "b", "parameters": {"a": 1, "b": 2}},
        "sources": {"a": "", "b": ""},
    }
    turned = {key: dict(reversed(value.items())) for key, value in facts.items()}
    turned["builder"]["parameters"] = {"b": 2, "a": 1}
    data = small.split_data(5)
    again = dataclasses.replace(data, factors=dict(reversed(data.factors.items())))
    a = small.save(tmp_path / "a.h5", {"train": data}, **facts)
    b = small.save(tmp_path / "b.h5", {"train": again}, **turned)
    assert a.read_bytes() == b.read_bytes()


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


def test_other_programs_read_the_same_values(store_path):
    """Through HDF5 alone, which knows nothing of the manifest."""
    with Store.open(store_path) as store, h5py.File(store_path) as file:
        for split in store.splits:
            assert set(file[split]) == {*store[split].columns(), "labels", "factors"} | (
                {"pairs"} if split == "train" else set()
            )
            np.testing.assert_array_equal(file[split]["labels"][...], store[split].labels)
            for name, column in store[split].columns().items():
                assert file[split][name].dtype == column.values.dtype
                np.testing.assert_array_equal(file[split][name][...], column.values)
            for name, factor in store[split].factors.items():
                np.testing.assert_array_equal(file[split]["factors"][name][...], factor)


def test_columns_outlive_the_store_and_cannot_be_written_to(store_path):
    with Store.open(store_path) as store:
        split, columns = store["train"], store["train"].columns()
        whole = {name: np.array(c.values) for name, c in columns.items()}
    for name, column in columns.items():
        np.testing.assert_array_equal(column.values, whole[name])
        np.testing.assert_array_equal(split.take([3])[name], whole[name][column.index[[3]]])
    with pytest.raises(TypeError):
        columns["image"].values[0] = 0


@settings(deadline=None, max_examples=50)
@given(data=st.data(), size=st.sampled_from([1, 20, 64, 10**6]))
def test_any_choice_of_rows_is_what_the_array_gives(folder, data, size):
    """In whatever order, as often as asked, from blocks that were read before and others."""
    x = np.random.default_rng(0).normal(size=(23, 2)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mvflow_datasets.manifest.BLOCK_BYTES", size)
        path = write_store(
            folder / f"{size}.h5",
            name="rows",
            modalities=[Modality("x", (2,))],
            splits={"a": SplitData({"x": x})},
        )
        with Store.open(path) as store:
            stored = store["a"].columns()["x"].values
            for rows in data.draw(st.lists(st.lists(st.integers(0, 22), max_size=40), max_size=4)):
                np.testing.assert_array_equal(stored.take(np.array(rows, int)), x[rows])
            cut = data.draw(st.slices(23))
            np.testing.assert_array_equal(stored[cut], x[cut])
            np.testing.assert_array_equal(stored[np.array([[1, 2], [0, 1]])], x[[[1, 2], [0, 1]]])
    with pytest.raises(IndexError, match=r"rows run from -1 to 23: expected 0 to 22"):
        stored.take([23, -1])


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


def test_a_split_has_a_fingerprint_of_what_it_holds(small, tmp_path):
    """The same in every store and under every name; labels are not what a model is trained on."""
    data, other = small.split_data(9, 1, paired=True), small.split_data(9, 2, paired=True)
    found = {}
    for i, splits in enumerate(({"a": data}, {"a": other, "b": data})):
        with Store.open(small.save(tmp_path / f"{i}.h5", splits)) as store:
            found |= {(i, name): fingerprint(store[name]) for name in splits}
    assert found[0, "a"] == found[1, "b"]
    assert found[1, "a"] != found[1, "b"]
    labels = dataclasses.replace(data, labels=data.labels + 1)
    pairs = dataclasses.replace(data, pairs=other.pairs)
    with Store.open(small.save(tmp_path / "c.h5", {"l": labels, "p": pairs})) as store:
        assert fingerprint(store["l"]) == found[0, "a"]
        assert fingerprint(store["p"]) != found[0, "a"]


@pytest.mark.bad_input
def test_a_closed_store_says_so(store_path):
    store = Store.open(store_path)
    split = store["train"]
    store.close()
    store.close()
    assert "small" in repr(store)
    assert "40 rows" in repr(split)
    with pytest.raises(UsageError, match="is closed: open it again"):
        store["train"]


def test_stores_work_where_the_system_has_no_locks_and_limits(tmp_path):
    """As on Windows, which has neither of the two modules."""
    code = (
        "import sys; sys.modules.update(fcntl=None, resource=None)\n"
        "from mvflow_datasets import Store, find_builder, downloading\n"
        "path = find_builder('toy').build('t.h5', rows=20, test_rows=5)\n"
        "print(Store.open(path).verify(), len(Store.open(path)['train'].take([3])['circle']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("[] 1\n", "")
