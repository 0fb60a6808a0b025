"""Pen strokes against geometry: lengths, areas and distances that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mvflow.core import DataError
from mvflow_datasets.strokes import SIDE, read_unipen, render, sheared, trajectory

POINTS = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 9), st.just(2)), elements=st.integers(-50, 50)
)


def inked(strokes):
    return any(np.hypot(*np.diff(s, axis=0).T).sum() > 0 for s in strokes)


DRAWN = st.lists(POINTS, min_size=1, max_size=4).filter(inked)
DIGIT = """
.SEGMENT DIGIT    0-1 ? "4"
.COMMENT 4  7  138
.PEN_DOWN
 10  30
 20  10
.PEN_UP
.DT 100
.PEN_DOWN
 15  5
.PEN_UP
.DT 100
"""


def test_a_digit_is_read_with_its_writer_and_y_turned_down(tmp_path):
    (tmp_path / "two").write_text(".LEXICON\n" + DIGIT + DIGIT)
    drawings = read_unipen(tmp_path / "two")
    assert [(d.label, d.writer) for d in drawings] == 2 * [(4, 7)]
    for found, expected in zip(
        drawings[1].strokes, ([[10, -30], [20, -10]], [[15, -5]]), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


BAD = {
    "no digits": (lambda t: "hello", "no '.SEGMENT DIGIT'"),
    "cut off": (lambda t: t[: t.rindex(".PEN_UP")], "digit 2 of 2: a stroke is cut off"),
    "cut off at a number": (lambda t: t[: t.rindex("5")], "digit 2 of 2: a stroke is cut off"),
    "cut off at the head": (lambda t: t[: t.rindex("138")], "digit 2 of 2: expected its class"),
    "letters": (lambda t: t.replace("30", "x0"), "digit 1 of 2: a stroke is cut off or"),
    "odd": (lambda t: t.replace(" 30", ""), "a stroke has 3 numbers: expected pairs"),
    "an empty stroke": (lambda t: t.replace(" 15  5\n", ""), "a stroke has 0 numbers"),
    "no ink": (lambda t: t.replace(" 20  10", " 10 30"), "it has no ink"),
    "no strokes": (lambda t: t.replace(".PEN_", ".X"), "it has no ink"),
    "two classes": (lambda t: t.replace('"4"', '"5"'), "a comment with that class"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("damage", BAD)
def test_damaged_text_is_named_with_its_digit(tmp_path, damage):
    spoil, pattern = BAD[damage]
    (tmp_path / "two").write_text(spoil(DIGIT + DIGIT))
    with pytest.raises(DataError, match=pattern) as caught:
        read_unipen(tmp_path / "two")
    assert str(tmp_path / "two") in str(caught.value)


def test_points_of_a_straight_line_are_equally_far_apart():
    line = np.array([[3.0, 8], [5, 4], [5.5, 3], [7, 0]])
    x, y = trajectory([line], 9).reshape(2, -1)
    np.testing.assert_allclose(x, 0.25 + np.linspace(0, 0.5, 9), atol=1e-12)
    np.testing.assert_allclose(y, np.linspace(1, 0, 9), atol=1e-12)


def test_a_circle_is_passed_at_constant_speed():
    angle = np.linspace(0, 2 * np.pi, 1001) ** 2 / (2 * np.pi)  # points are not evenly spaced
    x, y = trajectory([np.stack([np.cos(angle), np.sin(angle)], axis=1)]).reshape(2, -1)
    even = np.linspace(0, 2 * np.pi, 100)
    np.testing.assert_allclose(x, 0.5 + np.cos(even) / 2, atol=1e-4)
    np.testing.assert_allclose(y, 0.5 + np.sin(even) / 2, atol=1e-4)


@given(strokes=DRAWN, scale=st.sampled_from([0.5, 4.0]), shift=st.integers(-99, 99))
def test_a_trajectory_is_the_same_anywhere_and_at_any_size(strokes, scale, shift):
    found = trajectory(strokes)
    assert found.shape == (200,)
    assert 0 <= found.min() <= found.max() <= 1
    moved = trajectory([s * scale + shift for s in strokes])
    np.testing.assert_allclose(moved, found, atol=1e-9)


@given(strokes=DRAWN)
def test_points_lie_on_the_strokes_and_not_in_the_air(strokes):
    low, high = (f(np.concatenate(strokes), axis=0) for f in (np.min, np.max))
    points = trajectory(strokes).reshape(2, -1).T
    points = (points - 0.5) * (high - low).max() + (low + high) / 2
    gaps = [to_segment(points, a, b) for s in strokes for a, b in zip(s[:-1], s[1:], strict=True)]
    assert np.min(gaps, axis=0).max() < 1e-9 * 100


def to_segment(points, a, b):
    """Distance by cases: beyond one end, beyond the other, or beside."""
    u = b - a
    if not u.any():
        return np.hypot(*(points - a).T)
    beside = abs(u[0] * (points - a)[:, 1] - u[1] * (points - a)[:, 0]) / np.hypot(*u)
    out = np.where((points - a) @ u < 0, np.hypot(*(points - a).T), beside)
    return np.where((points - b) @ u > 0, np.hypot(*(points - b).T), out)


@given(strokes=DRAWN, width=st.floats(0.03, 0.3))
def test_pixels_are_as_bright_as_their_distance_says(strokes, width):
    low, high = (f(np.concatenate(strokes), axis=0) for f in (np.min, np.max))
    image = render(strokes, width)
    assert (image.shape, image.dtype) == ((1, SIDE, SIDE), np.uint8)
    extent = (high - low).max()
    pixel = 1.6 * extent * (1 + width) / SIDE
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    centres = np.stack([x.ravel(), y.ravel()], axis=1) * pixel + (low + high) / 2
    pairs = [(a, b) for s in strokes for a, b in zip(s, [*s[1:], s[-1]], strict=True)]
    gap = np.min([to_segment(centres, a, b) for a, b in pairs], axis=0) / pixel
    expected = 255 * np.clip(width * extent / pixel / 2 + 0.5 - gap, 0, 1)
    np.testing.assert_allclose(image.ravel(), expected, atol=0.6)


@pytest.mark.parametrize("width", [0.06, 0.1, 0.15])
@pytest.mark.parametrize("turned", [False, True])
def test_the_ink_of_a_line_has_its_area_and_the_margin_is_black(width, turned):
    line = np.array([[0.0, 0], [40, 0]])
    image = render([line[:, ::-1] if turned else line], width)[0] / 255
    length = SIDE / 1.6 / (1 + width)
    thick = width * length
    area = thick * length + np.pi * thick**2 / 4
    assert image.sum() == pytest.approx(area, rel=0.05)
    image = image.T if turned else image
    np.testing.assert_allclose(image.sum(axis=0)[9:19], thick, rtol=0.01)
    assert not image[:, :5].any()
    assert not image[:, -5:].any()
    for mirrored in (image[::-1], image[:, ::-1]):
        np.testing.assert_allclose(mirrored, image, atol=1 / 255)


@given(strokes=DRAWN, angle=st.floats(-3, 3))
def test_turning_keeps_all_lengths(strokes, angle):
    for before, after in zip(strokes, sheared(strokes, angle, 0.0), strict=True):
        np.testing.assert_allclose(np.hypot(*after.T), np.hypot(*before.T), rtol=1e-9, atol=1e-9)


def test_a_right_turn_goes_from_right_to_down():
    (turned,) = sheared([np.array([[1.0, 0]])], np.pi / 2, 0.0)
    np.testing.assert_allclose(turned, [[0, 1]], atol=1e-12)
