"""Runs side by side: groups, columns, marks, forms of the table, the paper's figures."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from mvflow.config import config_from_dict, recipe
from mvflow.core import DataError, UsageError
from mvflow.evaluation import Evaluation
from mvflow.evaluation.caveats import DEPARTURES, merge_caveats
from mvflow.evaluation.compare import (
    ComparedSystem,
    Comparison,
    EvaluatedRun,
    compare,
)
from mvflow.evaluation.measures import Measure
from mvflow.evaluation.published import Figure, published
from mvflow.evaluation.result import Method
from mvflow.evaluation.tables import as_csv, as_json, as_latex, as_markdown, headings
from mvflow.metrics import Estimate

JOINT, THERE, BACK = "coherence/joint", "coherence/mnist->svhn", "coherence/svhn->mnist"
KINDS = {
    "jnf": ["system=jnf"],
    "cl": ["system=jnf-shared", "projector.kind=contrastive"],
    "gaussian": ["system=jnf", "posterior=gaussian"],
}


FACTS = {
    "jnf": {"system": "JNF"},
    "cl": {"system": "JNF-Shared (contrastive)"},
    "gaussian": {"system": "JNF"},
}
ERROR = 0.01


def of(mean, error=ERROR):
    return {"mean": mean, "standard_error": error}


def distance(mean, error=ERROR):
    return {**of(mean, error), "infinite": mean}


def evaluation(joint, there, back, far, names=("mnist", "svhn"), networks=("autoencoder",)):
    """A complete result, all of whose numbers are known."""
    directions = [f"{a}->{b}" for a in names for b in names if a != b]
    conditional = dict.fromkeys(directions, of(there)) | {directions[-1]: of(back)}
    sampler = {"method": "mcmc", "name": "hmc", "given": "+".join(names), "rows": 4}
    return {
        "facts": {},
        "rows": 1000,
        "rows_by_observed": {"1": 1000},
        "seed": 0,
        "trained_with_seed": 0,
        "classifiers": dict(zip(names, (0.99, 0.85, 0.8, 0.8, 0.8), strict=False)),
        "coherence": {
            "joint": of(joint),
            "conditional": conditional,
            "conditional_by_observed": {"1": of((there + back) / 2)},
            "conditional_by_class": {},
            "conditional_mean": of((there + back) / 2),
            "reconstruction": {},
        },
        "frechet": {
            network: {
                "features": 4,
                "reference_rows": 500,
                "rows": 100,
                "joint": dict.fromkeys(names, distance(far)),
                "conditional": dict.fromkeys(directions, distance(far)),
                "conditional_by_observed": {"1": distance(far)},
                "mean": {"joint": distance(far + 1), "conditional": distance(far)},
            }
            for network in networks
        },
        "reconstruction": {},
        "diversity": {},
        "log_likelihood": {"joint": of(-100.0), **dict.fromkeys(directions, of(-5.0))},
        "posterior_log_density": {},
        "sampler": {**sampler, "largest_norm": 1.0},
        "latent": {"redrawn": {}, "largest_norm": 1.0},
    }


def run(kind, seed, values, data="same", sets=(), of="mnist-svhn", **changes):
    config = config_from_dict(recipe(of, [*KINDS[kind], f"seed={seed}", *sets]))
    raw = evaluation(*values) | {"facts": FACTS[kind]} | changes
    name = f"{kind}-{seed}-{'-'.join(sets)}"
    return EvaluatedRun(name, config, Evaluation.from_dict(raw), data)


NUMBERS = (0.1, 0.1, 0.1, 1.0)


def faithful(runs):
    """The same with the paper's recipe."""
    kinds = ("jnf", "cl", "jnf", "gaussian")
    made = [
        run(kind, r.config.seed, NUMBERS, of="mnist-svhn-paper").config
        for kind, r in zip(kinds, runs, strict=True)
    ]
    return [r._replace(config=config) for r, config in zip(runs, made, strict=True)]


@pytest.fixture
def runs():
    """Given out of order, as a shell might."""
    return [
        run("jnf", 1, (0.5, 0.8, 0.4, 3.0)),
        run("cl", 0, (0.4, 0.8, 0.7, 5.0)),
        run("jnf", 0, (0.3, 0.6, 0.6, 1.0)),
        run("gaussian", 0, (0.4, 0.5, 0.3, 9.0)),
    ]


