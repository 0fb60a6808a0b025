"""Registries: kinds by name, by class and by import path, ours and other people's."""

import pytest

from mvflow.core import REGISTRIES, ConfigError, UsageError, registry, trust
from mvflow.core.parts import Part, create

KINDS = [
    (group, name)
    for group in REGISTRIES
    if group != "datasets"
    for name in registry(group).names()
]

FAMILY = """
from mvflow.posteriors import MAF
from mvflow.posteriors.base import Family

class Deep(Family):
    layers: int = 7

    def transform(self, latent):
        return MAF(transforms=self.layers).transform(latent)

class Outer:
    class Inner(Deep):
        pass

class Formless:
    pass
"""


@pytest.mark.parametrize(("group", "name"), KINDS)
def test_each_kind_fulfils_its_contract_and_is_found_by_its_class(group, name):
    kind = registry(group).load(name)
    assert issubclass(kind, registry(group).base)
    assert not getattr(kind, "__abstractmethods__", None)
    assert registry(group).name_of(kind) == name
    assert registry(group).by_class_name(kind.__name__) == name
    if issubclass(kind, Part):
        assert kind.group == group
        if (group, name) == ("likelihoods", "mixed"):  # what its columns are, it must be told
            with pytest.raises(ConfigError, match="groups: field required"):
                create(group, name)
        else:
            assert create(group, name) == kind()  # every setting has a default


def test_another_distribution_adds_a_kind(install):
    install("deep-flows", FAMILY, posteriors={"deep": "deep_flows:Deep"})
    assert "deep" in registry("posteriors").names()
    assert registry("posteriors").load("deep")().layers == 7
    assert registry("posteriors").load("maf").__name__ == "MAF"


@pytest.mark.bad_input
def test_an_unknown_name_is_given_the_nearest():
    with pytest.raises(UsageError, match="unknown posterior 'mfa': did you mean 'maf'.*nsf"):
        registry("posteriors").load("mfa")
    with pytest.raises(UsageError, match="unknown registry 'posterior': did you mean 'posteriors"):
        registry("posterior")


@pytest.mark.bad_input
def test_what_cannot_be_imported_is_named_with_its_package_and_the_others_work(install):
    install("broken-flows", "import nowhere_to_be_found", posteriors={"deep": "broken_flows:Deep"})
    with pytest.raises(
        UsageError,
        match="posterior 'deep' of package 'broken-flows' cannot be imported "
        r"\(broken_flows:Deep\): ModuleNotFoundError: No module named 'nowhere_to_be_found'",
    ):
        registry("posteriors").load("deep")
    assert create("posteriors", "maf").transforms == 2
    with pytest.raises(ConfigError, match="no setting 'bins': that is a setting of 'nsf'"):
        create("posteriors", {"kind": "maf", "bins": 3})  # the broken one is asked too
    with pytest.raises(UsageError, match="unknown posterior 'mfa'.*deep"):
        create("posteriors", "mfa")


@pytest.mark.bad_input
def test_what_lacks_a_method_of_the_contract_says_which(install):
    install("formless", FAMILY, posteriors={"formless": "formless:Formless"})
    with pytest.raises(
        UsageError,
        match=r"posterior 'formless' does not fulfil its contract "
        r"\(mvflow.posteriors.base.Family\): it has no transform",
    ):
        registry("posteriors").load("formless")


@pytest.mark.bad_input
def test_two_packages_with_one_name_are_both_named(install):
    install("one-flows", FAMILY, posteriors={"deep": "one_flows:Deep"})
    install("two-flows", FAMILY, posteriors={"deep": "two_flows:Deep"})
    with pytest.raises(UsageError, match=r"'deep' is registered twice.*one_flows:Deep") as found:
        registry("posteriors").names()
    assert "two_flows:Deep" in str(found.value)


def test_a_class_without_a_name_is_found_by_its_import_path(install):
    install("path-flows", FAMILY)
    trust("path_flows")
    for path in ("path_flows:Deep", "path_flows:Outer.Inner"):
        kind = registry("posteriors").load(path)
        assert registry("posteriors").name_of(kind) == path
        assert create("posteriors", {"kind": path, "layers": 3}) == kind(layers=3)


@pytest.mark.bad_input
def test_only_code_that_was_imported_on_purpose_is_found_by_its_path(install, tmp_path):
    install("path-flows", f"{FAMILY}\nopen({str(tmp_path / 'ran')!r}, 'w').close()")
    with pytest.raises(ConfigError, match="import path_flows first.*'mvflow --plugin path_flows'"):
        registry("posteriors").load("path_flows:Deep")
    assert not (tmp_path / "ran").exists()
    import path_flows  # as a user's own script does

    assert registry("posteriors").load("path_flows:Deep") is path_flows.Deep
    with pytest.raises(ConfigError, match="module path_flows has no Deeper"):
        registry("posteriors").load("path_flows:Deeper")
    with pytest.raises(UsageError, match="it has no transform"):
        registry("posteriors").load("path_flows:Formless")


@pytest.mark.bad_input
def test_a_plugin_that_cannot_be_imported_is_named(install):
    install("broken", "1 / 0")
    with pytest.raises(UsageError, match="plugin 'broken' cannot be imported: ZeroDivisionError"):
        trust("broken")
    with pytest.raises(ConfigError, match="has not been imported"):
        registry("posteriors").load("broken:Deep")
