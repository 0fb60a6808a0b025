"""Scores by what the columns of a table hold: against scikit-learn, and blind to codes."""

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.preprocessing import StandardScaler

from mvflow import JNF
from mvflow.core import ArraySource, Modality
from mvflow.evaluation import Evaluation, evaluate
from mvflow.evaluation.baselines import PENALTIES, Baselines
from mvflow.evaluation.predictive import Predictive, Table
from mvflow.evaluation.scoring import score
from mvflow.evaluation.summaries import prediction_means

GROUPS = [
    {"likelihood": {"kind": "normal", "scale": 1.0}, "columns": 2},
    {"likelihood": "bernoulli", "columns": 2},
    {"likelihood": "categorical", "classes": 4, "columns": 2},
    {"likelihood": "ordinal", "classes": 3, "columns": 2},
]
SPECS = [Modality("lab", (3,)), Modality("clinic", (8,), {"kind": "mixed", "groups": GROUPS})]
CLASSES = {2: 2, 3: 2, 4: 4, 5: 4, 6: 3, 7: 3}


def clinic(rows, seed):
    """Measurements, and numbers, answers, classes and grades that follow from them."""
    rng = np.random.default_rng(seed)
    lab = rng.normal(size=(rows, 3))
    numbers = lab[:, :2] + 0.3 * rng.normal(size=(rows, 2))
    yes = lab[:, :2] + 0.5 * rng.normal(size=(rows, 2)) > 0
    ways = np.random.default_rng(9).normal(size=(2, 3, 4))
    classes = (2 * np.einsum("ni,cik->nck", lab, ways) + rng.gumbel(size=(rows, 2, 4))).argmax(-1)
    grades = (lab[:, 1:, None] + 0.5 * rng.normal(size=(rows, 2, 1)) > [-0.5, 0.5]).sum(-1)
    table = np.column_stack([numbers, yes, classes, grades])
    return {"lab": lab.astype(np.float32), "clinic": table.astype(np.float32)}


def scored(train, test, specs=SPECS, gaps=()):
    """Scores of a model that draws other rows at random, beside those of baselines."""
    rng = np.random.default_rng(0)
    name, table = specs[1].name, Table.of(specs[1])
    true = test[name].astype(np.float64)
    for at in gaps:
        true[at] = np.nan
    draws = train[name][rng.integers(len(train[name]), size=(40, len(true)))]
    found = Predictive.of(table, draws, draws, np.zeros((40, len(true))), true)
    baselines = Baselines(ArraySource(train, specs), {}, [], 0, {name: table.coded})
    others = baselines.predict({"lab": test["lab"]}, ["lab"], [name])[name]
    options = {"draws": 40, "baseline_rows": len(true), "clusters": np.arange(len(true))}
    return score(table, ["lab"], true, found, others, **options)[0], found, others


def test_each_kind_has_the_scores_of_its_columns():
    train, test = clinic(600, 0), clinic(300, 1)
    gaps = [(slice(0, 40), 4), (slice(20, 90), 0), (slice(0, 9), 7)]
    found, predictive, others = scored(train, test, gaps=gaps)
    true = test["clinic"].astype(np.float64)
    for at in gaps:
        true[at] = np.nan
    known = np.isfinite(true)
    assert {kind: of.columns for kind, of in found.by_kind.items()} == dict.fromkeys(
        ("numbers", "yes or no", "classes", "grades"), 2
    )

    def mean(measure, predicted, columns):
        return np.mean([measure(true[known[:, i], i], predicted(i)[known[:, i]]) for i in columns])

    columns = dict(zip(found.by_kind, ((0, 1), (2, 3), (4, 5), (6, 7)), strict=True))
    for name, of in {"model": predictive, **others}.items():
        for kind, at in columns.items():
            scores = found.by_kind[kind]
            scores = scores.model if name == "model" else scores.baselines[name]
            if kind == "classes":
                assert scores.r2 is scores.rmse is None
            else:
                expected = mean(r2_score, lambda i, of=of: of.mean[:, i], at)
                assert scores.r2.mean == pytest.approx(expected, abs=1e-9)
            if kind == "numbers":
                assert scores.accuracy is None
                continue
            best = mean(accuracy_score, lambda i, of=of: of.classes[i].argmax(1), at)
            loss = np.mean(
                [
                    log_loss(
                        true[known[:, i], i],
                        of.classes[i][known[:, i]],
                        labels=range(CLASSES[i]),
                    )
                    for i in at
                ]
            )
            assert scores.accuracy.mean == pytest.approx(best)
            assert scores.log_loss.mean == pytest.approx(loss)
    ordered = [i for i in range(8) if i not in (4, 5)]
    expected = mean(r2_score, lambda i: predictive.mean[:, i], ordered)
    assert found.model.r2.mean == pytest.approx(expected, abs=1e-9)