def test_runs_that_differ_by_their_seed_are_one_system(runs):
    found = compare(runs)
    labels = [s.label for s in found.systems]
    assert labels == [
        *("JNF, posterior maf", "JNF-Shared (contrastive)", "JNF, posterior gaussian"),
    ]
    first = found.systems[0]
    assert first.seeds == (0, 1)
    assert first.known(JOINT) == [0.3, 0.5]
    assert first.mean(JOINT) == pytest.approx(0.4)
    assert first.deviation(JOINT) == pytest.approx(np.std([0.3, 0.5], ddof=1))
    assert found.systems[1].deviation(JOINT) is None
    assert first.mean("frechet/autoencoder/joint") == pytest.approx(3.0)


def test_how_much_was_drawn_to_measure_makes_no_other_system(runs):
    more = run("jnf", 2, (0.4, 0.7, 0.5, 2.0), sets=["evaluation.rows=7", "data.store=other.h5"])
    assert compare([*runs, more]).systems[0].seeds == (0, 1, 2)


def test_a_split_smaller_than_asked_for_and_its_repeats_are_stated():
    """50,000 images are the paper's; fewer bias a distance, and so do items that repeat."""
    distinct = {"mnist": 1000, "svhn": 203}
    of = {"of": "mnist-svhn-paper", "distinct": distinct, "sets": ["evaluation.prior_draws=7000"]}
    found = compare([run("jnf", seed, NUMBERS, **of) for seed in (0, 1)])
    told = [note for note in found.notes if note.startswith("Fréchet distances")]
    assert told == [
        "Fréchet distances (autoencoder): 100 generated rows, joint ones 7,000, against 500 real "
        "ones, some of which are conditioned on; 50,000 rows were asked for and there are 1,000, "
        "each taken once; 1,000 rows repeat items: different ones are 203 svhn"
    ]
    assert told[0] in as_markdown(found)
    assert "50,000 rows were asked for" in as_latex(found)
    enough = run("jnf", 0, NUMBERS, of="mnist-svhn-paper", sets=["evaluation.rows=1000"])
    told = next(note for note in compare([enough]).notes if note.startswith("Fréchet distances"))
    assert "asked for" not in told
    assert "repeat" not in told


def test_joint_distances_of_different_numbers_of_draws_are_not_compared():
    some = [run("jnf", 0, NUMBERS), run("cl", 0, NUMBERS, sets=["evaluation.prior_draws=77"])]
    found = compare(some)
    assert not [m for m in found.measures if m.key.startswith("frechet/")]
    assert [note for note in found.notes if "different numbers of rows" in note]


def test_of_parts_of_different_kinds_a_label_has_the_kinds():
    kinds = ("product", "amortised")
    sets = [[f"subset={kind}", *extra] for kind in kinds for extra in ([], ["joint.beta=9"])]
    found = compare([run("jnf", 0, (0, 0, 0, 0), sets=each) for each in sets])
    assert [s.label for s in found.systems] == [
        *("JNF, beta 2.5, subset product", "JNF, beta 9.0, subset product"),
        *("JNF, beta 2.5, subset amortised", "JNF, beta 9.0, subset amortised"),
    ]


def test_what_has_no_known_error_is_not_told_apart():
    measure = Measure("r2", "R²", False, 3)

    def system(name, mean, error):
        return ComparedSystem(name, (0,), {"r2": [Estimate(mean, error)]})

    for error, marks in ((0.01, ["best", ""]), (float("nan"), ["tied", "tied"])):
        systems = (system("a", 0.9, error), system("b", 0.1, 0.01))
        found = Comparison(systems, (measure,), "", ())
        assert [found.mark(measure, s) for s in systems] == marks


