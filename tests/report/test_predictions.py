"""Tables in the page: scores beside baselines, columns by name, and a page of bounded length."""

import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest

from mvflow import JNF, ArraySource, Modality
from mvflow.evaluation.predictions import (
    ColumnScore,
    Interval,
    KindScores,
    Prediction,
    PredictionMeans,
    Scores,
)
from mvflow.metrics import Estimate
from mvflow.report import Entry, write_report
from mvflow.report.context import Context
from mvflow.report.figure_store import FigureStore
from mvflow.report.figures.predictions import predicted_against_true
from mvflow.report.sections.predictions import predictions
from mvflow.report.sections.samples import choose_rows
from mvflow.report.tables import MAX_NAMES

HOSTILE = "<img src=x onerror='a'>&"


def estimate(value):
    return Estimate(value, 0.01)


def prediction(given, target, r2, ridge, winner, columns=()):
    """A direction with known scores; intervals that hold half of what they claim."""
    intervals = {
        level: Interval(
            coverage=estimate(level / 2),
            width=1.0,
            calibrated_coverage=estimate(level),
            calibrated_width=2.0,
        )
        for level in (0.5, 0.9)
    }
    return Prediction(
        given=given,
        target=target,
        kind="numbers",
        rows=60,
        draws=20,
        width=5,
        model=Scores(r2=estimate(r2), intervals=intervals),
        baselines={"ridge": Scores(r2=estimate(ridge)), "neighbours": Scores(r2=estimate(0.1))},
        baseline_rows=80,
        measure="r2",
        differences={"ridge": estimate(r2 - ridge), "neighbours": estimate(r2 - 0.1)},
        winner=winner,
        sentence=f"{winner} predicts {target} best",
        columns=list(columns),
    )


@pytest.fixture(scope="module")
def tabular(three):
    """The model of three modalities, as if the curve were a table with known scores."""
    names = [HOSTILE, *(f"column {i}" for i in range(9))]
    columns = [
        ColumnScore(name=n, r2=0.1 * i, rmse=2.0 + i, correlation=0.5, coverage=0.45, width=1.0,
                    calibrated_coverage=0.9, baselines={"ridge": 0.2 * i})
        for i, n in enumerate(names)
    ]  # fmt: skip
    known = {
        "photo->curve": prediction(["photo"], "curve", 0.62, 0.81, "ridge"),
        "kind+photo->curve": prediction(["kind", "photo"], "curve", 0.7, 0.69, "tied", columns),
    }
    kinds = {
        "numbers": KindScores(
            columns=4,
            model=Scores(r2=estimate(0.41)),
            baselines={"ridge": Scores(r2=estimate(0.52))},
        ),
        "yes or no": KindScores(
            columns=2,
            model=Scores(r2=estimate(0.3), accuracy=estimate(0.93), log_loss=estimate(0.223)),
            baselines={"ridge": Scores(accuracy=estimate(0.84), log_loss=estimate(0.346))},
        ),
    }
    known["kind+photo->curve"] = known["kind+photo->curve"].model_copy(update={"by_kind": kinds})
    means = {
        1: PredictionMeans(
            directions=1,
            r2={"model": estimate(0.62), "ridge": estimate(0.81)},
            coverage={0.9: estimate(0.45)},
            calibrated_coverage={0.9: estimate(0.9)},
        )
    }
    metrics = three[0][0].metrics.model_copy(
        update={
            "predictions": known,
            "predictions_by_observed": means,
            "prediction_sentence": "Ridge predicts best in 1 of 2 directions.",
        }
    )
    return replace(three[0][0], metrics=metrics)


@pytest.fixture(scope="module")
def text(tabular, tmp_path_factory):
    path = write_report(tmp_path_factory.mktemp("tables") / "r.html", [tabular])
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def section(text):
    return text.split('<section id="predictions">')[1].split("</section>")[0]


def test_scores_stand_beside_the_best_baseline(section):
    beaten = section.split('class="number beaten"')[1].split("</td>")[0]
    assert "0.62 <small>ridge 0.81</small>" in beaten
    assert 'style="--shade: 0.62"' in beaten
    row = section.split('<th scope="row">all others</th>')[1].split("</tr>")[0]
    assert "0.70 <small>ridge 0.69</small>" in row
    assert "beaten" not in row
    row = section.split('<th scope="row">1 observed</th>')[1].split("</tr>")[0]
    for cell in ("0.620", "0.810", "45 %", "90 %"):
        assert f">{cell}</td>" in row
    assert "Ridge predicts best in 1 of 2 directions." in section


