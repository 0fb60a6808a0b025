"""The page: complete, self-contained, escaped, and true to the metrics."""

import base64
import io
import subprocess
import sys
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from mvflow import JNF, ArraySource
from mvflow.core import DataError, UsageError
from mvflow.evaluation.result import ExcessDivergence
from mvflow.metrics import Estimate
from mvflow.report import write_report
from mvflow.report.context import Context
from mvflow.report.entry import directions
from mvflow.report.figure_store import FigureStore
from mvflow.report.reproduce import commands
from mvflow.report.sections.scores import likelihood


class Page(HTMLParser):
    """All that the tests ask of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.images, self.resources, self.ids, self.links = (
            [],
            [],
            [],
            [],
            [],
            [],
        )
        self.text, self.words = text, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)
        self.resources += [found[k] for k in ("src", "srcset", "data") if k in found]
        self.ids += [found["id"]] if "id" in found else []
        if tag == "a":
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def shown(estimate, digits=3):
    """A number of a table with its error."""
    return f"{estimate.mean:.{digits}f} ± {estimate.standard_error:.{digits}f}"


def page_of(path):
    page = Page(path.read_text("utf-8"))
    assert page.open == []  # every element is closed
    return page


@pytest.fixture(scope="module")
def page_two(two, tmp_path_factory):
    entries, classifiers = two
    folder = tmp_path_factory.mktemp("page")
    path = write_report(
        folder / "report.html",
        entries,
        title="<b>Toy</b> & co",
        figures=folder / "figures",
        classifiers=classifiers,
    )
    return page_of(path), folder


@pytest.fixture(scope="module")
def page_three(three, tmp_path_factory):
    entries, classifiers = three
    path = tmp_path_factory.mktemp("page") / "report.html"
    return page_of(write_report(path, entries, classifiers=classifiers))


def test_nothing_is_loaded_from_elsewhere(page_two):
    page, _ = page_two
    assert page.resources
    assert all(r.startswith("data:image/") for r in page.resources)
    assert "@import" not in page.text
    assert "url(" not in page.text
    assert "<script" not in page.text
    assert "<link" not in page.text


def test_links_lead_to_sections(page_two):
    page, _ = page_two
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_images_have_words_and_can_be_decoded(page_two):
    page, _ = page_two
    for image in page.images:
        assert len(image["alt"]) > 20
        kind, data = image["src"].split(";base64,")
        raw = base64.b64decode(data)
        if kind.endswith("png"):
            Image.open(io.BytesIO(raw)).verify()
        else:
            assert b"<svg" in raw


@pytest.mark.parametrize("pages", ["page_two", "page_three"])
def test_every_direction_has_a_grid(pages, request):
    made = request.getfixturevalue(pages)
    page = made[0] if isinstance(made, tuple) else made
    names = ("square", "circle") if pages == "page_two" else ("photo", "curve", "kind")
    alts = [image["alt"] for image in page.images]
    tables = {"curve", "kind"}  # predictions, not grids, say how good they are
    for given, target in directions(names):
        if target in tables:
            continue
        assert f"<h3>{' + '.join(given)} → {target}</h3>" in page.text
        wanted = f"test rows of {' and '.join(given)}, each with 8 draws of {target} by"
        assert sum(wanted in alt for alt in alts) == (2 if pages == "page_two" else 1)


def test_coherence_tables_equal_the_metrics(page_two, two):
    page, _ = page_two
    table = next(t for t in page.tables if t[0][:2] == ["model", "joint"])
    header = [cell.replace(" → ", "->").replace(" + ", "+") for cell in table[0]]
    for row, entry in zip(table[1:], two[0], strict=True):
        found = entry.metrics.coherence
        wanted = {"model": entry.name, "joint": shown(found.joint)}
        wanted |= {key: shown(value) for key, value in found.conditional.items()}
        assert dict(zip(header, row, strict=True)) == wanted


def test_of_three_modalities_directions_are_a_matrix(page_three, three):
    scores = three[0][0].metrics.coherence
    section = page_three.text.split('<section id="coherence">')[1].split("</section>")[0]
    tables = Page(section).tables
    table = next(t for t in tables if t[0][0] == "given")
    targets = [heading.removeprefix("→ ") for heading in table[0][1:]]
    cells = {(row[0], t): c for row in table[1:] for t, c in zip(targets, row[1:], strict=True)}
    names = ("photo", "curve", "kind")
    for key, value in scores.conditional.items():
        given, target = key.split("->")
        at = "all others" if "+" in given else given
        assert cells.pop((at, target)) == f"{value.mean:.2f}"
    assert set(cells) == {(name, name) for name in names}  # the diagonal
    assert not any(cells.values())
    rows = {row[0]: row[1] for t in tables for row in t if len(row) == 2}
    rows |= dict(zip(*next(t for t in tables if "1 observed" in t[0]), strict=True))
    for size, mean in scores.conditional_by_observed.items():
        assert rows[f"{size} observed"] == shown(mean)
    assert rows["all subsets"] == shown(scores.conditional_mean)


def test_classifier_accuracy_stands_beside_coherence(page_two, two):
    page, _ = page_two
    rows = {row[0]: row[1:] for table in page.tables for row in table}
    accuracy = two[0][0].metrics.classifiers
    found = rows["real rows (classifier accuracy)"]
    assert sorted(found) == sorted(f"{value:.3f}" for value in accuracy.values())


def test_distances_and_diversity_equal_the_metrics(page_two, two):
    page, _ = page_two
    for at, entry in enumerate(two[0]):
        rows = [dict(zip(t[0], t[at + 1], strict=True)) for t in page.tables if len(t) == 3]
        distances = entry.metrics.frechet["classifier"]
        wanted = {f"joint, {k}": v for k, v in distances.joint.items()}
        wanted |= {k.replace("->", " → "): v for k, v in distances.conditional.items()}
        found = next(row for row in rows if "joint, circle" in row)
        assert {k: found[k] for k in wanted} == {k: shown(v, 2) for k, v in wanted.items()}
        spread = entry.metrics.diversity["data"].conditional["circle->square"]
        assert any(row.get("circle → square", "") == shown(spread) for row in rows)
        error = entry.metrics.reconstruction["circle"]
        assert any(row.get("circle", "") == shown(error, 4) for row in rows)


HOSTILE = """<script>alert("$x$")</script><b>'&amp;{{ 7 * 7 }}"""