def test_best_and_second_are_marked_only_beyond_noise(runs):
    found = compare(runs)
    by_key = {m.key: m for m in found.measures}

    def marks(key, found=found):
        return [found.mark(by_key[key], system) for system in found.systems]

    assert marks(JOINT) == ["tied", "tied", "tied"]  # all 0.400: none is better
    # .7 is the mean of two seeds .2 apart: .8 is not told from it, .5 is
    assert marks(THERE) == ["tied", "tied", ""]
    assert marks("frechet/autoencoder/conditional") == ["best", "second", ""]  # low is good
    close = [run(kind, 0, (0.5, there, 0.5, 1.0)) for kind, there in (("jnf", 0.82), ("cl", 0.8))]
    apart = [run(kind, 0, (0.5, there, 0.5, 1.0)) for kind, there in (("jnf", 0.83), ("cl", 0.8))]
    assert marks(THERE, compare(close)) == ["tied", "tied"]  # 2 * sqrt(2) * .01 is more than .02
    assert marks(THERE, compare(apart)) == ["best", ""]
    alone = compare(close[:1])
    assert alone.mark(by_key[THERE], alone.systems[0]) == ""


def test_the_distance_of_real_rows_stands_beside_those_of_generated_ones():
    frechet = evaluation(0, 0, 0, 1.0)["frechet"]
    frechet["autoencoder"]["mean"]["real"] = distance(0.62)
    found = compare([run("jnf", 0, NUMBERS, frechet=frechet)])
    assert "distance that 100 real rows have from others: autoencoder 0.62" in found.notes


@pytest.mark.parametrize("which", ["rows", "reference_rows"])
def test_distances_of_different_numbers_of_rows_are_not_compared(runs, which):
    frechet = evaluation(0, 0, 0, 1.0)["frechet"]
    frechet["autoencoder"][which] = 99
    other = run("cl", 1, (0.4, 0.8, 0.7, 5.0), frechet=frechet)
    found = compare([*runs, other])
    assert not any("frechet" in m.key for m in found.measures)
    assert any("different numbers of rows" in note for note in found.notes)
    assert any("coherence" in m.key for m in found.measures)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("mnist-svhn", ("mnist", "svhn")),
        ("translated-polymnist", ("m0", "m1", "m2", "m3", "m4")),
        ("mhd", ("image", "trajectory", "sound")),
    ],
)
def test_a_complete_evaluation_fills_every_column_of_the_paper(name, names):
    raw = evaluation(0.5, 0.5, 0.5, 3.0, names, ("inception-v3", "autoencoder"))
    config = config_from_dict(recipe("mnist-svhn"))
    config = config.model_copy(update={"recipe": name})
    found = compare([EvaluatedRun("r", config, Evaluation.from_dict(raw), "")], paper=True)
    assert published(name).measures
    for key in published(name).measures:
        assert found.systems[0].mean(key) is not None
    one = found.systems[0].mean(f"frechet/inception-v3/one->{names[0]}")
    assert one == pytest.approx(3.0)


def test_columns_are_directions_of_two_modalities(runs):
    assert headings(compare(runs)) == [
        *("model", "seeds", "coherence, joint ↑", "coherence, mnist → svhn ↑"),
        *("coherence, svhn → mnist ↑", "MFD, joint ↓"),
        *("Fréchet (autoencoder), mnist → svhn ↓", "Fréchet (autoencoder), svhn → mnist ↓"),
        *("MFD, conditional ↓", "log p(X), nats ↑"),
    ]


def by_way(mean, names):
    """A measure beside a distance, all of whose numbers are the same."""
    directions = [f"{a}->{b}" for a in names for b in names if a != b]
    return {
        "joint": dict.fromkeys(names, of(mean)),
        "conditional": dict.fromkeys(directions, of(mean)),
        "conditional_by_observed": {"1": of(mean)},
        "mean": {"joint": of(mean), "conditional": of(mean)},
    }


