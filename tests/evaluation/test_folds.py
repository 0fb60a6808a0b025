"""Cross-validation: every row once, by a model that has not seen it; scores of all together."""

import numpy as np
import pytest

from mvflow.config import config_from_dict, resolved
from mvflow.config.auto import auto_config
from mvflow.core import ArraySource, Modality, SelectedRows, UsageError
from mvflow.evaluation import folds as module
from mvflow.evaluation.folds import cross_validate, folds_of
from mvflow.metrics import r_squared

ROWS = 40


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(ROWS, 2))
    x = {n: z @ rng.normal(size=(2, d)) + 0.2 * rng.normal(size=(ROWS, d)) for n, d in WIDTHS}
    return {n: v.astype(np.float32) for n, v in x.items()}


WIDTHS = (("a", 3), ("b", 2))


def config(rows, *changes):
    raw = auto_config(ArraySource(rows).modalities, ROWS)
    return config_from_dict(resolved(raw, ["joint.epochs=0", *changes]))


def test_folds_are_even_and_divide_no_item():
    source = ArraySource(
        {"a": np.ones((9, 1)), "b": np.ones((18, 1))},
        pairs={"a": np.arange(18) // 2, "b": np.arange(18)},
    )
    of = folds_of([source, source], 3, seed=1)
    assert (np.bincount(of) == 12).all()
    assert (of.reshape(-1, 2)[:, 0] == of.reshape(-1, 2)[:, 1]).all()
    assert (folds_of([source, source], 3, seed=1) == of).all()


@pytest.mark.bad_input
def test_too_few_or_too_many_rows_are_refused(monkeypatch):
    source = ArraySource({"a": np.ones((5, 1))})
    with pytest.raises(UsageError, match="5 rows of 5 items cannot be divided into 3 folds"):
        folds_of([source], 3, seed=0)
    monkeypatch.setattr(module, "MAX_FOLD_ROWS", 4)
    with pytest.raises(UsageError, match="more than the 4 that are cross-validated"):
        folds_of([source], 2, seed=0)


def test_scores_are_those_of_all_rows_by_models_that_have_not_seen_them(rows):
    """R² of the model and of ridge regression, fold by fold by hand, then together."""
    from sklearn.linear_model import RidgeCV

    from mvflow.estimators import estimator_class

    source = ArraySource(rows)
    settings = config(rows)
    result, intervals = cross_validate(settings, [source], folds=4, seed=0)
    of, drawn, ridge = folds_of([source], 4, 0), np.empty((ROWS, 2)), np.empty((ROWS, 2))
    for k in range(4):
        train = {n: x[of != k] for n, x in rows.items()}
        model = estimator_class("jnf").from_config(settings).fit(train)
        given = {"a": rows["a"][of == k]}
        drawn[of == k] = model.generate(given, 2000, noise=False, seed=5)["b"].mean(0)
        mean, std = train["a"].mean(0), train["a"].std(0)
        fitted = RidgeCV(np.logspace(-3, 3, 13)).fit((train["a"] - mean) / std, train["b"])
        ridge[of == k] = fitted.predict((given["a"] - mean) / std)
    found = result.predictions["a->b"]
    assert (result.rows, found.rows, result.folds) == (ROWS, ROWS, 4)
    # 100 draws of the posterior in place of 2,000
    assert found.model.r2.mean == pytest.approx(r_squared(rows["b"], drawn).mean(), abs=0.03)
    assert found.baselines["ridge"].r2.mean == pytest.approx(
        r_squared(rows["b"], ridge).mean(), abs=0.02
    )
    margin = intervals.margin("b", ["a"], 0.9)
    assert np.isfinite(margin).all()
    assert margin.shape == (2,)


def test_models_are_kept_and_not_trained_again_unless_rows_changed(rows, tmp_path, monkeypatch):
    from mvflow.estimators import fitting

    source = ArraySource(rows)
    cross_validate(config(rows), [SelectedRows(source, range(30))], folds=2, path=tmp_path)
    first, _ = cross_validate(config(rows), [source], folds=2, path=tmp_path)
    assert first == cross_validate(config(rows), [source], folds=2)[0]
    monkeypatch.setattr(fitting, "open_stage", lambda *_, **__: pytest.fail("trained again"))
    again, _ = cross_validate(config(rows), [source], folds=2, path=tmp_path)
    assert again == first


def test_bits_of_a_store_are_scored_as_numbers_from_0_to_1(rows):
    bits = (255 * (rows["b"] > 0)).astype(np.uint8)
    specs = [Modality("a", (3,)), Modality("b", (2,), "bernoulli")]
    source = ArraySource({"a": rows["a"], "b": bits}, specs)
    changes = ["joint.epochs=0", "subset=kernel"]
    settings = config_from_dict(resolved(auto_config(specs, ROWS), changes))
    found = cross_validate(settings, [source], folds=2, seed=0)[0].predictions["a->b"]
    # the mean of one half of 40 rows, as a prediction of the other: R² a little below 0
    assert -0.5 < found.baselines["constant"].r2.mean <= 0
    assert found.baselines["ridge"].r2.mean > 0.15  # of bits, whose noise is large
