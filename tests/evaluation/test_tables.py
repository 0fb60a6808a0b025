"""A table as Markdown, LaTeX, CSV and JSON: the same numbers, errors, marks and words in each."""

import csv
import io
import json
import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mvflow.evaluation.compare import ComparedSystem, Comparison
from mvflow.evaluation.measures import Measure
from mvflow.evaluation.published import Figure
from mvflow.evaluation.tables import LATEX, NONE, as_csv, as_json, as_latex, as_markdown
from mvflow.metrics import Estimate

COLUMNS = (
    Measure("coherence/joint", "coherence, joint", False, 3),
    Measure("frechet/autoencoder/joint", "MFD, joint", True, 2),
    Measure("log_likelihood/joint", "log p(X), nats", False, 1),
)
KEYS = (*(m.key for m in COLUMNS), "diversity/data/a->b")
MINUS = "\N{MINUS SIGN}"
MARKDOWN = {"best": r"\*\*(.*)\*\*", "second": "<u>(.*)</u>", "tied": r"\*(.*)\*"}
TEX = {"best": r"\\textbf{(.*)}", "second": r"\\underline{(.*)}", "tied": r"\\textit{(.*)}"}

texts = st.text("ab 0.,;:=(|)[]*<>\\_`&%$#{}~^'\"→²≥", min_size=1, max_size=12).map(
    lambda text: f"x{text.strip()}x"
)
numbers = st.one_of(
    st.sampled_from([0.0, 0.5, 0.5004, 0.9996, -3.25, -0.00001, float("nan"), float("-inf")]),
    st.floats(-1e4, 1e4),
)
errors = st.one_of(st.just(float("nan")), st.just(0.0), st.floats(0, 10))
estimates = st.none() | st.builds(Estimate, numbers, errors)
figures = st.builds(
    Figure, st.sampled_from([0.51, 0.125, 0.005, 66, -1.5]), st.none() | st.just(0.01)
)


@st.composite
def systems(draw, label):
    seeds = draw(st.integers(0, 3))
    values = {key: draw(st.lists(estimates, min_size=seeds, max_size=seeds)) for key in KEYS}
    paper = draw(st.dictionaries(st.sampled_from(KEYS[:2]), figures))
    caveats = tuple(draw(st.lists(texts, max_size=2)))
    return ComparedSystem(label, tuple(range(seeds)), values if seeds else {}, paper, caveats)


@st.composite
def comparisons(draw):
    names = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
    rows = [draw(systems(name)) for name in names]
    if not any(system.seeds for system in rows):
        values = {key: [draw(estimates)] for key in KEYS}
        rows.append(ComparedSystem("measured", (0,), values))
    return Comparison(tuple(rows), COLUMNS, "", tuple(draw(st.lists(texts, max_size=3))))


def markdown_rows(text):
    """Cells of the table in Markdown; its escapes are those of labels."""
    for line in text.split("\n\n")[0].splitlines()[2:]:
        yield re.findall(r"\| ((?:\\.|[^|\\])*?) (?=\|)", line)


def latex_rows(text):
    for line in text.partition("\\midrule\n")[2].partition("\n\\bottomrule")[0].splitlines():
        assert not re.match(r"[\[*]", line)
        yield re.split(r"(?<!\\) & ", line.removesuffix(r" \\"))


def plain(text):
    """What LaTeX shows of a text."""
    by_length = sorted(LATEX.items(), key=lambda item: -len(item[1]))
    shown = ""
    while text:
        for char, written in by_length:
            if text.startswith(written):
                shown, text = shown + char, text[len(written) :]
                break
        else:
            shown, text = shown + text[0], text[1:]
    return shown


def taken_apart(cell, marks):
    """Mark and number of a cell."""
    for place, pattern in marks.items():
        if match := re.fullmatch(pattern, cell):
            return place, match[1]
    return "", cell


def expected(about, measure, seeds):
    """The number that JSON has, as a table prints it."""
    if about is None or about["mean"] is None:
        return NONE
    error = about["standard_deviation"]
    if error is None and seeds == 1:
        error = about["standard_error"]
    both = [f"{v:.{measure.digits}f}" for v in (about["mean"], error) if v is not None]
    return " ± ".join(both).replace("-", MINUS)


def from_paper(cell):
    """Mean and deviation of a cell with the paper's figure."""
    words = [None if w == NONE else float(w.replace(MINUS, "-")) for w in cell.split(" ± ")]
    return (*words, None)[:2]


of_b = Estimate(9.0, 0.0)


@settings(max_examples=40, deadline=None)
@given(comparisons())
@example(
    Comparison(
        (
            ComparedSystem("[a|*", (0, 1), {KEYS[1]: [Estimate(-1.0, 0.1), Estimate(-2.0, 0.1)]}),
            ComparedSystem(
                "b_", (0,), {KEYS[1]: [Estimate(9.0, 0.0)]}, {KEYS[1]: Figure(0.125, None)}
            ),
        ),
        COLUMNS,
        "",
        ("a note <of> 5 % & more",),
    )
)
def test_all_forms_of_a_table_have_the_same_numbers_errors_marks_and_words(comparison):
    data = json.loads(json.dumps(as_json(comparison), allow_nan=False))
    markdown, latex = as_markdown(comparison), as_latex(comparison)
    lines = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    rows = zip(markdown_rows(markdown), latex_rows(latex), comparison.systems, strict=True)
    for in_markdown, in_latex, system in rows:
        found, seeds = data["systems"][system.label], len(system.seeds)
        assert re.sub(r"\\(.)", r"\1", in_markdown[0]) == system.label
        assert plain(in_latex[0]) == system.label
        assert in_markdown[1] == in_latex[1] == (str(seeds) if seeds else "paper")
        cells = iter(zip(in_markdown[2:], in_latex[2:], strict=True))
        for measure in COLUMNS:
            about = found["measures"].get(measure.key)
            one, other = next(cells)
            mark, number = taken_apart(one, MARKDOWN)
            assert number == expected(about, measure, seeds)
            assert mark == ("" if about is None else about["mark"])
            place, shown = taken_apart(other, TEX)
            assert (place, plain(shown)) == (mark, number)
            if any(measure.key in s.paper for s in comparison.systems):
                one, other = next(cells)
                printed = about and (about["paper_mean"], about["paper_standard_deviation"])
                assert from_paper(one) == from_paper(plain(other)) == (printed or (None, None))
        assert not list(cells)
        own = {line["measure"]: line for line in lines if line["model"] == system.label}
        assert own.keys() == found["measures"].keys()
        for key, about in found["measures"].items():
            line = own[key]
            assert line["seeds"] == str(seeds)
            assert line["caveats"] == "; ".join(found["caveats"]) == "; ".join(system.caveats)
            assert line["mark"] == about["mark"]
            for field in line.keys() - {"model", "measure", "seeds", "mark", "caveats"}:
                if isinstance(about[field], list):
                    read = [None if v == "-" else float(v) for v in line[field].split()]
                    assert read == about[field]
                else:
                    assert (float(line[field]) if line[field] else None) == about[field]
    notes = list(comparison.notes)
    assert data["notes"] == notes
    assert [line["caveats"] for line in lines if line["measure"] == "note"] == notes
    listed = [line[2:] for line in markdown.splitlines() if line.startswith("- ")]
    assert [re.sub(r"\\(.)", r"\1", line) for line in listed] == notes
    said = re.findall(r"^(.*)\.\\par$", latex, re.MULTILINE)
    assert [plain(line) for line in said] == notes
