"""Stage keys change with what a stage depends on, and with nothing else."""

import pytest

from mvflow.config import config_from_dict, stage_key, stage_names

RAW = {
    "model": "jnf-shared",
    "latent_dim": 2,
    "modalities": {"a": {"shape": [3]}, "b": {"shape": [4]}},
}
ALL = {"projectors", "joint", "flows"}

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
    (("modalities", "a", "scale"), 0.5, {"joint", "flows"}),
    (("modalities", "a", "weight"), 0.5, {"joint", "flows"}),
    (("modalities", "a", "encoder"), {"kind": "mlp", "hidden": [7]}, {"joint", "flows"}),
    (("modalities", "a", "decoder"), {"kind": "mlp", "hidden": [7]}, {"joint", "flows"}),
    (("modalities", "a", "projector"), {"kind": "mlp", "hidden": [7]}, {"projectors", "flows"}),
    (("joint", "epochs"), 3, {"joint", "flows"}),
    (("joint", "beta"), 2.0, {"joint", "flows"}),
    (("joint", "beta_start"), 2.0, {"joint", "flows"}),
    (("joint", "anneal"), 0.2, {"joint", "flows"}),
    (("joint", "merge"), [7], {"joint", "flows"}),
    (("joint", "precision"), "bfloat16", {"joint", "flows"}),
    (("projectors", "kind"), "dcca", {"projectors", "flows"}),
    (("projectors", "dim"), 3, {"projectors", "flows"}),
    (("projectors", "batch_size"), 64, {"projectors", "flows"}),
    (("flows", "posterior"), "nsf", {"flows"}),
    (("flows", "learning_rate"), 1e-2, {"flows"}),
    (("flows", "hidden"), [7], {"flows"}),
    (("flows", "patience"), 2, {"flows"}),
    (("sampler", "chains"), 8, set()),
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


def keys(config, data="data"):
    return {s: stage_key(config, s, data) for s in ALL}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    CHANGES,
    ids=lambda v: "+".join(map(str, sorted(v))) if isinstance(v, set) else str(v)[:40],
)
def test_a_change_reaches_the_stages_that_depend_on_it(path, value, expected):
    before, after = keys(config_from_dict(RAW)), keys(with_change(path, value))
    assert {s for s in ALL if before[s] != after[s]} == expected


def test_other_data_change_every_key():
    config = config_from_dict(RAW)
    assert all(keys(config)[s] != keys(config, "other")[s] for s in ALL)


def test_the_order_of_modalities_changes_no_key():
    turned = config_from_dict(RAW | {"modalities": dict(reversed(RAW["modalities"].items()))})
    assert keys(turned) == keys(config_from_dict(RAW))


def test_both_models_share_the_joint_stage_but_not_the_flows():
    shared = config_from_dict(RAW)
    plain = config_from_dict(RAW | {"model": "jnf"})
    assert keys(plain)["joint"] == keys(shared)["joint"]
    assert keys(plain)["flows"] != keys(shared)["flows"]
    assert stage_names(plain) == ("joint", "flows")
    assert stage_names(shared) == ("projectors", "joint", "flows")


def test_the_prior_rests_on_the_joint_stage_alone_and_nothing_on_it():
    fitted = config_from_dict(RAW | {"prior": {"kind": "mixture"}})
    assert stage_names(fitted) == ("projectors", "joint", "prior", "flows")
    more = config_from_dict(RAW | {"prior": {"kind": "mixture", "components": 3}})
    assert keys(more) == keys(config_from_dict(RAW))
    key = stage_key(fitted, "prior", "data")
    assert stage_key(more, "prior", "data") != key
    other = fitted.model_copy(update={"model": "jnf", "flows": more.flows})
    assert stage_key(other, "prior", "data") == key
    slower = fitted.joint.model_copy(update={"beta": 7.0})
    assert stage_key(fitted.model_copy(update={"joint": slower}), "prior", "data") != key
