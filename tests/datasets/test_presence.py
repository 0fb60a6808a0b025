"""Stores of rows that lack modalities, values or classes: what is written is what was given."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from mvflow.core import ArraySource, DataError, Modality, Presence, entry_shares
from mvflow.training import Table
from mvflow_datasets import Blocks, SplitData, Store, write_store
from mvflow_datasets.manifest import Manifest

ROWS = 9
SPECS = (
    Modality("image", (1, 2, 2), "laplace"),
    Modality("class", (4,), "categorical"),
    Modality("table", (3,)),
)
EVERY = np.arange(ROWS)


def arrays(seed, rows=ROWS):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(2, 256, size=(rows, 1, 2, 2), dtype=np.uint8),
        "class": rng.integers(4, size=rows),
        "table": rng.normal(size=(rows, 3)).astype(np.float32),
    }


@st.composite
def incomplete(draw):
    """Arrays, masks of rows or of entries, perhaps pairs, and labels of which some are unknown."""
    x, present = arrays(draw(st.integers(0, 50))), {}
    paired = draw(st.booleans())
    for name in draw(st.sets(st.sampled_from(["image", "table"]))):
        shape = draw(st.sampled_from([(ROWS,), x[name].shape]))
        present[name] = draw(hnp.arrays(bool, shape))
        present[name][0] = True
    pairs = None
    if paired:
        positions = hnp.arrays(int, ROWS, elements=st.integers(-1, ROWS - 1))
        pairs = {n: draw(positions) if n != "class" else draw(positions) * 0 + 1 for n in x}
        for name in pairs:
            pairs[name][0] = 0
        pairs["class"] = np.abs(pairs["class"])
    labels = draw(hnp.arrays(int, ROWS, elements=st.integers(-1, 3)))
    return {"arrays": x, "labels": labels, "pairs": pairs, "present": present}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def written(path, **data):
    splits = {"train": SplitData(**data)}
    return Store.open(write_store(path / "s.h5", name="s", modalities=SPECS, splits=splits))


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=incomplete(), rows=st.lists(st.integers(0, ROWS - 1)))
def test_a_store_gives_what_arrays_in_memory_give(tmp_path, data, rows):
    x, pairs, present = data["arrays"], data["pairs"], data["present"]
    memory = ArraySource(x, SPECS, labels=data["labels"], pairs=pairs, present=present)
    with written(tmp_path, **data) as store:
        split = store["train"]
        same(split.take(np.array(rows, int)), memory.take(np.array(rows, int)))
        np.testing.assert_array_equal(split.labels, memory.labels)
        assert Presence.of(split) == Presence.of(memory)
        assert entry_shares(split) == pytest.approx(entry_shares(memory), rel=1e-12)
        assert store.verify() == []
        is_complete = len(memory.columns()) == len(SPECS) and memory.labels.min() >= 0
        assert store.format_version == (2 if is_complete else 3)
        assert store.info()["format_version"] == store.format_version
        for budget in (None, 0):
            if rows:
                held, taken = Table.of(split, budget=budget), Table.of(memory)
                for name, value in held.subset(np.array(rows)).batches(4).__next__().items():
                    expected = next(taken.subset(np.array(rows)).batches(4))[name]
                    np.testing.assert_array_equal(value, expected)


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=incomplete())
def test_what_is_absent_changes_no_byte_of_a_store(tmp_path, data):
    x, pairs = dict(data["arrays"]), data["pairs"]
    for name, mask in data["present"].items():
        is_shared = pairs is not None and mask.ndim == 1  # values that other rows may have
        if not is_shared:
            wide = np.broadcast_to(
                mask.reshape(-1, *mask.shape[1:], *[1] * (x[name].ndim - mask.ndim)), x[name].shape
            )
            x[name] = np.where(wide, x[name], np.uint8(1) if x[name].dtype == np.uint8 else np.nan)
    with written(tmp_path, **data) as store:
        clean = store.path.read_bytes()
    with written(tmp_path, **(data | {"arrays": x})) as store:
        assert store.path.read_bytes() == clean


def test_complete_rows_are_written_as_before_to_the_byte(tmp_path):
    x = arrays(0)
    full = {"image": np.ones(ROWS, bool), "table": np.ones((ROWS, 3), bool)}
    with written(tmp_path, arrays=x, labels=EVERY) as store:
        plain = store.path.read_bytes()
        assert plain.startswith(b"mvflow-store 2 ")
    with written(tmp_path, arrays=x, labels=EVERY, present=full) as store:
        assert store.path.read_bytes() == plain


def test_nothing_is_stored_for_rows_that_lack_a_modality(tmp_path):
    mask = EVERY % 3 == 0
    with written(tmp_path, arrays=arrays(0), present={"image": mask}) as store:
        assert len(store["train"].columns()["image"].values) == mask.sum()
        assert store["train"].columns()["table"].index is None


def test_sparse_rows_and_entries_may_be_absent(tmp_path):
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.5, size=(ROWS, 6)).astype(np.float32)
    specs = [Modality("x", (6,), "poisson"), Modality("y", (6,))]
    for mask in (EVERY % 2 > 0, rng.random((ROWS, 6)) < 0.6):
        spread = mask if mask.ndim == 2 else mask[:, None]
        spoilt = sparse.csr_matrix(np.where(spread, dense, np.nan))
        data = SplitData({"x": spoilt, "y": dense}, present={"x": mask})
        path = write_store(tmp_path / "s.h5", name="s", modalities=specs, splits={"a": data})
        memory = ArraySource({"x": dense, "y": dense}, specs, present={"x": mask})
        with Store.open(path) as store:
            same(store["a"].take(EVERY), memory.take(EVERY))
            held, expected = (next(Table.of(s).batches(ROWS)) for s in (store["a"], memory))
            same(
                {k: v.numpy() for k, v in held.items()},
                {k: v.numpy() for k, v in expected.items()},
            )
            assert store.verify() == []


def test_images_that_are_made_while_written_lack_rows_by_pairs(tmp_path):
    ramp = Blocks(
        (3, 1, 2), lambda a, b: np.arange(a, b, dtype=np.uint8).repeat(2).reshape(-1, 1, 2)
    )
    specs = [Modality("i", (1, 2)), Modality("t", (1,))]
    table = np.ones((4, 1))
    pairs = {"i": [2, -1, 0, 1], "t": EVERY[:4]}
    made = {"i": ramp, "t": table}
    data = SplitData(made, pairs=pairs)
    path = write_store(tmp_path / "s.h5", name="s", modalities=specs, splits={"a": data})
    with Store.open(path) as store:
        assert store["a"].take([0, 1, 2])["i"][:, 0, 0].tolist() == [2, 0, 0]
    for present, of in ((np.ones(3, bool), None), (np.ones((3, 1, 2), bool), pairs)):
        data = SplitData(made if of else made | {"t": table[:3]}, pairs=of, present={"i": present})
        with pytest.raises(DataError, match="'i' is made as it is written: give pairs"):
            write_store(tmp_path / "s.h5", name="s", modalities=specs, splits={"a": data})


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["labels", "pairs", "mask"])
def test_a_forged_absence_is_damage(tmp_path, monkeypatch, name):
    """What is absent must be what the manifest says, or no store of today could be told."""
    forged = {"labels": "labels has other rows", "pairs": "pairs has 4 rows without 'image'"}
    mask = EVERY % 2 > 0 if name == "pairs" else EVERY >= 0
    entries = {"table": np.arange(27).reshape(ROWS, 3) % 5 > 0} if name == "mask" else {}
    labels = EVERY - 1 if name == "labels" else EVERY
    monkeypatch.setattr("mvflow_datasets.writing.Manifest", lambda *args: Manifest(*args[:11]))
    write = {
        "arrays": arrays(0),
        "labels": labels,
        "present": {"image": ~mask | (EVERY == 0)} if name == "pairs" else entries,
    }
    with pytest.raises(
        DataError, match=f"is damaged .*{forged.get(name, 'present has other modalities')}"
    ):
        written(tmp_path, **write)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("present", "message"),
    [
        (
            {"image": EVERY < 0},
            "^no row has modality 'image': leave it out, or add rows that have it$",
        ),
        (
            {"image": EVERY < 4, "table": EVERY >= 4, "class": EVERY >= 4},
            "^nothing links 'image' with 'class' and 'table': no row has one of each",
        ),
        (
            {n: EVERY > 0 for n in arrays(0)},
            "^split 'train': row 0 has no modality: leave out rows",
        ),
        (
            {"table": EVERY[:5] > 0},
            r"^split 'train': present\['table'\] has shape \(5,\): expected",
        ),
        ({"table": EVERY}, r"^split 'train': present\['table'\] holds int64: expected booleans"),
    ],
)
def test_rows_that_teach_nothing_together_are_refused(tmp_path, present, message):
    with pytest.raises(DataError, match=message):
        written(tmp_path, arrays=arrays(0), present=present)
    assert not list(tmp_path.iterdir())


def test_a_split_may_lack_what_another_has(tmp_path):
    splits = {
        "train": SplitData(arrays(0)),
        "test": SplitData(arrays(1), present={"image": EVERY < 0}),
    }
    path = write_store(tmp_path / "s.h5", name="s", modalities=SPECS, splits=splits)
    with Store.open(path) as store:
        assert not store["test"].take(EVERY)["present/image"].any()
        assert "present/image" not in store["train"].columns()


def test_what_a_store_says_of_itself_counts_what_is_absent(tmp_path):
    present = {
        "image": EVERY < 6,
        "table": np.where(EVERY[:, None] < 3, False, [True, True, False]) | (EVERY[:, None] > 6),
    }
    with written(tmp_path, arrays=arrays(0), labels=EVERY % 3 - 1, present=present) as store:
        info = store.info()["splits"]["train"]
    kinds = {("class", "image"): 3, ("class", "image", "table"): 3, ("class", "table"): 3}
    assert {tuple(sorted(kind)): n for kind, n in info["kinds"]} == kinds
    assert info["absent"] == {"image": 3, "table": 3, "present/table": 4, "labels": 3}
    assert info["labels"] == {"0": 3, "1": 3}
