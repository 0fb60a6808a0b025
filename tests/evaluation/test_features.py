"""What noise alone makes of distances: real rows in the place of generated ones."""

import numpy as np
import pytest

from mvflow.config import EvaluationSettings
from mvflow.core import ArraySource
from mvflow.evaluation.features import FeatureComparison
from mvflow.evaluation.rows import EvaluationRows
from mvflow.functional import frechet_distance

WIDTH = 6


class Values:
    """Features of one's own: the values themselves."""

    name = "values"

    def features(self, name, x):
        return np.asarray(x, np.float64)


def comparison(source, rows, compared):
    settings = EvaluationSettings(rows=rows, prior_draws=rows)
    chosen = EvaluationRows.of(len(source), settings, 0)
    return FeatureComparison(
        source.modalities, source, chosen, [Values()], None, compared, lambda at: at, False
    )


def repeated(items, times, rng):
    """Rows of which each item is shown several times."""
    positions = rng.permutation(np.repeat(np.arange(items), times))
    return ArraySource({"a": rng.normal(size=(items, WIDTH))}, pairs={"a": positions})


def moments(x):
    return x.mean(0), np.cov(x, rowvar=False)


def of_a_perfect_generator(source, at, compared, rng, repeats=10):
    """Mean distance that so many draws of the true distribution have from the real rows."""
    real = moments(source.take(at)["a"])
    made = (moments(rng.normal(size=(compared, WIDTH))) for _ in range(repeats))
    return np.mean([frechet_distance(*one, *real) for one in made])


@pytest.mark.parametrize(
    ("items", "times", "rows", "compared", "is_apart"),
    [
        (800, 1, 600, 600, False),  # the rows conditioned on are in the reference
        (800, 4, 2400, 600, False),
        (800, 4, 2400, 200, False),
        (300, 4, 500, 500, True),  # they are not, but their items are
        (800, 1, 300, 300, True),
    ],
)
def test_the_floor_is_what_a_perfect_generator_would_score(items, times, rows, compared, is_apart):
    """Means of 20 data sets differ by less than a sixth; by a third or more where halves are not
    scaled, or rows in both sets show the same items."""
    floors, perfect = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        source = repeated(items, times, rng)
        compares = comparison(source, rows, compared)
        assert compares.rows.is_apart == is_apart
        floors.append(compares.real()["a"]["values"].distance.value)
        at = compares.rows.reference
        perfect.append(of_a_perfect_generator(source, at, compared, rng))
    assert np.mean(floors) == pytest.approx(np.mean(perfect), rel=1 / 6)


def test_few_items_have_no_floor_where_no_rows_are_apart():
    assert comparison(repeated(4 * WIDTH, 8, np.random.default_rng(0)), 190, 190).real() == {}
