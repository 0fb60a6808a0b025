"""Arrays that are made while they are written: the same store as from arrays in memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvflow.core import DataError, Modality
from mvflow_datasets import Blocks, SplitData, Store, write_store


def in_blocks(x):
    return Blocks(x.shape, lambda start, stop: x[start:stop])


def written(path, specs, data):
    write_store(path, name="blocks", modalities=specs, splits={"train": data})
    with Store.open(path) as store:
        columns = store["train"].columns()
        return store.fingerprint, {name: np.array(c.values) for name, c in columns.items()}


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(0, 20), size=st.integers(1, 40), paired=st.booleans())
def test_blocks_make_the_store_that_arrays_make(folder, rows, size, paired):
    x = np.random.default_rng(rows).integers(256, size=(rows, 1, size), dtype=np.uint8)
    y = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    pairs = {name: np.arange(rows)[::-1] for name in ("x", "y")} if paired else None
    specs = [Modality("x", (1, size)), Modality("y", (2,))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mvflow_datasets.manifest.BLOCK_BYTES", 100)
        found = written(
            folder / "blocks.h5", specs, SplitData({"x": in_blocks(x), "y": y}, pairs=pairs)
        )
        expected = written(folder / "arrays.h5", specs, SplitData({"x": x, "y": y}, pairs=pairs))
    assert found[0] == expected[0]
    for name, values in expected[1].items():
        np.testing.assert_array_equal(found[1][name], values)


def test_blocks_are_asked_for_once_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("mvflow_datasets.manifest.BLOCK_BYTES", 3)
    asked = []

    def make(start, stop):
        asked.append((start, stop))
        return np.zeros((stop - start, 1), np.uint8)

    data = SplitData({"x": Blocks((8, 1), make)})
    written(tmp_path / "s.h5", [Modality("x", (1,))], data)
    assert asked == [(0, 3), (3, 6), (6, 8)]


def test_a_block_of_another_form_is_refused_and_nothing_is_left(tmp_path):
    for block in (np.zeros((1, 3), np.uint8), np.zeros((2, 3)), np.zeros((2, 4), np.uint8)):
        data = SplitData({"x": Blocks((2, 3), lambda start, stop, block=block: block)})
        with pytest.raises(ValueError, match=r"expected uint8 of shape \(2, 3\)"):
            written(tmp_path / "s.h5", [Modality("x", (3,))], data)
    assert not list(tmp_path.iterdir())


@pytest.mark.bad_input
@pytest.mark.parametrize("shape", [(2, 4), (3, 3)])
def test_shapes_are_checked_before_anything_is_made(tmp_path, shape):
    specs = [Modality("x", (3,)), Modality("y", (3,))]
    arrays = {"x": Blocks(shape, lambda start, stop: 1 / 0), "y": np.zeros((2, 3))}
    with pytest.raises(DataError, match="split 'train': .*(shape|rows)"):
        written(tmp_path / "s.h5", specs, SplitData(arrays))
    assert not list(tmp_path.iterdir())