def test_codes_of_classes_are_names():
    """Ridge regression of indicators is told nothing by the order of the classes."""
    train, test = clinic(400, 0), clinic(200, 1)
    first = scored(train, test)[0]
    for rows in (train, test):
        rows["clinic"][:, 4] = np.array([2, 0, 3, 1])[rows["clinic"][:, 4].astype(int)]
    second = scored(train, test)[0]
    assert second.model.r2 == first.model.r2
    for name in ("ridge", "neighbours", "constant"):
        one, other = (of.by_kind["classes"].baselines[name] for of in (first, second))
        assert one.accuracy.mean == pytest.approx(other.accuracy.mean, abs=0.006)  # ties
        assert one.log_loss.mean == pytest.approx(other.log_loss.mean, rel=1e-9)


def test_classes_of_the_baseline_are_those_of_a_regression_on_indicators():
    train, test = clinic(400, 0), clinic(200, 1)
    ridge = scored(train, test)[2]["ridge"]
    scaler = StandardScaler().fit(train["lab"].astype(np.float64))
    inputs = [scaler.transform(rows["lab"].astype(np.float64)) for rows in (train, test)]
    indicators = train["clinic"][:, [5]] == np.arange(4)
    fitted = RidgeCV(PENALTIES, alpha_per_target=True).fit(inputs[0], indicators)
    shares = np.clip(fitted.predict(inputs[1]), 0.01, 1)
    expected = shares / shares.sum(1, keepdims=True)
    np.testing.assert_allclose(ridge.classes[5], expected, rtol=1e-7)
    assert (ridge.classes[5].argmax(1) == test["clinic"][:, 5]).mean() > 0.6  # by chance .25


def test_a_table_of_classes_alone_is_compared_by_accuracy():
    spec = Modality("genes", (2,), {"kind": "categorical-columns", "classes": 4})
    train, test = clinic(400, 0), clinic(200, 1)
    for rows in (train, test):
        rows["genes"] = rows.pop("clinic")[:, 4:6]
    found = scored(train, test, [SPECS[0], spec])[0]
    assert found.measure == "accuracy"
    assert found.model.r2 is None
    assert found.model.accuracy == found.by_kind["classes"].model.accuracy
    assert found.winner in ("ridge", "neighbours")  # the model draws at random
    assert "accuracy" in found.sentence
    means = prediction_means([found])[1]
    assert means.accuracy["ridge"] == found.baselines["ridge"].accuracy
    assert means.by_kind["classes"] == means.accuracy


@pytest.mark.slow
def test_an_evaluation_has_scores_by_kind():
    """From training to JSON and back, with a likelihood that gives probabilities."""
    rows = clinic(100, 0)
    few = {"rows": 40, "prior_draws": 8, "importance_rows": 4, "sampler_rows": 2}
    short = {"epochs": 1, "batch_size": 64}
    model = JNF(SPECS, 2, joint=short, flows=short, evaluation=few).fit(rows)
    result = evaluate(model, clinic(50, 1), train=rows)
    kinds = result.predictions["lab->clinic"].by_kind
    assert [*kinds] == ["numbers", "yes or no", "classes", "grades"]
    # hardly trained: probabilities are near those of no knowledge
    assert abs(kinds["classes"].model.log_loss.mean - np.log(4)) < 0.3
    assert abs(kinds["yes or no"].model.log_loss.mean - np.log(2)) < 0.2
    assert Evaluation.from_dict(result.to_dict()).predictions["lab->clinic"].by_kind == kinds