def test_names_are_escaped(page_two, two, tmp_path):
    page, _ = page_two
    assert "&lt;b&gt;Toy&lt;/b&gt; &amp; co" in page.text
    assert "made &lt;for&gt; tests" in page.text
    known = two[0][0]
    test = ArraySource(
        known.test.take(np.arange(40)),
        known.test.modalities,
        labels=known.test.labels[:40],
        factors={name: f[:40] for name, f in known.test.factors.items()},
        class_names={0: HOSTILE, 1: "full"},
        factor_names={"square_width": HOSTILE},
    )
    builder = {"name": HOSTILE, "parameters": {HOSTILE: HOSTILE}}
    store = {"name": HOSTILE, "note": HOSTILE, "fingerprint": HOSTILE, "builder": builder}
    manifest = {"versions": {HOSTILE: HOSTILE}, "stages": {}}
    entry = replace(known, name=HOSTILE, test=test, store=store, manifest=manifest)
    page = page_of(write_report(tmp_path / "r.html", [entry], title=HOSTILE))
    assert page.text.count(escape(HOSTILE)) >= 8
    assert "<script" not in page.text
    assert "<b>'" not in page.text
    assert ">49" not in page.text
    words = " ".join(page.words)
    assert words.count(HOSTILE) >= 5  # readers see it as it is
    assert HOSTILE in page.images[0]["alt"] + words


def test_the_first_line_is_the_verdict_on_all_that_is_known(page_two, two):
    page, _ = page_two
    cards = [card.split("</article>")[0] for card in page.text.split("<article")[1:]]
    for card, entry in zip(cards, two[0], strict=True):
        judgement = entry.judgement
        first = unescape(card.split('<p class="verdict">')[1].split("</p>")[0])
        assert judgement.headline in first
        assert f"pill {judgement.verdict.replace(' ', '-')}" in first
        listed = card.split("<dl>")[1]
        for check in judgement.checks:
            assert f"<dt>{check.name}</dt>" in listed
            assert escape(check.value) in listed
        if judgement.verdict != "good":  # no green beside a verdict that is not
            assert 'class="pill good"' not in card


def test_an_overfitted_stage_is_in_the_first_line(two, tmp_path):
    losses = [(9 - i / 2, 9 - i / 2 if i < 8 else i - 2.0) for i in range(16)]
    history = [
        {"stage": "joint", "epoch": i, "loss": a, "validation": {"loss": b}}
        for i, (a, b) in enumerate(losses)
    ]
    entry = replace(two[0][0], history=history)
    page = page_of(write_report(tmp_path / "r.html", [entry]))
    first = page.text.split('<p class="verdict">')[1].split("</p>")[0]
    assert "the joint stage overfitted after epoch 8 of 16" in first
    assert "pill do-not-trust" in first
    assert "fewer latents, more dropout" in page.text


def test_figures_are_kept_as_files(page_two):
    _, folder = page_two
    names = {path.name for path in (folder / "figures").iterdir()}
    stems = {path.stem for path in (folder / "figures").iterdir()}
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")}
    wanted = ("coherence", "samples-square-to-circle-plain", "samples-prior-plain", "loss-joint")
    assert stems >= set(wanted)
    assert any(stem.startswith("posterior-") for stem in stems)
    for path in (folder / "figures").glob("*.png"):
        Image.open(path).verify()
    for path in (folder / "figures").glob("*.svg"):
        assert "<svg" in path.read_text("utf-8")


