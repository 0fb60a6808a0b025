"""Precision and recall: a brute-force reference, exact laws, known limits, errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvflow.core import UsageError
from mvflow.functional import inside_balls, neighbour_radii, squared_distances
from mvflow.metrics import NEIGHBOURS, Manifold, precision_and_recall


def means(real, made):
    both = precision_and_recall(Manifold(real), Manifold(made))
    return [found.estimate().mean for found in both]


def by_brute_force(centres, rows, k):
    """Share of rows within the k-th neighbour's distance of any centre, pair by pair."""
    inside = 0
    for row in rows:
        for i, centre in enumerate(centres):
            others = [np.linalg.norm(centre - c) for j, c in enumerate(centres) if j != i]
            if np.linalg.norm(row - centre) <= sorted(others)[k - 1]:
                inside += 1
                break
    return inside / len(rows)


@given(st.integers(1, 6), st.integers(0, 99))
def test_equals_brute_force(d, seed):
    rng = np.random.default_rng(seed)
    real, made = rng.normal(size=(20, d)), 0.7 * rng.normal(size=(15, d)) + 0.5
    precision, recall = means(real, made)
    assert precision == by_brute_force(real, made, NEIGHBOURS)
    assert recall == by_brute_force(made, real, NEIGHBOURS)


@pytest.mark.parametrize("d", [1, 5, 40])
def test_a_new_row_of_one_distribution_lies_in_k_balls_on_average(xp, d):
    """Among n rows each is as likely as any other to be the j-th neighbour of a centre."""
    rng, n, k, counts = np.random.default_rng(0), 60, 3, []
    for _ in range(60):
        real, made = (xp.asarray(rng.normal(size=(n, d))) for _ in range(2))
        radii = neighbour_radii(squared_distances(real, real), k)
        counts.append(float(np.sum(np.asarray(squared_distances(made, real) <= radii[None, :]))))
    counts = np.array(counts) / n
    assert abs(counts.mean() - k) < 4 * counts.std() / len(counts) ** 0.5


def test_on_a_line_balls_to_the_nearest_neighbour_hold_three_quarters():
    """Outside: the gap on either side is smaller than the way to that neighbour, each with 1/2."""
    rng = np.random.default_rng(0)
    real, made = rng.random((2, 4000, 1))
    radii = neighbour_radii(squared_distances(real, real), 1)
    share = inside_balls(squared_distances(made, real), radii).mean()
    # the variance of a share of 4000 rows, twice it for that of the centres
    assert abs(share - 0.75) < 4 * (2 * 0.75 * 0.25 / 4000) ** 0.5


def test_more_neighbours_hold_all_of_the_same_distribution():
    real, made = np.random.default_rng(0).normal(size=(2, 500, 3))
    apart, within = squared_distances(made, real), squared_distances(real, real)
    shares = [inside_balls(apart, neighbour_radii(within, k)).mean() for k in (1, 3, 30, 200)]
    assert shares == sorted(shares)
    assert shares[-1] > 0.99


def test_distributions_apart_have_none_and_equal_rows_all():
    rows = np.random.default_rng(0).normal(size=(100, 2))
    assert means(rows, rows + 100) == [0.0, 0.0]
    assert means(rows, rows) == [1.0, 1.0]
    assert means(np.ones((20, 3)) / 3, np.ones((20, 3)) / 3) == [1.0, 1.0]  # all radii are zero


def test_a_generator_that_drops_a_mode_loses_recall_alone():
    """Two modes of 200 rows, a hundred apart: one of them is made, as well as can be."""
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 100
    made = rng.normal(size=(400, 2))
    precision, recall = means(np.concatenate([near, far]), made)
    floor, _ = means(near, made)
    assert precision == floor > 0.8
    assert recall <= 0.5
    kept, _ = means(made, near)
    assert recall == pytest.approx(kept / 2)


def test_both_change_places_with_the_sets_and_depend_on_no_frame():
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(80, 4)), rng.normal(size=(80, 4)) * 0.6
    precision, recall = means(real, made)
    assert means(made, real) == [recall, precision]
    turned = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    moved = [7 * rows @ turned + 30 for rows in (real, made)]
    assert means(*moved) == pytest.approx([precision, recall], abs=1.5 / 80)  # ties may turn


def test_the_error_is_that_of_both_sets():
    """Standard deviation over sets drawn anew; jackknives of ten blocks are known to a quarter."""
    rng, found = np.random.default_rng(0), []
    for _ in range(80):
        real, made = rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) * 0.5
        both = precision_and_recall(Manifold(real), Manifold(made))
        found.append([(e.mean, e.standard_error) for e in (b.estimate() for b in both)])
    found = np.array(found)
    recall = found[:, 1]
    assert recall[:, 0].std(ddof=1) == pytest.approx(recall[:, 1].mean(), rel=0.4)
    assert found[:, 0, 0].std(ddof=1) < 2 * found[:, 0, 1].mean() + 0.01


def test_rows_of_one_cluster_are_left_out_together():
    rows = np.repeat(np.random.default_rng(0).normal(size=(40, 2)), 3, 0)
    clusters = np.repeat(np.arange(40), 3)
    manifold = Manifold(rows, clusters)
    for block in range(10):
        assert set(clusters[~manifold.kept(block)]) == set(range(block, 40, 10))


@pytest.mark.bad_input
def test_too_few_rows_are_refused():
    with pytest.raises(UsageError, match="3 rows have no 3-th nearest neighbour: give more"):
        Manifold(np.zeros((3, 1))).radii(None)