def test_columns_of_each_kind_have_their_own_measure(section):
    for title, cells in [
        ("4 of numbers <small>of curve</small>", ("R²", "0.41", "0.52")),
        (
            "2 of yes or no <small>of curve</small>",
            ("accuracy", "0.93", "0.84", "0.223 <small>best baseline 0.346</small>"),
        ),
    ]:
        row = section.split(f"{title}</th>")[1].split("</tr>")[0]
        assert re.findall(r"<td[^>]*>(.*?)</td>", row)[: len(cells)] == list(cells)


def test_the_worst_columns_are_named_and_escaped(section):
    assert HOSTILE not in section
    assert HOSTILE in unescape(section)
    assert "column 1" in section
    assert "column 2" not in section  # the worst three only


def test_figures_say_what_intervals_hold(section):
    assert "50 % hold 25 %, 90 % hold 45 %" in section
    assert "kind + photo → curve, R² 0.70" in section


def test_the_verdict_accounts_for_baselines_and_intervals(text, tabular):
    checks = {check.name: check for check in tabular.judgement.checks}
    assert checks["Baselines"].verdict == "do not trust"  # 0.09 behind on average
    assert "1 of 2 directions" in checks["Baselines"].value
    assert checks["Intervals"].verdict == "good"
    assert "(45 % before calibration)" in checks["Intervals"].value
    first = unescape(text.split('<p class="verdict">')[1].split("</p>")[0])
    assert checks["Baselines"].value in first


def test_absent_values_are_no_points_of_predicted_against_true(tabular, monkeypatch):
    """A store holds zeros in their place, which would be a stripe at true = 0."""
    shown = []
    monkeypatch.setattr(
        "mvflow.report.sections.predictions.predicted_against_true",
        lambda points: shown.append((points, predicted_against_true(points))) or shown[-1][1],
    )
    of = tabular.test
    x = of.take(np.arange(len(of)))
    arrays = {name: x[name] for name in ("photo", "curve", "kind")}
    mask = np.random.default_rng(0).random(x["curve"].shape) < 0.7
    test = ArraySource(arrays, of.modalities, labels=of.labels, present={"curve": mask})
    predictions(Context((replace(tabular, test=test),), FigureStore()))
    (((points,), figure),) = shown
    x = test.take(choose_rows(test, 60, 0))
    known = x["present/curve"].ravel()
    np.testing.assert_array_equal(np.isfinite(points.true), known)
    np.testing.assert_allclose(points.true[known], x["curve"].ravel()[known])
    (drawn,) = figure.axes[0].collections
    np.testing.assert_allclose(drawn.get_offsets()[:, 0], points.true[known])
    assert not (points.true == 0).any()


def test_columns_of_a_table_are_no_pictures(text):
    samples = text.split('<section id="samples">')[1].split("</section>")[0]
    assert "→ curve</h3>" not in samples
    assert "→ photo</h3>" in samples


@pytest.mark.slow
def test_a_page_on_many_modalities_is_bounded(tmp_path):
    """Of 16 modalities there are half a million directions."""
    names, rng = [f"m{j}" for j in range(16)], np.random.default_rng(0)
    arrays = {name: rng.normal(size=(40, 3)).astype(np.float32) for name in names}
    source = ArraySource(arrays, [Modality(n, (3,)) for n in names])
    model = JNF(
        source.modalities, 2, posterior="gaussian", joint={"epochs": 1}, flows={"epochs": 1},
        sampler={"kind": "hmc", "chains": 1, "warmup": 1, "draws": 8, "num_steps": 1},
    ).fit(source)  # fmt: skip
    path = write_report(tmp_path / "r.html", [Entry("many", model, source, [], {}, {}, None)])
    page = path.read_text("utf-8")
    assert page.count("<h3>all 15 others → ") == MAX_NAMES
    assert page.count("<img") <= MAX_NAMES + 4
    assert len(page) < 3e6
