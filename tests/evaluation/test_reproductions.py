"""The paper's tables and figures as sets of runs, and the choice of beta."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvflow.config import config_from_dict, recipe
from mvflow.core import UsageError
from mvflow.evaluation.published import published
from mvflow.evaluation.reproductions import (
    GridSpec,
    RunSpec,
    reproduction,
    reproductions,
    select_beta,
    variants,
)
from mvflow.metrics import Estimate


def measured(joint, conditional):
    """The only part of an evaluation that beta is chosen by."""
    coherence = SimpleNamespace(
        joint=Estimate(joint, 0.01), conditional_mean=Estimate(conditional, 0.01)
    )
    return SimpleNamespace(coherence=coherence)


@pytest.mark.parametrize("name", reproductions())
@pytest.mark.parametrize("small", [False, True])
def test_every_run_of_every_table_is_a_configuration_of_its_recipe(name, small):
    about = reproduction(name)
    for data in about.data:
        made = {
            spec.name: config_from_dict(
                recipe(about.recipe(data, small=small), list(spec.assignments))
            )
            for spec in about.runs(data, [0, 1])
        }
        assert len({repr(config) for config in made.values()}) == len(made)
        assert {config.seed for config in made.values()} == {0, 1}


def test_a_system_at_the_paper_s_beta_is_found_among_the_paper_s_rows():
    """The assignments here and the settings beside the paper's numbers name the same systems."""
    for name in ("table1", "table2"):
        about = reproduction(name)
        report = published(about.data[0])
        for spec in about.runs(about.data[0], [0]):
            if spec.system not in report.settings:
                continue
            config = config_from_dict(recipe(about.data[0], list(spec.assignments)))
            leaves = _leaves(config.model_dump(mode="json"))
            system, figures = report.find(leaves)
            assert system == spec.system
            if (spec.system, spec.beta, 0) in report.systems:
                assert figures == report.systems[spec.system, spec.beta, 0]


def _leaves(raw, path=""):
    out = {}
    for key, value in raw.items():
        out |= _leaves(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return out


def test_every_table_finds_the_paper_s_figures_for_all_data_that_can_make_it():
    for about in map(reproduction, reproductions()):
        for data in about.data if about.output == "table" else ():
            for small in (False, True):
                assert published(about.recipe(data, small=small)).systems


def test_the_paper_s_recipe_is_the_default():
    wanted = reproduction("table1")
    assert wanted.recipe("mnist-svhn") == "mnist-svhn-paper"
    assert wanted.recipe("mnist-svhn", small=True) == "mnist-svhn-small"
    for name in ("mhd", "pendigits-speech"):
        assert reproduction("table2").recipe(name) == name


def test_figures_take_the_beta_that_the_paper_chose():
    runs = reproduction("figure3").runs("mnist-svhn", [0])
    chosen = {"MMVAE": 0.5}
    assert runs
    assert all(spec.beta == chosen.get(spec.system, 2.5) for spec in runs)
    table = reproduction("table1").runs("mnist-svhn", [0], betas="paper")
    assert {(s.system, s.beta) for s in runs} <= {(s.system, s.beta) for s in table}
    assert len({s.system for s in table}) == len(table)


shares = st.floats(0, 1, allow_nan=False)


@given(st.lists(st.tuples(shares, shares), min_size=6, max_size=6))
def test_beta_has_the_highest_mean_over_seeds_and_criteria(scores):
    betas = [0.5, 1.0, 2.5]
    specs = [RunSpec("JNF", beta, seed, ()) for seed in (0, 1) for beta in betas]
    runs = [(spec, measured(*score)) for spec, score in zip(specs, scores, strict=True)]
    best = select_beta(["joint", "conditional"], runs)["JNF"]
    means = {
        b: sum(sum(s) for (spec, _), s in zip(runs, scores, strict=True) if spec.beta == b) / 4
        for b in betas
    }
    assert means[best] >= max(means.values()) - 1e-12
    only = select_beta(["conditional"], runs)["JNF"]
    conditional = {b: scores[i][1] + scores[i + 3][1] for i, b in enumerate(betas)}
    assert conditional[only] >= max(conditional.values()) - 1e-12


def test_of_two_equal_betas_the_smaller_is_chosen():
    runs = [(RunSpec("JNF", b, 0, ()), measured(0.5, 0.5)) for b in (2.5, 0.5, 1.0)]
    assert select_beta(["joint"], runs) == {"JNF": 0.5}


@pytest.mark.bad_input
def test_what_cannot_be_made_is_said():
    with pytest.raises(UsageError, match="did you mean 'table-d3'"):
        reproduction("table-d33")
    with pytest.raises(UsageError, match="needs a store of mnist-svhn, but this one holds 'toy'"):
        reproduction("table1").recipe("toy")
    with pytest.raises(UsageError, match="did you mean 'JNF'"):
        reproduction("table1").runs("mnist-svhn", [0], ["JFN"])
    for some, said in (
        (["m7"], "unknown modality 'm7'"),
        (["m0", "m0"], "names 'm0' twice"),
        (["m0", "m1", "m2"], "none is left to generate"),
    ):
        with pytest.raises(UsageError, match=said):
            reproduction("figure-d9").shown(["m0", "m1", "m2"], some)
    with pytest.raises(UsageError, match="table1 shows no samples: --given is for figure2"):
        reproduction("table1").shown(["mnist", "svhn"], ["mnist"])


def test_a_figure_shows_what_the_paper_conditions_on_or_any_other_subset():
    five, three = ([f"m{i}" for i in range(n)] for n in (5, 3))
    d10 = reproduction("figure-d10")
    assert d10.shown(five) == [GridSpec(("m1", "m2", "m3", "m4"), "m0")]  # D.10 of the paper
    assert d10.shown(three) == [GridSpec(("m1", "m2"), "m0")]
    d9 = reproduction("figure-d9")
    assert d9.shown(five) == [GridSpec(("m0", "m1"), None)]
    assert d9.shown(five, ["m4", "m2"]) == [GridSpec(("m4", "m2"), None)]
    rows = [(g.given, g.target) for g in reproduction("figure3").shown(["mnist", "svhn"])]
    assert (("svhn",), "svhn") in rows


def test_a_setting_that_some_systems_have_changes_these_alone():
    """Without any system that has it, it stays, so that making the runs says what is wrong."""
    runs = reproduction("table1").runs("mnist-svhn", [0, 1], ["MoPoE", "JNF", "JMVAE"], [1.0])
    made = variants(runs, ["flows.epochs=3", "joint.epochs=2", "joint.warmup=0.1"])
    for run in runs:
        words = made[run.name]
        config_from_dict(recipe("mnist-svhn-small", words))
        assert words[-len(run.assignments) :] == list(run.assignments)
        assert "joint.epochs=2" in words
        assert ("flows.epochs=3" in words) == (run.system == "JNF")
        assert ("joint.warmup=0.1" in words) == (run.system == "JMVAE")
    assert "flws.epochs=3" in variants(runs, ["flws.epochs=3"])[runs[0].name]


def test_beta_is_chosen_by_what_appendix_e_names():
    chosen = {name: reproduction(name).select for name in ("table1", "table2")}
    assert chosen == {"table1": ("joint", "conditional"), "table2": ("conditional",)}


def test_the_deviation_of_mmvae_is_that_of_table_d5():
    assert published("mhd").chosen["MMVAE"]["coherence/joint"] == (0.63, 0.01)