def beside_distances(networks=None, rows=100):
    """Two runs with everything that stands beside distances, the second of other rows."""
    names, found = ("mnist", "svhn"), []
    for seed, value, count in ((0, 0.3, 100), (1, 0.5, rows)):
        raw = evaluation(0.5, 0.5, 0.5, 3.0, names, ("autoencoder", "classifier"))
        for distances in raw["frechet"].values():
            distances |= {m: by_way(value, names) for m in ("precision", "recall", "limit")}
            distances |= {"manifold_rows": count, "rows": count}
        own = {g: of(0.2) for g in names}
        raw["coherence"]["one_to_many"] = {
            "rows": 9, "together": own, "apart": own, "chance": dict.fromkeys(names, 0.1),
            "together_mean": of(0.9), "apart_mean": of(0.2), "chance_mean": 0.1, "shared": of(0.8),
        }  # fmt: skip
        raw["networks"] = {} if networks is None else {"autoencoder": networks[seed]}
        changes = {key: raw[key] for key in ("frechet", "coherence", "networks")}
        found.append(run("jnf", seed, (0.5, 0.5, 0.5, 3.0), **changes))
    return found


def test_precision_recall_limits_and_agreement_have_columns_of_their_own():
    """Precision and recall in the features of the autoencoders alone; files have all."""
    found = compare(beside_distances())
    titles = headings(found)
    for way in ("joint", "conditional"):
        for kind in ("precision", "recall"):
            assert f"{kind} (autoencoder), {way} ↑" in titles
            assert f"{kind} (classifier), {way} ↑" not in titles
            assert found.systems[0].mean(f"{kind}/classifier/{way}") == pytest.approx(0.4)
        assert f"Fréchet∞ (classifier), {way} ↓" in titles
    assert "1 → N agreement, one draw ↑" in titles
    assert "1 → N agreement, separate draws ↑" in titles
    system = found.systems[0]
    assert system.mean("one-to-many/shared") == pytest.approx(0.8)
    assert system.mean("frechet/autoencoder/joint") == 4.0  # and not the mean with the limit
    assert system.mean("frechet-infinity/autoencoder/joint") == pytest.approx(0.4)


def test_of_other_numbers_of_rows_only_limits_compare():
    found = compare(beside_distances(rows=50))
    keys = found.systems[0].values
    assert not any(k.startswith(("frechet/", "precision/", "recall/")) for k in keys)
    assert found.systems[0].mean("frechet-infinity/classifier/joint") == pytest.approx(0.4)
    assert "Fréchet∞ (classifier), joint ↓" in headings(found)
    assert any("left out: they were measured on different numbers" in n for n in found.notes)


def test_by_other_weights_nothing_compares_and_the_same_are_named():
    same = compare(beside_distances(["Nexus', SHA-256 1"] * 2))
    assert "features of autoencoder: Nexus', SHA-256 1" in same.notes
    assert same.systems[0].mean("frechet/autoencoder/joint") == 4.0
    found = compare(beside_distances(["Nexus', SHA-256 1", "Nexus', SHA-256 2"]))
    assert not any("autoencoder" in key for key in found.systems[0].values)
    assert found.systems[0].mean("frechet-infinity/classifier/joint") == pytest.approx(0.4)


def test_columns_are_numbers_of_observed_modalities_of_more():
    found = evaluation(0.5, 0.5, 0.5, 1.0, ("a", "b", "c"))
    found["coherence"]["conditional"] = {"a->b": of(0.2), "a+b->c": of(0.6)}
    found["coherence"]["conditional_by_observed"] = {"1": of(0.2), "2": of(0.6)}
    found["coherence"]["conditional_mean"] = of(0.4)
    found["rows_by_observed"] = {"1": 1000, "2": 50}
    config = config_from_dict(recipe("mnist-svhn"))
    comparison = compare([EvaluatedRun("r", config, Evaluation.from_dict(found), "")])
    values = {m.title: comparison.systems[0].mean(m.key) for m in comparison.measures}
    assert values["coherence, conditional"] == pytest.approx(0.4)
    assert (values["coherence, 1 observed"], values["coherence, 2 observed"]) == (0.2, 0.6)
    assert "coherence, a → b" not in values
    assert "50 where several modalities are observed" in comparison.notes[0]


def test_distances_from_one_modality_leave_out_those_from_several():
    raw = evaluation(0.5, 0.5, 0.5, 3.0, ("a", "b", "c"), ("inception-v3",))
    raw["frechet"]["inception-v3"]["conditional"]["b+c->a"] = distance(99.0)
    config = config_from_dict(recipe("mnist-svhn"))
    [system] = compare([EvaluatedRun("r", config, Evaluation.from_dict(raw), "")]).systems
    assert system.mean("frechet/inception-v3/one->a") == pytest.approx(3.0)


