"""Keys of stages change with what a stage depends on, and with nothing else."""

import dataclasses

import pytest
from torch import nn

from mvflow.config import Training, config_from_dict, recipe
from mvflow.core import DataError, UsageError
from mvflow.runs import Inputs, Plan, StageRecord
from mvflow.stages import StageSpec
from mvflow.systems import build_system, stages_of

RAW = {
    "system": "jnf-shared",
    "latent_dim": 2,
    "modalities": {"a": {"shape": [3]}, "b": {"shape": [4]}},
    "subset": "product",
}
ALL = {"projectors", "joint", "flows"}
MLP = {"kind": "mlp", "hidden": [7]}

# path of a field, another value, the stages whose weights depend on it
CHANGES = [
    (("seed",), 1, ALL),
    (("latent_dim",), 3, {"joint", "flows"}),
    (("recipe",), "other", set()),
    (("data", "store"), "elsewhere.h5", set()),
    (("data", "train"), "other", ALL),
    (("data", "test"), "other", set()),
    (("data", "validation"), 0.1, ALL),
    (("modalities", "a", "shape"), [5], ALL),
    (("modalities", "a", "likelihood"), "laplace", {"joint", "flows"}),
    (("modalities", "a", "likelihood"), {"kind": "normal", "scale": 0.5}, {"joint", "flows"}),
    (("modalities", "a", "weight"), 0.5, {"joint", "flows"}),
    (("modalities", "a", "encoder"), MLP, {"joint", "flows"}),
    (("modalities", "a", "decoder"), MLP, {"joint", "flows"}),
    (("modalities", "a", "projector"), MLP, {"projectors", "flows"}),
    (("joint", "epochs"), 3, {"joint", "flows"}),
    (("joint", "beta"), 2.0, {"joint", "flows"}),
    (("joint", "beta_start"), 2.0, {"joint", "flows"}),
    (("joint", "anneal"), 0.2, {"joint", "flows"}),
    (("joint", "merge"), [7], {"joint", "flows"}),
    (("joint", "precision"), "bfloat16", {"joint", "flows"}),
    (("projector",), "dcca", {"projectors", "flows"}),
    (("projector",), {"kind": "contrastive", "dim": 3}, {"projectors", "flows"}),
    (("projector",), {"kind": "contrastive", "temperature": 3.0}, {"projectors", "flows"}),
    (("projectors", "batch_size"), 64, {"projectors", "flows"}),
    (("posterior",), "nsf", {"flows"}),
    (("posterior",), {"kind": "maf", "hidden": [7]}, {"flows"}),
    (("flows", "learning_rate"), 1e-2, {"flows"}),
    (("flows", "summary_hidden"), [7], {"flows"}),
    (("flows", "patience"), 2, {"flows"}),
    (("flows", "weight_decay"), 0.1, {"flows"}),
    (("flows", "keep_best"), True, {"flows"}),
    (("subset",), {"kind": "product", "divisor": "prior"}, set()),
    (("sampler",), {"kind": "hmc", "chains": 8}, set()),
    (("sampler",), "sir", set()),
    (("prior",), "mixture", set()),
    (("classifiers", "epochs"), 8, set()),
    (("evaluation", "rows"), 8, set()),
]


def with_change(path, value):
    raw = {**RAW, "modalities": {n: dict(m) for n, m in RAW["modalities"].items()}}
    node = raw
    for part in path[:-1]:
        node = node.setdefault(part, {})
    node[path[-1]] = value
    return config_from_dict(raw)


def keys(config, inputs=None):
    """Stage -> its key, as training in order gives them."""
    plan, found = Plan(config, stages_of(build_system(config))), {}
    for spec in plan.stages:
        needs = {name: found[name] for name in spec.needs}
        found[spec.name] = plan.key(spec.name, inputs or Inputs("data"), needs)
    return found


@pytest.fixture(scope="module")
def before():
    return keys(config_from_dict(RAW))


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    CHANGES,
    ids=lambda v: "+".join(map(str, sorted(v))) if isinstance(v, set) else str(v)[:40],
)
def test_a_change_reaches_the_stages_that_depend_on_it(path, value, expected, before):
    after = keys(with_change(path, value))
    assert {s for s in ALL if before[s] != after[s]} == expected


def test_a_default_that_is_spelled_out_changes_no_key(before):
    assert keys(config_from_dict(config_from_dict(RAW).to_dict())) == before


@pytest.mark.parametrize("inputs", [Inputs("other"), Inputs("data", "held out")])
def test_other_data_change_every_key(inputs, before):
    after = keys(config_from_dict(RAW), inputs)
    assert all(after[s] != before[s] for s in ALL)


def test_held_out_rows_of_their_own_take_the_place_of_a_share():
    """Then how large the share would be does not matter."""
    inputs = Inputs("data", "held out")
    assert keys(config_from_dict(RAW), inputs) == keys(
        with_change(("data", "validation"), 0.1), inputs
    )


