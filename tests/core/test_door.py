"""Whatever is handed over becomes an array of numbers, or one sentence."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from mvflow.core import ArraySource, DataError
from mvflow.core.door import as_numbers, check_labels

pd = pytest.importorskip("pandas", reason="needs pandas")
pytest.importorskip("pyarrow", reason="needs pyarrow")

NUMBERS = [[1.0, 0.5], [2.0, 1.0]]
FRAME = pd.DataFrame(NUMBERS, columns=["x", "y"])
SAME = {
    "list": NUMBERS,
    "frame": FRAME,
    "frame of objects": FRAME.astype(object),
    "nullable": FRAME.convert_dtypes(),
    "pyarrow": FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "sparse": FRAME.astype(pd.SparseDtype(float)),
    "mixed": FRAME.astype({"x": "int8"}),
    "tensor": torch.tensor(NUMBERS, requires_grad=True),
    "bfloat16": torch.tensor(NUMBERS, dtype=torch.bfloat16),
    "masked": np.ma.masked_equal(NUMBERS, 9.0),
}


@pytest.mark.parametrize("values", SAME.values(), ids=SAME.keys())
def test_all_that_holds_these_numbers_gives_them(values):
    np.testing.assert_array_equal(as_numbers(values, "it"), NUMBERS)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.floats(0, 1)), min_size=1))
def test_frames_of_several_types_give_what_their_columns_give(rows):
    frame = pd.DataFrame(rows, columns=["a", "b", "c"])
    for nullable in (frame, frame.convert_dtypes()):
        for j, column in enumerate(zip(*rows, strict=True)):
            np.testing.assert_array_equal(as_numbers(nullable, "it")[:, j], np.float64(column))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_frames_of_one_type_keep_it(dtype):
    assert as_numbers(FRAME.astype(dtype), "it").dtype == dtype


REFUSED = {
    "bytes": (b"ab", "it: .* not bytes"),
    "bytearray": (bytearray(b"ab"), "it: .* not bytearray"),
    "memoryview": (memoryview(b"ab"), "it: .* not memoryview"),
    "text": ("ab", "it: .* not str"),
    "none": (None, "it: .* not NoneType"),
    "mapping": ({"x": [1.0]}, "it: .* not dict"),
    "generator": ((x for x in [1.0]), "it: .* not generator"),
    "scipy": (sparse.csr_matrix(NUMBERS), "it: .* not csr_matrix"),
    "sparse tensor": (torch.tensor(NUMBERS).to_sparse(), "it: .*to_dense"),
    "ragged": ([[1.0], [1.0, 2.0]], "it: expected an array"),
    "array of bytes": (np.array([[b"1"]]), "it: values of type .*S1, expected numbers"),
    "texts": ([["1"]], "it: values of type .*U1, expected numbers"),
    "dates": (np.array([["2020"]], "M8[D]"), "it: values of type datetime64"),
    "durations": (np.array([[1]], "m8[s]"), "it: values of type timedelta64"),
    "column of names": (FRAME.assign(y=["a", "b"]), "it: values of type .* in column 'y'"),
    "column of classes": (FRAME.astype({"x": "category"}), "category in column 'x'.*get_dummies"),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_holds_no_numbers_is_refused_in_one_sentence(values, message):
    with pytest.raises(DataError, match=f"^[^\n]*{message}[^\n]*$") as caught:
        as_numbers(values, "it")
    assert str(caught.value).count("expected") == 1


def test_missing_values_of_a_frame_are_named_by_their_row():
    frame = pd.DataFrame({"x": pd.array([1, None], dtype="Int64"), "y": [0.5, 1.0]})
    with pytest.raises(DataError, match="modality 'a', row 1 contains nan"):
        ArraySource({"a": frame})


def test_labels_of_any_library_are_whole_numbers():
    for labels in (pd.Series([0, 2]), pd.Series([0, 2], dtype="Int64"), torch.tensor([0, 2])):
        assert check_labels(labels).tolist() == [0, 2]
    for labels in (b"ab", ["a", "b"], pd.Series(["a", "b"])):
        with pytest.raises(DataError, match="^labels: "):
            check_labels(labels)
    with pytest.raises(DataError, match="label of row 1 is nan"):
        check_labels(pd.Series([0, None], dtype="Int64"))