def test_latent_space_of_two_dimensions_shows_posteriors(page_two, page_three):
    page, _ = page_two
    alts = " ".join(image["alt"] for image in page.images)
    assert "Posterior density of z given one square, JNF, Gaussian" in alts
    assert "given one square, JNF-Shared (Contrastive), MAF" in alts
    assert "Posterior density" not in " ".join(image["alt"] for image in page_three.images)


def test_two_modalities_do_not_need_the_sampler(page_two, page_three):
    words = "With two modalities the sampler is therefore never needed."
    assert words in page_two[0].text
    assert words not in page_three.text


def test_shared_information_is_shown_where_there_is_some(page_two, page_three):
    assert 'id="shared"' in page_two[0].text
    assert 'id="shared"' not in page_three.text


def test_commands_make_the_run_again(two, tmp_path):
    model = JNF.from_recipe("toy", "joint.beta=2.0", "seed=3")
    entry = replace(two[0][0], name="my run", estimator=model)
    assert commands(entry)[0] == (
        "mvflow new 'my run' --recipe toy --store tests.h5"
        " \\\n  --set seed=3 \\\n  --set joint.beta=2.0"
    )


def test_bare_models_have_a_report(bare, tmp_path):
    page = page_of(write_report(tmp_path / "r.html", [bare]))
    assert "Not evaluated yet" in page.text
    assert "No history was kept" in page.text
    assert sum("draws of" in image["alt"] for image in page.images) >= 2


def test_metrics_without_classes_have_a_report(bare, two, tmp_path):
    metrics = two[0][0].metrics.model_copy(update={"coherence": None, "classifiers": {}})
    page = page_of(write_report(tmp_path / "r.html", [replace(bare, metrics=metrics)]))
    assert "Mean log-likelihood of unseen rows" in page.text
    assert "There are no classes to measure by" in page.text


def test_inference_gaps_are_in_the_page(bare, two, tmp_path):
    metrics = two[0][0].metrics
    bounds = ExcessDivergence(at_least=Estimate(1.25, 0.1), at_most=Estimate(7.5, 0.2), partners=9)
    gaps = metrics.gaps.model_copy(update={"gap": Estimate(3.25, 0.5), "excess": {"a": bounds}})
    metrics = metrics.model_copy(update={"gaps": gaps})
    text = page_of(write_report(tmp_path / "r.html", [replace(bare, metrics=metrics)])).text
    assert "Inference gaps, in nats" in text
    for shown in ("3.25", "± 0.50", "1.25", "7.50"):
        assert shown in text


@pytest.mark.parametrize(
    ("dims", "from_prior", "marked"),
    [((2, 2), 5.0, True), ((2, 3), 5.0, False), ((2, 2), 0.01, False)],
)
def test_densities_of_other_latent_spaces_are_not_compared(two, dims, from_prior, marked):
    """A density in 3 dimensions is no better or worse than in 2, nor one of the prior alone."""
    entries = []
    for dim, density, entry in zip(dims, (-1.0, -9.0), two[0], strict=True):
        gaps = entry.metrics.gaps.model_copy(update={"from_prior": Estimate(from_prior, 0.0)})
        metrics = entry.metrics.model_copy(
            update={"posterior_log_density": {"circle": Estimate(density, 0.01)}, "gaps": gaps}
        )
        estimator = SimpleNamespace(latent_dim=dim, can_project=False)
        about = {"name": entry.name, "names": entry.names, "metrics": metrics}
        entries.append(SimpleNamespace(**about, estimator=estimator))
    (table,) = likelihood(Context(tuple(entries), FigureStore()))["densities"]
    kinds = [row[1].kind for row in table.rows]
    assert ("number best" in kinds) == marked
    assert ("do not compare" in table.caption) == (len({*dims}) > 1)


def test_a_failure_leaves_the_old_page(bare, tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(DataError, match="the disk is full"):
        write_report(path, [bare])
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_same_seed_same_page_and_matplotlib_is_left_alone(bare, tmp_path):
    before = dict(matplotlib.rcParams)
    a = write_report(tmp_path / "a.html", [bare], seed=1).read_bytes()
    b = write_report(tmp_path / "b.html", [bare], seed=1).read_bytes()
    assert a == b
    assert dict(matplotlib.rcParams) == before


def test_entries_need_names_of_their_own(two, tmp_path):
    with pytest.raises(UsageError, match="different names"):
        write_report(tmp_path / "r.html", [two[0][0], two[0][0]])
    with pytest.raises(UsageError, match="none"):
        write_report(tmp_path / "r.html", [])


def test_importing_is_cheap():
    code = "import mvflow.report, sys; print({'torch', 'matplotlib'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