def test_markdown(runs):
    text = as_markdown(compare(runs))
    head, rule, first, second, third, _, caption, _, *notes = text.splitlines()
    assert len({line.count("|") for line in (head, rule, first, second, third)}) == 1
    assert first.startswith("| JNF, posterior maf | 2 | *0.400 ± 0.141* | *0.700 ± 0.141* |")
    assert "| *0.800 ± 0.010* |" in second
    assert "| **1.00 ± 0.00** |" not in second
    assert "−100.0" in third
    errors = "Mean ± standard deviation over seeds, of one seed ± standard error of the test rows"
    assert caption.startswith(f"{errors}; best in bold")
    assert all(note.startswith("- ") for note in notes)
    assert "- accuracy of the classifiers on real test rows: mnist 0.990, svhn 0.850" in notes


def test_latex(runs):
    text = as_latex(compare(runs))
    assert r"\textit{0.800 $\pm$ 0.010}" in text
    assert r"\textbf{2.00 $\pm$ 1.41}" in text
    assert r"\underline{5.00 $\pm$ 0.01}" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    assert {line.count("&") + 1 for line in rows} == {len(columns)}
    assert not set(text) & set("→↑↓±–−")


def test_latex_has_no_letter_that_its_standard_fonts_lack(runs):
    """In them |, < and > are other signs, and there is no infinity."""
    label = "R² and FID∞, |S|-1 → 2, a < b > c"
    found = replace(compare(runs), notes=(label,), measures=())
    table = as_latex(found)
    shown = r"R$^2$ and FID$\infty$, \textbar{}S\textbar{}-1 $\rightarrow$ 2, "
    assert shown + r"a \textless{} b \textgreater{} c" in table
    assert table.isascii()


def test_csv_and_json_have_every_measure_and_seed(runs):
    found = compare(runs)
    lines = list(csv.DictReader(io.StringIO(as_csv(found))))
    first = next(r for r in lines if r["measure"] == BACK and r["seeds"] == "2")
    assert [float(v) for v in first["values"].split()] == [0.6, 0.4]
    assert (float(first["mean"]), float(first["worst"])) == (0.5, 0.4)
    distance = next(r for r in lines if r["measure"] == "frechet/autoencoder/mnist->svhn")
    assert float(distance["worst"]) == 3.0
    data = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert data["systems"]["JNF, posterior maf"]["measures"][JOINT]["values"] == [0.3, 0.5]
    assert {"key": JOINT, "title": "coherence, joint", "better": "high"} in data["columns"]


def test_the_papers_figures_stand_beside_those_of_the_same_settings(runs):
    found = compare(faithful(runs), paper=True)
    papers = {s.label: s.paper.get(JOINT) for s in found.systems}
    assert papers["JNF, posterior maf"] == Figure(0.51, 0.01)
    assert papers["JNF, posterior gaussian"] is None  # no system of the paper
    assert papers["JMVAE"] == Figure(0.43, 0.10)
    assert "JNF" not in papers
    assert len(found.measured) == 3
    text = as_markdown(found)
    assert "| 0.51 ± 0.01 |" in text
    assert "| 57 ± 3 |" in text
    assert "paper: Tables 1 and D.3; whole SVHN" in text
    for beta, figure in ((1.0, Figure(0.43, 0.01)), (4.0, None)):
        at = run("jnf", 0, NUMBERS, sets=[f"joint.beta={beta}"], of="mnist-svhn-paper")
        assert compare([at], paper=True).systems[0].paper.get(JOINT) == figure


def test_the_scale_of_the_likelihood_is_a_part_of_beta():
    """At a Laplace scale of 0.75, beta 2.5 acts as 1.875, which the paper has not tried."""
    found = compare([run("jnf", 0, NUMBERS)], paper=True)
    assert found.systems[0].paper == {}
    assert [s.label for s in found.systems if s.paper][0] == "JMVAE"
    assert next(s for s in found.systems if s.label == "JNF (paper)").paper[JOINT].mean == 0.51
    assert any("beta 2.5 acts as 1.875 does in the paper" in n for n in found.notes)
    for beta, mean in (("0.6666666666666666", 0.37), ("3.3333333333333335", 0.51)):
        at = compare([run("jnf", 0, NUMBERS, sets=[f"joint.beta={beta}"])], paper=True)
        assert at.systems[0].paper[JOINT].mean == mean
    for change in ("modalities.svhn.likelihood.scale=1.0", "modalities.svhn.likelihood=normal"):
        other = compare([run("jnf", 0, NUMBERS, sets=[change])], paper=True)
        assert other.systems[0].paper == {}
        assert any("no beta of the paper compares" in n for n in other.notes)


