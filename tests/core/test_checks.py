"""Checks that all data pass on their way in."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvflow.core import (
    ArraySource,
    DataError,
    Modality,
    UsageError,
    check_batch,
    check_rows,
    class_name,
    derive_seed,
    factor_name,
    fingerprint,
    generator,
    rescale_weights,
    subset_of,
    unknown_name,
)

SPECS = [
    Modality("a", (2,)),
    Modality("b", (1, 2, 2), "bernoulli"),
    Modality("c", (3,), "categorical"),
]


def batch():
    return {
        "c": np.array([0, 2, 1]),
        "b": np.full((3, 1, 2, 2), 128, np.uint8),
        "a": np.arange(6).reshape(3, 2),
    }


def test_types_and_order():
    found = check_batch(batch(), SPECS)
    assert list(found) == ["a", "b", "c"]
    assert [v.dtype for v in found.values()] == [np.float32, np.uint8, np.int64]
    np.testing.assert_array_equal(found["a"], batch()["a"])


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float16, np.float64])
def test_numbers_of_any_type_become_float32(dtype):
    values = np.array([[0, 1], [1, 1]]).astype(dtype)
    found = check_batch({"a": values}, SPECS)["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_what_is_absent_is_not_observed():
    assert list(check_batch({"b": batch()["b"]}, SPECS)) == ["b"]
    assert check_batch({}, SPECS) == {}


@pytest.mark.parametrize(
    "values", [np.array([0.0, 2.0]), np.array([0, 2], np.uint8), [False, True]]
)
def test_classes_may_have_any_type(values):
    assert check_batch({"c": values}, SPECS)["c"].dtype == np.int64


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("a", np.zeros((3, 5)), r"'a' has shape \(3, 5\): expected \(rows, 2\)"),
        ("a", np.zeros(2), r"'a' has shape \(2,\): expected \(rows, 2\)"),
        ("a", 3.0, "'a': expected an array .* not float"),
        ("a", np.array([["x", "y"]]), "'a': values of type .*, expected numbers"),
        ("a", np.array([[0, 0], [0, np.nan]]), "'a', row 1 contains nan: expected finite"),
        (
            "a",
            np.array([[0, 0], [1e39, 0]]),
            r"'a', row 1 contains 1e\+39: expected finite float32",
        ),
        ("b", np.full((1, 1, 2, 2), 1.5), r"'b', row 0 contains 1.5: expected probabilities in"),
        ("c", np.array([0, 3]), "'c', row 1 is 3: expected a class from 0 to 2"),
        ("c", np.array([0.5]), "'c', row 0 is 0.5: expected a class from 0 to 2"),
        ("c", np.array([-1]), "'c', row 0 is -1"),
        ("c", np.eye(3), r"'c' has shape \(3, 3\): expected \(rows,\), a class from 0 to 2"),
    ],
)
def test_what_does_not_fit_is_named(name, values, message):
    with pytest.raises(DataError, match=message):
        check_batch({name: values}, SPECS)


@pytest.mark.bad_input
@given(row=st.integers(0, 9999))
def test_the_first_bad_row_is_found_in_large_arrays(row):
    x = np.zeros((10_000, 2), np.float32)
    x[row:] = np.inf
    with pytest.raises(DataError, match=f"row {row} contains inf"):
        check_batch({"a": x}, SPECS)


@pytest.mark.bad_input
def test_unequal_rows_and_unknown_names():
    with pytest.raises(DataError, match="same number of rows, but a has 3, b has 1"):
        check_batch(batch() | {"b": batch()["b"][:1]}, SPECS)
    with pytest.raises(UsageError, match="unknown modality 'd': .*Known: a, b, c"):
        check_batch({"d": np.zeros(3)}, SPECS)
    assert len(check_batch(batch() | {"b": batch()["b"][:1]}, SPECS, rows_equal=False)) == 3


@given(st.lists(st.integers(0, 9), max_size=20))
def test_rows_in_range_stay(rows):
    np.testing.assert_array_equal(check_rows(rows, 10, "it"), np.array(rows, np.int64))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([0, 10], DataError, "row 10 is out of range: it has the rows 0 to 9"),
        ([-1], DataError, "row -1 is out of range"),
        ([0.0], UsageError, "rows must be a list of whole numbers: got float64"),
        ([[1]], UsageError, r"of shape \(1, 1\)"),
        ([True], UsageError, "got bool"),
    ],
)
def test_rows_that_are_none_are_named(rows, error, message):
    with pytest.raises(error, match=message):
        check_rows(rows, 10, "it")


@pytest.mark.bad_input
def test_sources_that_do_not_fit_are_explained():
    x = {"a": np.zeros((3, 2))}
    for call, message in (
        (lambda: ArraySource({}), "no modality was given"),
        (lambda: ArraySource(x, SPECS), "modality 'b' has no array: the arrays are a"),
        (lambda: ArraySource(x, [SPECS[0], SPECS[0]]), "modality 'a' is specified twice"),
        (lambda: ArraySource(x, labels=[0, 1]), "a has 3, labels has 2"),
        (lambda: ArraySource(x, pairs={"a": [0, 3]}), "row 3 is out of range"),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_subsets_are_sorted_and_checked():
    assert subset_of(["c", "a"], SPECS) == ("a", "c")
    with pytest.raises(UsageError, match="named twice"):
        subset_of(["a", "a"], SPECS)


def test_sources_without_names_call_classes_and_factors_by_number_and_key():
    class Bare:
        """A source of someone else's, which knows nothing of names."""

    for source in (Bare(), ArraySource({"a": np.zeros((2, 1))})):
        assert class_name(source, 3) == "class 3"
        assert factor_name(source, "square_width") == "square width"
    named = ArraySource(
        {"a": np.zeros((2, 1))}, class_names={3: "dog", 4: "7"}, factor_names={"w": "width (cm)"}
    )
    assert [class_name(named, label) for label in (3, 4, 5)] == ["dog", "class 7", "class 5"]
    assert factor_name(named, "w") == "width (cm)"


