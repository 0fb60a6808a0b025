"""`mvflow list`: what there is, with settings, also where a package of somebody else is broken."""

import json

import pytest

from mvflow.config import recipe_names
from mvflow.core import REGISTRIES, registry


@pytest.mark.parametrize("group", REGISTRIES)
def test_every_kind_is_listed_with_what_it_is(mvflow, group):
    found = mvflow("list", group)
    assert found.code == 0
    lines = found.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == registry(group).names()
    assert all(line.partition(":")[2].strip() for line in lines)
    as_json = json.loads(mvflow("list", group, "--json").out)
    assert [kind["name"] for kind in as_json["kinds"]] == registry(group).names()


def test_settings_and_their_defaults_are_listed(mvflow):
    found = json.loads(mvflow("list", "posteriors", "--json").out)["kinds"]
    settings = {kind["name"]: kind["settings"] for kind in found}
    assert settings["gaussian"] == {}
    assert settings["nsf"] == {"transforms": 2, "hidden": [128, 128], "bins": 8, "context": 16}
    assert "nsf: Neural spline flow" in mvflow("list", "posteriors").out
    (jnf,) = (k for k in json.loads(mvflow("list", "systems", "--json").out)["kinds"]
              if k["name"] == "jnf")  # fmt: skip
    assert jnf["settings"]["posterior"] == "maf"
    assert jnf["settings"]["projector"] == "none"
    assert "sampler" not in jnf["settings"]  # which every system has


def test_recipes_are_listed_too(mvflow):
    lines = mvflow("list", "recipes").out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*recipe_names(), "auto"]


def test_a_kind_that_cannot_be_imported_is_said_among_the_others(mvflow, install):
    install("odd-flows", "import nowhere_at_all", posteriors={"odd": "odd_flows:Odd"})
    found = mvflow("list", "posteriors")
    assert found.code == 0
    assert "odd: posterior 'odd' of package 'odd-flows' cannot be imported" in found.out
    assert "maf: Masked autoregressive flow" in found.out
    (odd,) = (k for k in json.loads(mvflow("list", "posteriors", "--json").out)["kinds"]
              if k["name"] == "odd")  # fmt: skip
    assert "nowhere_at_all" in odd["error"]


def test_what_cannot_be_listed_is_given_the_nearest(refused):
    assert "did you mean 'posteriors'?" in refused("list", "posterior", code=2)


def test_without_a_contract_all_names_are_listed(mvflow):
    lines = dict(line.split(": ") for line in mvflow("list").out.splitlines())
    assert list(lines) == [*REGISTRIES, "recipes"]
    assert lines["posteriors"].split(", ") == registry("posteriors").names()
    assert json.loads(mvflow("list", "--json").out)["recipes"] == [*recipe_names(), "auto"]
