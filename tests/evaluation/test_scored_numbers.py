"""Scores of predicted numbers in closed form."""

import numpy as np
import pytest

from mvflow.core import Units
from mvflow.evaluation.predictive import LEVELS, Predictive, Table
from mvflow.evaluation.scored_numbers import ScoredNumbers
from mvflow.likelihoods.base import ColumnValues

ROWS = 400


@pytest.mark.parametrize(("kind", "width"), [("counts", 5), ("numbers", 9), ("grades", 3)])
def test_widths_are_those_of_values_that_a_column_can_hold(kind, width):
    """Half of the rows lie 4 above the interval [0, 1]: widened by 4 it is [-4, 5]."""
    y = np.where(np.arange(ROWS) % 2, 5.0, 0.0)[:, None]
    table = Table("x", "numbers", 1, Units(), (ColumnValues(kind, 4 * (kind == "grades")),))
    ends = np.broadcast_to(np.array([0.0, 1.0])[:, None, None], (len(LEVELS), 2, ROWS, 1))
    found = Predictive(y, ends, np.zeros_like(y), np.zeros(ROWS))
    scores, (column,), _ = ScoredNumbers(table, y, np.arange(ROWS)).model(found, {})
    assert column.calibrated_width == width
    interval = scores.intervals[0.9]
    assert interval.calibrated_width == pytest.approx(width / y.std())
    assert interval.width == pytest.approx(1 / y.std())