def test_fingerprints_see_values_types_shapes_and_pairs():
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    pairs = {"a": [0, 1, 2]}
    sources = [
        ArraySource({"a": x}),
        ArraySource({"a": x + 1}),
        ArraySource({"b": x}),
        ArraySource({"a": x.astype(np.uint8)}),
        ArraySource({"a": x.reshape(3, 1, 2)}),
        ArraySource({"a": x}, pairs=pairs),
        ArraySource({"a": x}, pairs={"a": [0, 2, 1]}),
    ]
    assert len({fingerprint(s) for s in sources}) == len(sources)
    assert fingerprint(ArraySource({"a": x.copy()})) == fingerprint(sources[0])


@given(st.integers(0, 2**40), st.lists(st.one_of(st.integers(0, 2**31), st.text()), max_size=3))
def test_derived_seeds_are_stable_numbers_that_torch_takes(seed, path):
    found = derive_seed(seed, *path)
    assert found == derive_seed(seed, *path)
    assert 0 <= found < 2**63


def test_derived_seeds_do_not_collide_and_streams_are_independent():
    paths = [(s, name, i) for s in range(10) for name in ("joint", "flows") for i in range(100)]
    assert len({derive_seed(*p) for p in paths}) == len(paths)
    draws = np.array([generator(0, "a", i).standard_normal(50) for i in range(200)])
    correlation = np.corrcoef(draws)[np.triu_indices(200, 1)]
    assert abs(correlation.mean()) < 4 / np.sqrt(50 * len(correlation))
    assert abs(correlation.std() * np.sqrt(50) - 1) < 0.05  # its error here is about .005


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "modality name 'a b' is not usable"),
        ({"name": ""}, "modality name '' is not usable"),
        ({"shape": ()}, r"each 1 or more: \(1,\) for one number"),
        ({"shape": (3, 0)}, "each 1 or more"),
        ({"likelihood": "normla"}, "unknown likelihood 'normla': did you mean 'normal'"),
        ({"likelihood": {"kind": "normla"}}, "unknown likelihood 'normla': did you mean 'normal'"),
        ({"weight": -1.0}, "has weight -1.0: expected a positive number"),
    ],
)
def test_modalities_are_checked(changes, message):
    with pytest.raises(DataError, match=message):
        Modality(**{"name": "a", "shape": (2,), **changes})


def test_weights_are_the_largest_size_over_ones_own_unless_stated():
    found = rescale_weights(
        (Modality("a", (2,)), Modality("b", (8,)), Modality("c", (4,), weight=9))
    )
    assert found == {"a": 4.0, "b": 1.0, "c": 9}


def test_unknown_names_have_a_hint_only_if_one_is_near():
    assert unknown_name("key", "bta", ["beta"]).endswith("did you mean 'beta'? Known: beta")
    assert unknown_name("key", "zzz", ["beta"]) == "unknown key 'zzz': Known: beta"
    assert unknown_name("key", "zzz", []) == "unknown key 'zzz': Known: none"


@pytest.mark.parametrize(
    "likelihood",
    [
        "normal",
        {"kind": "normal", "scale": 0.5},
        {"kind": "laplace", "scale": "learned"},
        {"kind": "negative-binomial", "library": "observed"},
        {"kind": "student-t", "scale": 2.0, "df": 3.0},
    ],
)
def test_a_modality_survives_json(likelihood):
    modality = Modality("a", (3,), likelihood, 2.0)
    raw = json.loads(json.dumps(modality.to_dict()))
    assert isinstance(raw["scale"], int | float)  # as stores of format 1 have it
    assert Modality.from_dict(raw) == modality
