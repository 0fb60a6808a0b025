"""What is absent: never read, nothing stored for it, and what rows link."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse.csgraph import connected_components

from mvflow.core import (
    ArraySource,
    DataError,
    Modality,
    Presence,
    UsageError,
    as_source,
    check_every_value,
    check_source,
    entry_shares,
    fingerprint,
    row_presence,
)
from mvflow.core.presence import BLOCK

SPECS = (
    Modality("image", (1, 2, 2), "laplace"),
    Modality("class", (4,), "categorical"),
    Modality("table", (3,)),
    Modality("counts", (2,), "poisson"),
)
ROWS = 12


def arrays(seed, rows=ROWS):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(2, 256, size=(rows, 1, 2, 2), dtype=np.uint8),
        "class": rng.integers(4, size=rows),
        "table": rng.normal(size=(rows, 3)).astype(np.float32),
        "counts": rng.poisson(3.0, size=(rows, 2)).astype(np.float32),
    }


@st.composite
def masks(draw):
    """A mask of rows or of entries for some modalities; every row has one modality or more."""
    shapes = {"image": (ROWS, 1, 2, 2), "class": (ROWS,), "table": (ROWS, 3), "counts": (ROWS, 2)}
    made = {}
    for name in draw(st.sets(st.sampled_from(sorted(shapes)))):
        shape = draw(st.sampled_from([(ROWS,), shapes[name]]))
        made[name] = draw(hnp.arrays(bool, shape))
    if len(made) == len(shapes):
        has = [mask.reshape(ROWS, -1).any(1) for mask in made.values()]
        made["table"] = made["table"] | ~np.any(has, 0).reshape(
            -1, *[1] * (made["table"].ndim - 1)
        )
    return made


def spoilt(x, mask):
    """NaN or another value that no modality can have where a value is absent."""
    wide = np.broadcast_to(mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x.shape)
    return np.where(wide, x, np.uint8(1) if x.dtype == np.uint8 else np.nan)


def expected(x, mask):
    """Values and mask as NumPy has them: zeros where absent; of rows, if rows lack all or none."""
    wide = np.broadcast_to(mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x.shape)
    rows = wide.reshape(ROWS, -1)
    is_of_rows = (rows.any(1) == rows.all(1)).all()
    return np.where(wide, x, 0), rows.all(1) if is_of_rows else wide


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


@settings(deadline=None)
@given(seed=st.integers(0, 99), present=masks(), rows=st.lists(st.integers(0, ROWS - 1)))
def test_rows_are_taken_as_numpy_does_and_what_is_absent_is_zero(seed, present, rows):
    x = arrays(seed)
    taken = ArraySource(x, SPECS, present=present).take(np.array(rows, int))
    partial = set()
    for name, values in x.items():
        mask = present.get(name, np.ones(ROWS, bool))
        zeroed, reduced = expected(values, mask)
        np.testing.assert_array_equal(taken[name], zeroed[rows])
        if not reduced.all():
            partial.add(f"present/{name}")
            np.testing.assert_array_equal(taken[f"present/{name}"], reduced[rows])
    assert set(taken) == {*x} | partial


@settings(deadline=None)
@given(seed=st.integers(0, 99), present=masks())
def test_absent_values_are_never_read(seed, present):
    x = arrays(seed)
    bad = {n: spoilt(v, present[n]) if n in present else v for n, v in x.items()}
    clean, dirty = (ArraySource(v, SPECS, present=present) for v in (x, bad))
    check_source(dirty, SPECS)
    assert fingerprint(clean) == fingerprint(dirty)
    same(clean.take(np.arange(ROWS)), dirty.take(np.arange(ROWS)))


@settings(deadline=None)
@given(seed=st.integers(0, 99), present=masks())
def test_masked_arrays_and_taken_rows_mean_the_same_as_masks(seed, present):
    x = arrays(seed)
    source = ArraySource(x, SPECS, present=present)
    masked = dict(x)
    for name, mask in present.items():
        wide = np.broadcast_to(
            mask.reshape(*mask.shape, *[1] * (x[name].ndim - mask.ndim)), x[name].shape
        )
        masked[name] = np.ma.masked_array(x[name], ~wide)
    rows = np.arange(ROWS)
    same(ArraySource(masked, SPECS).take(rows), source.take(rows))
    same(as_source(source.take(rows), SPECS).take(rows), source.take(rows))


@settings(deadline=None)
@given(seed=st.integers(0, 99), present=masks())
def test_nothing_is_stored_for_a_row_that_lacks_a_modality(seed, present):
    source = ArraySource(arrays(seed), SPECS, present=present)
    has, columns = row_presence(source), source.columns()
    for modality in SPECS:
        assert len(columns[modality.name].values) == has[modality.name].sum()


def test_complete_rows_have_no_masks():
    x = arrays(0)
    full = {name: np.ones(len(v), bool) for name, v in x.items()} | {
        "table": np.ones((ROWS, 3), bool)
    }
    plain, masked = ArraySource(x, SPECS), ArraySource(x, SPECS, present=full)
    assert masked.columns().keys() == plain.columns().keys()
    assert all(c.index is None for c in masked.columns().values())
    assert fingerprint(masked) == fingerprint(plain)


def test_pairs_of_minus_one_are_absent_and_masks_of_shared_values_are_shared():
    x = {"a": np.array([[1.0, np.nan], [3.0, 4.0]]), "b": np.arange(3.0)[:, None]}
    pairs = {"a": [0, 1, 0], "b": [0, -1, 2]}
    source = ArraySource(
        x, pairs=pairs, present={"a": np.isfinite(x["a"]), "b": np.array([True, True, True])}
    )
    taken = source.take([0, 1, 2])
    np.testing.assert_array_equal(taken["a"], [[1, 0], [3, 4], [1, 0]])
    np.testing.assert_array_equal(taken["present/a"], [[1, 0], [1, 1], [1, 0]])
    np.testing.assert_array_equal(taken["b"], [[0], [0], [2]])
    np.testing.assert_array_equal(taken["present/b"], [1, 0, 1])


def test_shares_of_entries_count_the_rows_that_have_the_modality():
    x = np.array([[1.0, np.nan], [np.nan, np.nan], [1.0, 2.0]])
    rows = ArraySource({"a": x, "b": np.ones((3, 1))}, present={"a": np.isfinite(x)})
    assert entry_shares(rows) == {"a": 0.75}


@settings(deadline=None, max_examples=50)
@given(has=hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 4))))
def test_groups_are_the_connected_components_of_what_rows_have_together(has):
    has[~has.any(1), 0] = True
    names = "abcd"[: has.shape[1]]
    x = {name: np.ones((len(has), 1)) for name in names}
    seen = Presence.of(ArraySource(x, present=dict(zip(names, has.T, strict=True))))
    together = has.T.astype(int) @ has
    count, component = connected_components(together, directed=False)
    groups = [
        tuple(n for n, c in zip(names, component, strict=True) if c == i) for i in range(count)
    ]
    assert set(seen.groups) == set(groups)
    assert seen.rows == len(has)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            assert seen.count(a, b) == together[i, j]
            assert i >= j or ((a, b) in seen.pairs_apart) == (together[i, j] == 0)
    if count == 1:
        seen.check()
    else:
        with pytest.raises(DataError, match=r"^(no row has (modality|any of)|nothing links) "):
            seen.check()


A = np.ones((3, 2))
REFUSED = {
    r"^rows 1, 2 have no modality: leave out rows of which nothing is known$": {
        "a": [True, False, False],
        "b": [True, False, False],
    },
    r"^present\['a'\] has shape \(2,\): expected .* each row, \(3,\), or .* value, \(3, 2\)$": {
        "a": [True, False]
    },
    r"^present\['a'\] holds int64: expected booleans, True where present$": {"a": [1, 0, 1]},
    r"^unknown modality 'c'": {"c": [True, True, True]},
}


@pytest.mark.bad_input
@pytest.mark.parametrize("message", REFUSED)
def test_masks_that_fit_no_data_are_refused(message):
    with pytest.raises((DataError, UsageError), match=message):
        ArraySource({"a": A, "b": A}, present=REFUSED[message])


@pytest.mark.bad_input
def test_what_is_present_must_be_usable_and_its_row_is_named():
    x = {"a": np.array([[1.0], [2.0], [np.nan]]), "b": A}
    with pytest.raises(DataError, match=r"^modality 'a', row 2 contains nan"):
        ArraySource(x, present={"a": np.array([False, True, True])})


@pytest.mark.bad_input
def test_all_that_is_absent_everywhere_is_named_up_to_ten():
    with pytest.raises(DataError, match=r"^no row has any of the modalities 'b', 'd': leave them"):
        Presence(tuple("abcd"), {("a", "c"): 2}).check()
    mask = np.zeros((3, 14), bool)
    mask[1, [0, 5]] = True
    absent = [(i,) for i in range(14) if i not in (0, 5)]
    told = re.escape(f"{str(absent[:10])[1:-1]} and 2 more")
    x = {"a": np.zeros((3, 14)), "b": np.zeros((3, 2))}
    with pytest.raises(
        DataError,
        match=rf"^modality 'a': no row has the values at {told}; modality 'b': no row has the "
        r"value at \(1,\): leave them out, or add rows that have them$",
    ):
        check_every_value(
            ArraySource(x, present={"a": mask, "b": np.arange(6).reshape(3, 2) % 2 < 1})
        )
    rows = np.arange(13) < 1
    with pytest.raises(DataError, match=r"^rows 1, 2, .*, 10 and 2 more have no modality"):
        ArraySource({"a": np.ones((13, 1))}, present={"a": rows})


@pytest.mark.bad_input
def test_modalities_that_rows_do_not_link_are_named():
    apart = Presence(("a", "b", "c"), {("a",): 2, ("b", "c"): 3})
    with pytest.raises(DataError, match=r"^nothing links 'a' with 'b' and 'c': no row has one"):
        apart.check()
    with pytest.raises(DataError, match=r"^no row has modality 'b': leave it out, or add rows"):
        Presence(("a", "b"), {("a",): 2}).check()


@pytest.mark.bad_input
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_every_value_is_in_some_row_or_the_first_that_is_not_is_named(shape):
    rows = BLOCK + 5
    mask = np.ones((rows, *shape), bool)
    last = tuple(n - 1 for n in shape)
    mask[(slice(None), *last)] = False
    values = {"a": np.zeros((rows, *shape), np.float32)}
    with pytest.raises(
        DataError, match=f"modality 'a': no row has the value at {re.escape(str(last))}"
    ):
        check_every_value(ArraySource(values, present={"a": mask}))
    mask[(-1, *last)] = True
    check_every_value(ArraySource(values, present={"a": mask}))
    mask[(-1, *last)] = False
    check_every_value(ArraySource(values, present={"a": mask.reshape(rows, -1).any(1)}))