def test_the_order_of_modalities_changes_no_key(before):
    turned = config_from_dict(RAW | {"modalities": dict(reversed(RAW["modalities"].items()))})
    assert keys(turned) == before


def test_systems_share_the_stages_that_are_the_same_in_both(before):
    plain = keys(config_from_dict(RAW | {"system": "jnf"}))
    assert plain.keys() == {"joint", "flows"}
    assert plain["joint"] == before["joint"]
    assert plain["flows"] != before["flows"]
    jnf_with_a_projector = config_from_dict(RAW | {"system": "jnf", "projector": "contrastive"})
    assert keys(jnf_with_a_projector) == before


def test_systems_of_the_benchmark_take_the_joint_stage_from_one_another():
    made = [
        config_from_dict(recipe("translated-polymnist-small", settings))
        for settings in (
            ["system=jnf"],
            ["system=jnf-shared"],
            ["system=jnf-shared", "projector=dcca"],
        )
    ]
    assert len({keys(c)["joint"] for c in made}) == 1


def test_the_prior_rests_on_the_joint_stage_alone_and_nothing_on_it(before):
    fitted = keys(config_from_dict(RAW | {"prior": {"kind": "mixture"}}))
    assert list(fitted) == ["projectors", "joint", "flows", "prior"]
    assert {s: fitted[s] for s in ALL} == before
    more = keys(config_from_dict(RAW | {"prior": {"kind": "mixture", "components": 3}}))
    assert {s: more[s] for s in ALL} == before
    assert more["prior"] != fitted["prior"]
    plain = keys(config_from_dict(RAW | {"system": "jnf", "prior": {"kind": "mixture"}}))
    assert plain["prior"] == fitted["prior"]
    raw = RAW | {"prior": {"kind": "mixture"}, "joint": {"beta": 7.0}}
    assert keys(config_from_dict(raw))["prior"] != fitted["prior"]


# Plans of any stages


def spec(name, *needs, **changes):
    return StageSpec(name, nn.Linear(1, 1), Training(), needs=needs, **changes)


def plan(*stages):
    return Plan(config_from_dict(RAW), stages)


def test_a_key_hears_of_all_that_a_stage_says():
    one = spec("a", reads={"width": 3})
    found = {plan(one).key("a", Inputs("data"), {})}
    for changes in (
        {"reads": {"width": 4}},
        {"version": 2},
        {"settings": Training(epochs=3)},
        {"settings": None},
        {"module": nn.ModuleList()},
    ):
        found.add(plan(dataclasses.replace(one, **changes)).key("a", Inputs("data"), {}))
    assert len(found) == 6
    after = plan(one, spec("b", "a"))
    assert len({after.key("b", Inputs("data"), {"a": k}) for k in ("one", "other")}) == 2


def test_what_rests_on_a_stage_comes_after_it_directly_or_not():
    made = plan(spec("a"), spec("b"), spec("c", "a"), spec("d", "c"), spec("e", "b"))
    assert made.after(["a"]) == ("c", "d")
    assert made.after(["b", "c"]) == ("d", "e")
    assert made.after([]) == ()


@pytest.mark.bad_input
def test_plans_that_cannot_be_carried_out_are_named():
    with pytest.raises(UsageError, match="stage 'b' needs 'a', which does not come before it"):
        plan(spec("b", "a"), spec("a"))
    with pytest.raises(UsageError, match="stage 'a' is there twice"):
        plan(spec("a"), spec("a"))
    with pytest.raises(UsageError, match="unknown stage 'jonit': did you mean 'joint'"):
        plan(spec("joint")).spec("jonit")


# Records


def test_a_record_survives_json(tmp_path):
    record = StageRecord(
        "key", "weights", {"joint": "other"}, "rows", "held", 3, 1.5, 20, "cpu", 7
    )
    assert StageRecord.from_dict(record.to_dict(), tmp_path, "flows") == record
    assert record.inputs == Inputs("rows", "held")
    short = StageRecord("key", "weights")
    assert StageRecord.from_dict(short.to_dict(), tmp_path, "flows") == short
    newer = {**short.to_dict(), "of a later version": 3}
    assert StageRecord.from_dict(newer, tmp_path, "flows") == short


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "raw",
    [None, 3, [], {}, {"key": "k"}, {"key": 1, "weights": "w"}, {"weights": None, "key": "k"}],
)
def test_a_record_of_another_shape_is_named(raw, tmp_path):
    with pytest.raises(
        DataError, match="manifest.json: stages.joint is not the record of a stage"
    ):
        StageRecord.from_dict(raw, tmp_path / "manifest.json", "joint")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "change", [{"needs": []}, {"needs": {"joint": 3}}, {"seconds": "x"}, {"epochs": None}]
)
def test_a_field_of_another_type_is_named(change, tmp_path):
    raw = {"key": "k", "weights": "w", **change}
    with pytest.raises(DataError, match="stages.joint is not the record of a stage"):
        StageRecord.from_dict(raw, tmp_path / "manifest.json", "joint")
