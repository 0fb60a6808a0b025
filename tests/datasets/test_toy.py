"""The toy set against geometry, and against what the paper says of it."""

import math

import numpy as np
import pytest

from mvflow.core import class_name, factor_name
from mvflow_datasets import Store
from mvflow_datasets.toy import BUILDER, OUTLINE, SHAPES, SIDE, WIDTHS, circle, square

ROWS = 4000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = BUILDER.build(tmp_path_factory.mktemp("toy") / "toy.h5", rows=ROWS, test_rows=501)
    with Store.open(path) as store:
        yield store


def area(image):
    return int((image == 255).sum())


@pytest.mark.parametrize("width", WIDTHS)
def test_areas_of_squares_are_exact(width):
    assert area(square(width, full=True)) == width**2
    assert area(square(width, full=False)) == width**2 - (width - 2 * OUTLINE) ** 2


@pytest.mark.parametrize("width", WIDTHS)
def test_areas_of_circles_are_those_of_discs(width):
    """A pixelated disc is off by part of its boundary: Gauss's circle problem, well below w."""
    disc = math.pi * width**2 / 4
    hole = math.pi * (width - 2 * OUTLINE) ** 2 / 4
    assert area(circle(width, full=True)) == pytest.approx(disc, abs=0.6 * width)
    assert area(circle(width, full=False)) == pytest.approx(disc - hole, abs=0.8 * width)


@pytest.mark.parametrize("draw", SHAPES.values())
@pytest.mark.parametrize("full", [True, False])
def test_shapes_are_centred_as_wide_as_said_and_symmetric(draw, full):
    for width in WIDTHS:
        image = draw(width, full=full)
        assert image.shape == (1, SIDE, SIDE)
        assert set(np.unique(image)) == {0, 255}
        ys, xs = np.nonzero(image[0])
        low = (SIDE - width) // 2
        assert (ys.min(), xs.min(), ys.max(), xs.max()) == (low, low, *(2 * [low + width - 1]))
        box = image[0, low : low + width, low : low + width]
        for same in (box.T, box[::-1], box[:, ::-1]):
            np.testing.assert_array_equal(box, same)


@pytest.mark.parametrize("draw", SHAPES.values())
def test_areas_grow_with_the_width_and_emptiness_shows(draw):
    full, empty = ([area(draw(w, full=f)) for w in WIDTHS] for f in (True, False))
    assert np.all(np.diff(full) > 0)
    same_grid = [np.diff(empty[parity::2]) for parity in (0, 1)]  # pixels lie alike in these
    assert all(np.all(steps > 0) for steps in same_grid)
    assert all(e < 0.75 * f for e, f in zip(empty, full, strict=True))


def test_the_shape_is_what_labels_and_factors_say(store):
    for split in store.splits:
        source = store[split]
        rows = np.random.default_rng(0).integers(len(source), size=100)
        taken = source.take(rows)
        for name, draw in SHAPES.items():
            widths = source.factors[f"{name}_width"][rows]
            for image, width, label in zip(taken[name], widths, source.labels[rows], strict=True):
                np.testing.assert_array_equal(image, draw(int(width), full=bool(label)))


def test_half_of_the_rows_are_full(store):
    np.testing.assert_array_equal(np.bincount(store["train"].labels), [ROWS // 2, ROWS // 2])
    assert np.bincount(store["test"].labels).tolist() == [251, 250]


def test_rows_are_shuffled(store):
    labels = store["train"].labels
    changes = int((labels[1:] != labels[:-1]).sum())
    assert abs(changes - ROWS / 2) < 4 * math.sqrt(ROWS) / 2


def chi_square(table):
    """Pearson's statistic of independence in units of its standard deviation from its mean."""
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    return (((table - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


def test_widths_are_uniform_and_independent_of_class_and_of_each_other(store):
    source = store["train"]
    a, b = (source.factors[f"{name}_width"] - WIDTHS[0] for name in SHAPES)
    k = len(WIDTHS)
    for one, other, shape in (
        (a, source.labels, (k, 2)),
        (b, source.labels, (k, 2)),
        (a, b, (k, k)),
    ):
        table = np.zeros(shape)
        np.add.at(table, (one, other), 1)
        assert abs(chi_square(table)) < 4
    for widths in (a, b):
        counts = np.bincount(widths, minlength=k)
        assert len(counts) == k
        assert np.all(abs(counts - ROWS / k) < 5 * math.sqrt(ROWS / k))


def test_only_distinct_images_are_stored(store):
    for column in store["train"].columns().values():
        distinct = len(np.unique(column.values, axis=0))
        assert distinct == len(column.values) == 2 * len(WIDTHS)
        assert column.index is not None


def test_classes_and_factors_have_names(store):
    test = store["test"]
    assert [class_name(test, label) for label in (0, 1, 2)] == ["empty", "full", "class 2"]
    assert {f: factor_name(test, f) for f in test.factors} == {
        "square_width": "square width (pixels)",
        "circle_width": "circle width (pixels)",
    }
    assert store.info()["class_names"] == {"0": "empty", "1": "full"}


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    def built(name, seed):
        return BUILDER.build(tmp_path / name, seed=seed, rows=50, test_rows=20).read_bytes()

    assert built("a.h5", 3) == built("b.h5", 3)
    assert built("a.h5", 3) != built("b.h5", 4)


def test_the_splits_have_streams_of_their_own(tmp_path):
    """Test rows do not depend on how many rows there are for training, nor repeat them."""
    splits = []
    for rows in (50, 60):
        path = BUILDER.build(tmp_path / f"{rows}.h5", rows=rows, test_rows=50)
        with Store.open(path) as store:
            splits.append((store["train"].labels, store["test"].labels))
    np.testing.assert_array_equal(splits[0][1], splits[1][1])
    assert np.any(splits[0][0] != splits[0][1])


def test_the_published_size_is_the_default():
    assert {p.name: p.default for p in BUILDER.parameters} == {
        "rows": 200_000,
        "test_rows": 10_000,
    }
