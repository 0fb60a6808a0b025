"""Stores written anew: the same where nothing changes, and with generated values of the absent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from mvflow.core import Covariate, DataError, Modality, Units, UsageError
from mvflow_datasets import Blocks, SplitData, Store, write_store
from mvflow_datasets.converted import ConvertedRows
from mvflow_datasets.rewriting import only_rows, rewrite_store, with_generated

ROWS = 12
GROUPS = [
    {"likelihood": "normal"},
    {"likelihood": "categorical", "classes": 3},
    {"likelihood": "poisson"},
]
SPECS = (
    Modality("image", (1, 2, 2), "laplace"),
    Modality("class", (4,), "categorical"),
    Modality("table", (3,)),
    Modality("counts", (40,)),
    Modality("soft", (1, 2, 2), "bernoulli"),
    Modality("kinds", (3,), {"kind": "mixed", "groups": GROUPS}),
)
COVARIATES = (Covariate("age", None, 40.0, 12.0), Covariate("batch", ("A", "B")))


def split(seed, rows=ROWS):
    """A split of every kind of array, of which some rows lack images and some entries lack."""
    rng = np.random.default_rng(seed)
    has = rng.random(rows) < 0.6
    has[0] = True
    entries = rng.random((rows, 3)) < 0.8
    entries[:, 0] = True
    return SplitData(
        {
            "image": rng.integers(256, size=(rows, 1, 2, 2), dtype=np.uint8),
            "class": rng.integers(4, size=rows),
            "table": rng.normal(size=(rows, 3)).astype(np.float32),
            "counts": sparse.random(rows, 40, 0.1, "csr", random_state=seed),
            "soft": rng.random((rows, 1, 2, 2)).astype(np.float32),
            "kinds": np.c_[rng.normal(size=rows), rng.integers(3, size=(2, rows)).T],
        },
        labels=rng.integers(-1, 3, rows),
        factors={"size": rng.normal(size=rows)},
        covariates={"age": rng.normal(40, 12, rows), "batch": rng.choice(["A", "B"], rows)},
        present={"image": has, "table": entries},
    )


def written(path, train, **more):
    return Store.open(
        write_store(
            path,
            name="s",
            modalities=SPECS,
            splits={"train": train, "test": split(99)},
            covariates=COVARIATES,
            class_names={0: "none", 1: "one"},
            factor_names={"size": "size, mm"},
            units={
                "table": Units(("a", "b", "c"), scale=2.0),
                "class": Units(classes=("p", "q", "r", "s")),
                "kinds": Units(("x", "y", "z"), levels={"y": ("lo", "mid", "hi")}),
                "counts": Units(image_shape=(8, 5)),
            },
            about={"rows/train": np.array([f"r{i}" for i in range(ROWS)])},
            **more,
        )
    )


@given(seed=st.integers(0, 60))
@settings(max_examples=15, deadline=None)
def test_a_store_written_anew_is_the_same(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("s")
    with written(folder / "a.h5", split(seed), note="of old", sources={"x": "0" * 64}) as old:
        with Store.open(rewrite_store(folder / "b.h5", old, {})) as new:
            assert (folder / "a.h5").read_bytes() == (folder / "b.h5").read_bytes()
            assert new.units["table"].names == ("a", "b", "c")
        with Store.open(rewrite_store(folder / "c.h5", old, {}, note="and new")) as new:
            assert new.note == "of old; and new"
            assert new.fingerprint == old.fingerprint
            assert new["train"].row_names == old["train"].row_names


@given(seed=st.integers(0, 60), chosen=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=20))
@settings(max_examples=20, deadline=None)
def test_chosen_rows_are_those_of_the_store_and_nothing_else_is_kept(
    tmp_path_factory, seed, chosen
):
    folder = tmp_path_factory.mktemp("s")
    with written(folder / "a.h5", split(seed)) as old:
        data = only_rows(old["train"].data(), [0, *chosen])  # row 0 has everything
        names = {"train": np.array(old["train"].row_names)[[0, *chosen]]}
        made = rewrite_store(folder / "b.h5", old, {"train": data}, row_names=names)
        with Store.open(made) as new:
            assert new["train"].row_names == tuple(names["train"].tolist())
            a, b = old["train"].take([0, *chosen]), new["train"].take(np.arange(1 + len(chosen)))
            for name in b:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)
            for name in a.keys() - b.keys():  # masks of what is all there now
                assert a[name].all()
            np.testing.assert_array_equal(old["train"].labels[[0, *chosen]], new["train"].labels)
            for column in new["train"].columns().values():
                if column.index is not None:
                    used = np.unique(column.index[column.index >= 0])
                    np.testing.assert_array_equal(used, np.arange(len(column.values)))


@given(seed=st.integers(0, 60))
@settings(max_examples=20, deadline=None)
def test_generated_values_are_what_was_absent_and_nothing_else_changes(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("s")
    rng = np.random.default_rng(seed)
    with written(folder / "a.h5", split(seed)) as old:
        before = old["train"].take(np.arange(ROWS))
        lacking = np.flatnonzero(~before.get("present/image", np.ones(ROWS, bool)))
        values = rng.uniform(-0.2, 1.2, (len(lacking), 1, 2, 2)).astype(np.float32)
        data = old["train"].data()
        if data.pairs is None:
            assert not len(lacking)
            return
        data = with_generated(data, {"image": (lacking, values)})
        with Store.open(rewrite_store(folder / "b.h5", old, {"train": data})) as new:
            after = new["train"].take(np.arange(ROWS))
        assert "present/image" not in after
        expected = before["image"].copy()
        expected[lacking] = np.rint(255 * values.clip(0, 1))
        np.testing.assert_array_equal(after["image"], expected)
        for name in after.keys() - {"image"}:
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_sparse_tables_and_tables_with_gaps_get_rows_too():
    gaps = np.array([[True, False]])
    data = SplitData(
        {"a": sparse.csr_matrix([[0.0, 2.0]]), "b": np.array([[1.0, 0.0]])},
        pairs={"a": np.array([0, -1]), "b": np.array([-1, 0])},
        present={"b": gaps},
    )
    rows = np.array([0]), np.array([1])
    made = with_generated(
        data, {"a": (rows[1], np.array([[3.0, 0.0]])), "b": (rows[0], np.ones((1, 2)))}
    )
    assert sparse.issparse(made.arrays["a"])
    assert made.arrays["a"][made.pairs["a"]].toarray().tolist() == [[0.0, 2.0], [3.0, 0.0]]
    assert made.present["b"].tolist() == [[True, False], [True, True]]


def test_what_a_row_has_is_not_generated_and_blocks_are_not_chosen_from():
    data = SplitData({"a": np.ones((2, 1))}, pairs={"a": np.array([0, 1])})
    with pytest.raises(DataError, match="row 1 has modality 'a' already"):
        with_generated(data, {"a": (np.array([1]), np.zeros((1, 1)))})
    with pytest.raises(DataError, match="row 1 has modality 'a' already"):
        with_generated(SplitData({"a": np.ones((2, 1))}), {"a": (np.array([1]), np.zeros((1, 1)))})
    blocks = Blocks((2, 1, 1, 1), lambda a, b: np.zeros((b - a, 1, 1, 1), np.uint8))
    with pytest.raises(DataError, match="made while it is written"):
        only_rows(SplitData({"a": blocks}), [0])


def test_rows_that_are_not_there_are_named_and_none_is_a_choice():
    data = SplitData({"a": np.eye(3), "b": [[1.0], [2.0], [3.0]]}, labels=[0, 1, 2])
    for rows, error in (([-1], DataError), ([3], DataError), ([0.5], UsageError)):
        with pytest.raises(error, match="row"):
            only_rows(data, rows)
    none = only_rows(data, [])
    assert none.labels.shape == (0,)
    assert none.arrays["b"].shape == (0, 1)
    assert only_rows(data, [2, 2]).arrays["b"].tolist() == [[3.0]]


def test_a_store_is_not_written_over_itself_and_no_data_get_lost(tmp_path):
    with written(tmp_path / "a.h5", split(3)) as old:
        before = (tmp_path / "a.h5").read_bytes()
        (tmp_path / "link.h5").symlink_to("a.h5")
        (tmp_path / "hard.h5").hardlink_to(tmp_path / "a.h5")
        for name in ("a.h5", "link.h5", "hard.h5"):
            with pytest.raises(DataError, match="is the store that is read"):
                rewrite_store(tmp_path / name, old, {})
        data = old["train"].data()
        with pytest.raises(UsageError, match="'trian'"):
            rewrite_store(tmp_path / "b.h5", old, {"trian": data})
        with pytest.raises(DataError, match="5 rows, but names of 12"):
            rewrite_store(tmp_path / "b.h5", old, {"train": only_rows(data, np.arange(5))})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "hard.h5", "link.h5"]
    assert (tmp_path / "a.h5").read_bytes() == before


def test_rows_of_one_store_are_read_as_those_of_another(tmp_path):
    units, covariate = Units(("a", "b", "c"), shift=1.0, scale=0.5), Covariate("batch", ("B", "A"))
    with written(tmp_path / "a.h5", split(4)) as store:
        rows = ConvertedRows(store["train"], {**store.units, "table": units}, [covariate])
        assert len(rows) == ROWS
        old, new = store["train"].take(np.arange(ROWS)), rows.take(np.arange(ROWS))
        mask = old["present/table"]
        # in files x = 2 stored; 0.5 stored + 1 there. A float32 rounding apart
        np.testing.assert_allclose(
            new["table"][mask], (2 * old["table"][mask] - 1) / 0.5, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(new["covariates/batch"], old["covariates/batch"][:, ::-1])
        for name in ("image", "class", "counts", "kinds", "present/table", "present/image"):
            np.testing.assert_array_equal(old[name], new[name])
        assert "covariates/age" not in new
        with pytest.raises(DataError, match="level of covariate 'batch'"):
            ConvertedRows(store["train"], store.units, [Covariate("batch", ("A", "C"))])
        with pytest.raises(UsageError, match="'place'"):
            ConvertedRows(store["train"], store.units, [Covariate("place", ("A", "C"))])