def test_caveats_of_data_recipe_and_drawing_are_in_every_form_of_the_table():
    about = {"data": "mnist-svhn", "note": "SVHN subset (8,001 digits)"}
    small = run("jnf", 0, NUMBERS, of="mnist-svhn-small", **about)
    other = run("cl", 0, NUMBERS, **about)
    method = Method(subset="product", divisor="prior-once", sampler="sir")
    other = other._replace(metrics=other.metrics.model_copy(update={"method": method}))
    found = compare([small, other], paper=True)
    said = [
        "data: mnist-svhn (SVHN subset (8,001 digits))",
        "JNF: recipe: mnist-svhn-small, a small one",
        "joint.epochs 25 (200)",
        "product over the aggregated posterior, within the ball of the latents, drawn by hmc",
        "product over the prior once (F.3), no ball, drawn by sir",
    ]
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    listed = "; ".join({row["caveats"] for row in rows})
    notes = as_json(found)["notes"]
    for text in ("; ".join(notes), as_markdown(found), as_latex(found).replace("\\_", "_")):
        assert [words for words in said if words not in text] == []
    assert all(words.removeprefix("JNF: ") in listed for words in said)


def test_caveats_are_said_once_with_those_that_they_are_of():
    said = {
        "A": ["x", f"{DEPARTURES}a 1 (2)", f"{DEPARTURES}b 1 (2)"],
        "B": ["x", f"{DEPARTURES}a 1 (2)", "y"],
        "C": ["x", f"{DEPARTURES}a 1 (2)", f"{DEPARTURES}b 1 (2)", "y"],
        "D": ["x", f"{DEPARTURES}a 1 (2)", f"{DEPARTURES}c 1 (2)", "y"],
    }
    assert merge_caveats(said) == [
        "x",
        f"{DEPARTURES}a 1 (2)",
        f"A and C: {DEPARTURES}b 1 (2)",
        "all but A: y",
        f"D: {DEPARTURES}c 1 (2)",
    ]
    same = [f"{DEPARTURES}{n}" for n in "pq"]
    assert merge_caveats({"A": same, "B": same}) == [f"{DEPARTURES}p, q"]


def test_a_fid_says_of_how_many_images_it_is_and_how_many_are_repeats():
    raw = evaluation(*NUMBERS, networks=("inception-v3",)) | {"facts": FACTS["jnf"]}
    raw["distinct"] = {"mnist": 900, "svhn": 40}
    config = config_from_dict(recipe("mnist-svhn-paper"))
    found = compare([EvaluatedRun("r", config, Evaluation.from_dict(raw), "")])
    (note,) = (n for n in found.notes if "(FID)" in n)
    assert "100 generated rows" in note
    assert "against 500 real ones" in note
    assert "900 mnist, 40 svhn" in note


def test_what_is_not_as_in_the_recipe_is_said_where_the_paper_has_no_figures():
    names = ("circle", "square")
    raw = evaluation(0.5, 0.5, 0.5, 1.0, names) | {"facts": FACTS["jnf"], "data": "toy"}

    def notes(*settings):
        config = config_from_dict(recipe("toy", ["system=jnf", *settings]))
        return compare([EvaluatedRun("r", config, Evaluation.from_dict(raw), "")]).notes

    begins = "settings that are not the recipe's, which are in brackets: "
    assert f"{begins}flows.epochs 2 (10), joint.epochs 3 (20)" in notes(
        "joint.epochs=3", "flows.epochs=2"
    )
    assert not any("recipe's" in note for note in notes())


