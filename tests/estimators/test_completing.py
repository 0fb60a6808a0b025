"""Completions of rows: of what each lacks, given what it has, distributed as the model says."""

import numpy as np
import pytest

from mvflow import ArraySource, Covariate, Modality
from mvflow.core import DataError, UsageError
from mvflow.estimators.completing import ROWS, completions

SPECS = (Modality("a", (1,)), Modality("b", (1,)), Modality("c", (2,)))
LOADINGS = np.array([[1.0, 0.5], [0.3, -1.0], [0.8, 0.8], [-0.5, 1.0]])
COVARIANCE = LOADINGS @ LOADINGS.T + 0.3 * np.eye(4)
PLACES = {"a": [0], "b": [1], "c": [2, 3]}


class ExactModel:
    """Draws of a Gaussian vector's parts given others, in closed form."""

    def __init__(self):
        self.calls = []

    def generate(self, given, n, *, targets, noise, seed):
        self.calls.append((given, tuple(targets), seed))
        self.noise = noise
        seen = [i for name in sorted(PLACES) if name in given for i in PLACES[name]]
        wanted = [i for name in targets for i in PLACES[name]]
        x = np.concatenate([given[name] for name in sorted(PLACES) if name in given], 1)
        gain = COVARIANCE[np.ix_(wanted, seen)] @ np.linalg.inv(COVARIANCE[np.ix_(seen, seen)])
        spread = COVARIANCE[np.ix_(wanted, wanted)] - gain @ COVARIANCE[np.ix_(seen, wanted)]
        noises = np.random.default_rng(seed).multivariate_normal(0 * spread[0], spread, len(x))
        drawn, out, start = x @ gain.T + noises, {}, 0
        for name in targets:
            out[name] = drawn[None, :, start : start + len(PLACES[name])]
            start += len(PLACES[name])
        return out


def incomplete(rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.multivariate_normal(np.zeros(4), COVARIANCE, rows)
    has = rng.random((rows, 3)) < 0.5
    has[~has.any(1), 0] = True
    arrays = {name: x[:, at].astype(np.float32) for name, at in PLACES.items()}
    present = {name: has[:, i] for i, name in enumerate(PLACES)}
    for name, mask in present.items():
        arrays[name][~mask] = np.nan  # never read
    return arrays, present


def test_completed_rows_have_the_covariance_of_complete_ones():
    rows = 20_000
    arrays, present = incomplete(rows)
    drawn = completions(ExactModel(), ArraySource(arrays, SPECS, present=present), seed=3)
    for name, (at, values) in drawn.items():
        np.testing.assert_array_equal(at, np.flatnonzero(~present[name]))
        assert not np.isfinite(arrays[name][at]).any()
        arrays[name][at] = values
    full = np.concatenate([arrays[name] for name in PLACES], 1)
    # The standard error of a covariance of n Gaussian rows is below sqrt(2 v v' / n).
    scale = np.sqrt(2 * np.outer(np.diag(COVARIANCE), np.diag(COVARIANCE)) / rows)
    assert (np.abs(np.cov(full.T) - COVARIANCE) < 5 * scale).all()


def test_what_is_absent_is_not_given_and_covariates_are():
    arrays, present = incomplete(ROWS + 500)
    batch = np.arange(ROWS + 500) % 2
    source = ArraySource(arrays, SPECS, present=present, covariates={"batch": batch})
    model = ExactModel()
    drawn = completions(model, source, ["b"])
    assert list(drawn) == ["b"]
    for given, targets, _ in model.calls:
        assert targets == ("b",)
        assert "b" not in given
        assert "covariates/batch" in given
        assert all(np.isfinite(given[n]).all() for n in PLACES if n in given)
        assert len(given["covariates/batch"]) <= ROWS
    assert len({seed for *_, seed in model.calls}) == len(model.calls)
    assert Covariate.of("batch", batch).levels == ("0", "1")


def test_draws_follow_from_the_seed_alone():
    arrays, present = incomplete(300)
    source = ArraySource(arrays, SPECS, present=present)
    first, same, other = (completions(ExactModel(), source, seed=s)["c"][1] for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_complete_rows_get_nothing_and_unknown_targets_are_named():
    arrays = {name: np.zeros((3, len(at))) for name, at in PLACES.items()}
    source = ArraySource(arrays, SPECS)
    assert completions(ExactModel(), source) == {}
    with pytest.raises(UsageError, match="'d'"):
        completions(ExactModel(), source, ["d"])


def test_classes_and_counts_are_drawn_where_means_are_asked_for():
    specs = (*SPECS[:1], Modality("b", (1,), "poisson"), Modality("c", (2,), "bernoulli"))
    arrays, present = incomplete(50)
    source = ArraySource(
        {"a": arrays["a"], "b": np.ones((50, 1)), "c": np.ones((50, 2))}, specs, present=present
    )
    for noise, expected in (
        (False, {"a": False, "b": True, "c": False}),
        (True, {"a": True, "b": True, "c": True}),
        (None, {"b": True}),
    ):
        model = ExactModel()
        for name, chosen in expected.items():
            completions(model, source, [name], noise=noise)
            assert model.noise == {name: chosen}
    completions(model, source, ["a"])
    assert model.noise == {}  # as the likelihood has it


def test_more_than_fits_into_memory_is_refused_before_anything_is_drawn(monkeypatch):
    from mvflow.core import memory

    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 24)
    wide = Modality("wide", (50_000,))
    has = np.arange(100) < 1
    values = np.broadcast_to(np.float32(1), (100, 50_000))
    source = ArraySource(
        {"a": np.ones((100, 1)), "wide": values}, (SPECS[0], wide), present={"wide": has}
    )
    model = ExactModel()
    with pytest.raises(DataError, match="of memory"):
        completions(model, source)
    assert not model.calls
