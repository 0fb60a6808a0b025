"""The section on calibration: true to the diagnosis, absent without one."""

from dataclasses import replace

import pytest

from mvflow.evaluation import check_calibration
from mvflow.report import write_report


@pytest.fixture(scope="module")
def diagnosed(two):
    return [
        replace(e, calibration=check_calibration(e.estimator, rows=40, draws=19)) for e in two[0]
    ]


@pytest.fixture(scope="module")
def text(diagnosed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    path = write_report(folder / "r.html", diagnosed, figures=folder / "figures")
    stems = {p.stem for p in (folder / "figures").iterdir()}
    assert {f"calibration-{what}-plain" for what in ("ranks", "coverage")} <= stems
    return path.read_text("utf-8")


def test_every_subset_has_its_verdict_and_advice(text, diagnosed):
    section = text.split('id="calibration"')[1].split("</section>")[0]
    for entry in diagnosed:
        part = section.split(f"<h3>{entry.name}</h3>")[1].split("</table>")[0]
        for name, found in entry.calibration.subsets.items():
            row = part.split(f'<th scope="row">{name.replace("+", " + ")}</th>')[1]
            row = row.split("</tr>")[0]
            assert f">{found.verdict}</span>" in row
            assert found.advice in row
            covered = [f"{100 * sum(c) / len(c):.0f}" for c in found.coverage.values()]
            assert f">{' · '.join(covered)} %</td>" in row


def test_figures_say_what_they_show(text, diagnosed):
    for entry in diagnosed:
        subsets = entry.calibration.subsets
        kinds = "; ".join(f"given {name}: {f.kind}" for name, f in subsets.items())
        alt = f"Histograms of the ranks of true values of z by {entry.name}; {kinds}."
        assert f'alt="{alt}"' in text
    assert "Infinity" not in text


def test_it_is_absent_without_a_diagnosis(bare, tmp_path):
    text = write_report(tmp_path / "r.html", [bare]).read_text("utf-8")
    assert 'id="calibration"' not in text
    assert "#calibration" not in text


def test_a_diagnosis_alone_is_shown_beside_models_without_one(bare, diagnosed, tmp_path):
    text = write_report(tmp_path / "r.html", [bare, diagnosed[0]]).read_text("utf-8")
    section = text.split('id="calibration"')[1].split("</section>")[0]
    assert "<h3>plain</h3>" in section
    assert "<h3>bare</h3>" not in section