def test_distances_of_rows_with_gaps_say_how_many_have_features():
    def told(full):
        raw = evaluation(*NUMBERS) | {"facts": FACTS["jnf"]}
        for found in raw["frechet"].values():
            found["reference_full"] = full
        metrics = Evaluation.from_dict(raw)
        return EvaluatedRun("r", config_from_dict(recipe("mnist-svhn-paper")), metrics, "")

    (note,) = (n for n in compare([told({"mnist": 17})]).notes if "real ones" in n)
    assert "of which only those with all values have features (17 mnist)" in note
    (note,) = (n for n in compare([told({})]).notes if "real ones" in n)
    assert "have features" not in note


def test_figures_of_the_paper_beside_other_data_say_so():
    config = config_from_dict(recipe("pendigits-speech-small"))
    raw = evaluation(0.5, 0.5, 0.5, 1.0, ("image", "sound", "trajectory"))
    made = EvaluatedRun("r", config, Evaluation.from_dict(raw | {"facts": FACTS["jnf"]}), "")
    found = compare([made], paper=True)
    assert found.systems[0].paper["coherence/joint"] == Figure(0.67, 0.01)
    assert any("data: pendigits-speech, not the paper's mhd" in n for n in found.notes)


@pytest.mark.parametrize("name", ["mnist-svhn", "polymnist", "translated-polymnist", "mhd"])
def test_published_figures_are_whole(name):
    found = published(name)
    assert published(f"{name}-small") == found
    for figures in found.systems.values():
        assert figures.keys() <= set(found.measures)
        for key, (mean, deviation) in figures.items():
            assert mean >= 0
            assert deviation is None or deviation >= 0
            assert mean <= 1 or not key.startswith("coherence")
    for label, figures in found.chosen.items():
        assert set(found.measures) == set(figures), label  # the main text has every measure


@pytest.mark.bad_input
def test_what_cannot_be_compared_is_refused(runs):
    with pytest.raises(DataError, match="jnf-1- and cl-0- were trained on different data"):
        compare([runs[0], run("cl", 0, (0, 0, 0, 0), data="another")])
    with pytest.raises(DataError, match="evaluated on split 'test' and cl-0- on 'train'"):
        compare([runs[0], run("cl", 0, (0, 0, 0, 0), split="train")])
    with pytest.raises(UsageError, match="have the same settings and seed 0: name only one"):
        compare([runs[2], run("jnf", 0, (0, 0, 0, 0))])
    with pytest.raises(UsageError, match="have the same settings and seed"):
        compare([runs[0], runs[0]])
    toy = runs[0]._replace(config=config_from_dict(recipe("toy")))
    with pytest.raises(UsageError, match="no figures for recipe 'toy': it has mhd, mnist-svhn"):
        compare([toy], paper=True)


def test_runs_measured_otherwise_or_in_part_are_noted(runs):
    other = run("cl", 1, (0.4, 0.8, 0.7, 5.0), classifiers={"mnist": 0.5, "svhn": 0.5})
    assert any("measured by different classifiers" in n for n in compare([*runs, other]).notes)
    bare = run("cl", 1, (0.4, 0.8, 0.7, 5.0), frechet={})
    assert any("lack some measures" in n for n in compare([*runs, bare]).notes)
    raw = evaluation(0, 0, 0, 0)
    raw["coherence"]["joint_fitted"] = of(0.9)  # which others need not have
    fitted = run("gaussian", 1, (0, 0, 0, 0), coherence=raw["coherence"])
    assert not any("lack some measures" in n for n in compare([runs[0], fitted]).notes)
    raw = evaluation(0, 0, 0, 0) | {"classifiers": {}}
    del raw["coherence"]
    found = compare([runs[0]._replace(metrics=Evaluation.from_dict(raw))])
    assert not any(m.key.startswith("coherence") for m in found.measures)


