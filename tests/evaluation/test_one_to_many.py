"""Agreement of several targets given one modality: exact where the generator is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from mvflow.config import EvaluationSettings
from mvflow.core import ArraySource, Modality
from mvflow.evaluation.generation import Generation
from mvflow.evaluation.one_to_many import agreement_on_targets, one_to_many
from mvflow.evaluation.parts import OneToManyPart
from mvflow.evaluation.rows import EvaluationRows
from mvflow.inference.diagnostics import exact

CLASSES = 4


class Judges:
    name = "classifier"

    def predict(self, name, x):
        return np.asarray(x)[..., 0].round().astype(int)


class Model:
    """Draws of a class that the given modality leaves open.

    Args:
        shares: whether all targets show the class of z, or each one of its own.
        known: whether the given modality tells the class.
        exact: draws run through the classes, so that no two of a row are alike; else random.
    """

    def __init__(self, names, *, shares, known=False, exact=True):
        self.modalities = [Modality(name, (1, 1)) for name in names]
        self.shares, self.known, self.exact = shares, known, exact
        self.rng = np.random.default_rng(0)

    def draw(self, given, n, *, seed):
        [x] = given.values()
        rows = len(x)
        if self.known:
            z = np.broadcast_to(x, (n, rows, 1))
        elif self.exact:
            z = (np.arange(n)[:, None, None] + np.arange(rows)[:, None]) % CLASSES
        else:
            z = self.rng.integers(CLASSES, size=(n, rows, 1))
        return SimpleNamespace(z=z, diagnostics=exact())

    def decode(self, z, names, *, covariates=None):
        own = {name: 0 if self.shares else int(name[1:]) for name in names}
        if not self.shares and not self.exact:
            return {name: self.rng.integers(CLASSES, size=z.shape) for name in names}
        return {name: (z + own[name]) % CLASSES for name in names}


def measured(model, rows=4000):
    names = [m.name for m in model.modalities]
    labels = np.arange(rows) % CLASSES
    x = {name: labels[:, None].astype(np.float32) for name in names}
    model.config = SimpleNamespace(evaluation=EvaluationSettings(rows=rows, product_rows=rows))
    test = ArraySource(x, labels=labels)
    chosen = EvaluationRows.of(rows, model.config.evaluation, 0)
    of = Generation(model, test, chosen, Judges(), [], 0)
    return agreement_on_targets(one_to_many(of), of.clusters)


NAMES = ["m0", "m1", "m2"]


def test_targets_that_share_what_is_left_open_always_agree():
    found = measured(Model(NAMES, shares=True))
    assert set(found.together) == set(NAMES)
    assert {e.mean for e in found.together.values()} == {found.together_mean.mean} == {1.0}
    assert {e.mean for e in found.apart.values()} == {found.apart_mean.mean} == {0.0}
    assert (found.shared.mean, found.shared.standard_error) == (1.0, 0.0)
    assert found.chance_mean == pytest.approx(1 / CLASSES)


def test_targets_that_share_nothing_never_agree():
    found = measured(Model(NAMES, shares=False))
    assert found.together_mean.mean == 0.0
    assert found.together_mean.standard_error == 0.0


def test_what_the_given_modality_tells_is_no_merit_of_the_draw():
    found = measured(Model(NAMES, shares=True, known=True))
    assert found.together_mean.mean == found.apart_mean.mean == 1.0
    assert found.shared is None


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("shares", [True, False])
def test_random_classes_agree_by_chance_alone(count, shares):
    """Of N targets with classes of their own a share of classes^(1 - N) agrees."""
    found = measured(Model([f"m{i}" for i in range(count)], shares=shares, exact=False))
    chance = CLASSES ** (2 - count)
    assert found.chance_mean == pytest.approx(chance, rel=0.1)
    assert abs(found.apart_mean.mean - chance) < 4 * found.apart_mean.standard_error
    if shares:
        assert (found.together_mean.mean, found.shared.mean) == (1.0, 1.0)
        return
    assert abs(found.together_mean.mean - chance) < 4 * found.together_mean.standard_error
    assert abs(found.shared.mean) < 4 * found.shared.standard_error


def test_the_error_of_the_share_is_that_of_draws_anew():
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        open_ = rng.random(300) < 0.6  # what separate draws do not agree on
        agrees = ~open_ | (rng.random(300) < 0.5)
        part = OneToManyPart(
            together={"a": agrees.tolist()}, apart={"a": (~open_).tolist()}, chance={"a": 0.1}
        )
        found.append(agreement_on_targets(part, np.arange(300)).shared)
    means = np.array([e.mean for e in found])
    assert abs(means.mean() - 0.5) < 4 * means.std() / 20
    # a deviation of 400 values is known to 4 %
    assert np.mean([e.standard_error for e in found]) == pytest.approx(means.std(ddof=1), rel=0.15)


def test_two_modalities_have_one_target_and_no_such_number():
    assert measured(Model(["m0", "m1"], shares=True)) is None