def test_predictions_and_gaps_are_columns_and_baselines_a_note(runs):
    means = {
        "directions": 2,
        "r2": {"model": of(0.7), "ridge": of(0.8)},
        "by_kind": {"grades": {"model": of(0.4), "ridge": of(0.3)}},
        "coverage": {"0.9": of(0.6)},
        "calibrated_coverage": {"0.9": of(0.91)},
    }
    more = {"predictions_by_observed": {"1": means}, "gaps": {"gap": of(2.0), "elbo": of(-9.0)}}
    found = compare([run("jnf", seed, (0.5, 0.8, 0.4, 3.0), **more) for seed in (0, 1)])
    (system,) = found.systems
    assert system.mean("prediction/r2/1") == 0.7
    assert system.mean("coverage/raw/1") == 0.6
    assert system.mean("coverage/calibrated/1") == 0.91
    assert system.mean("gap") == 2.0
    titles = [m.title for m in found.measures]
    assert titles[:2] == ["R² of tables, 1 observed", "accuracy of grades, 1 observed"]
    assert titles[-1] == "inference gap, nats"
    known = ["ridge regression R² 0.800", "ridge regression accuracy of grades 0.300"]
    assert f"of tables, 1 observed: {', '.join(known)}" in found.notes


def test_doubtful_likelihoods_and_chains_are_noted(runs):
    check = {"ess_median": 1.0, "ess_worst": 1.0, "khat_worst": 2.0, "rows_khat_above_0_7": 0.9}
    check |= {"verdict": "do not trust", "advice": "draw more"}
    checks = {"joint": check | {"verdict": "good"}, "mnist->svhn": check}
    one = run("jnf", 0, (0.5, 0.8, 0.4, 3.0), likelihood_checks=checks)
    raw = one.metrics.to_dict()
    raw["coherence"]["unsound"] = ["mnist+svhn"]
    other = run("jnf", 1, (0.5, 0.8, 0.4, 3.0), coherence=raw["coherence"])
    notes = compare([one, other]).notes
    assert f"likelihoods not to be trusted (Pareto k): {one.name}" in notes
    assert f"chains of some subsets did not agree (R-hat): {other.name}" in notes


def test_verdicts_are_said_once_for_runs_that_share_them():
    """A comparison of many runs has a line for each verdict, not one for each run."""
    first, second = (run("jnf", n, (0.5, 0.5, 0.5, 1.0))._replace(verdict="Good.") for n in (0, 1))
    assert "all runs: Good" in compare([first, second]).notes
    notes = compare([first, second._replace(verdict="Look closer.")]).notes
    assert f"{first.name}: Good" in notes
    assert f"{second.name}: Look closer" in notes


def test_an_evaluation_is_shown_as_the_numbers_of_the_table():
    title, *lines = repr(run("jnf", 0, (0.5, 0.8, 0.4, 3.0)).metrics).splitlines()
    assert title == "Evaluation of 1,000 rows: JNF"
    shown = {line.strip().rsplit("  ", 1)[0].strip(): line.rsplit("  ", 1)[1] for line in lines}
    assert shown["coherence, joint"] == "0.500 ± 0.010"
    assert shown["coherence, mnist → svhn"] == "0.800 ± 0.010"
    assert shown["MFD, joint"] == "4.00 ± 0.01"
    assert shown["log p(X), nats"] == "-100.0 ± 0.0"


def test_gaps_of_collapsed_latents_are_not_the_best():
    """They are 0 whatever the posteriors; of a sound system beside, nothing is worse than they."""

    def with_gap(kind, gap, from_prior):
        gaps = {"gap": of(gap), "elbo": of(-3.0), "from_prior": of(from_prior)}
        return run(kind, 0, NUMBERS, gaps=gaps)

    found = compare([with_gap("jnf", 0.0, 0.001), with_gap("cl", 2.0, 5.0)])
    gap = next(m for m in found.measures if m.key == "gap")
    assert [found.mark(gap, s) for s in found.systems] == ["", ""]
    assert any("JNF: latents have collapsed" in note for note in found.notes)
    three = [with_gap("jnf", 0.0, 0.001), with_gap("cl", 2.0, 5.0), with_gap("gaussian", 9.0, 5.0)]
    found = compare(three)
    assert [found.mark(gap, s) for s in found.systems] == ["", "best", ""]
    sound = compare([with_gap("jnf", 0.0, 1.0), with_gap("cl", 2.0, 5.0)])
    assert [sound.mark(gap, s) for s in sound.systems] == ["best", ""]
    assert not any("collapsed" in note for note in sound.notes)
