"""All that `docs/extending.md` says is run: its Python, its TOML, its errors, its commands."""

import doctest
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mvflow import load
from mvflow.config import config_from_dict
from mvflow.core import REGISTRIES, registry
from mvflow.systems import build_system
from mvflow_cli.main import run as mvflow

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
TEXT = PAGE.read_text("utf-8")


class Block(NamedTuple):
    """A fenced block: its language, its text, the line of the page where its text begins."""

    language: str
    text: str
    line: int

    @property
    def file(self):
        """The file whose content it is, or None."""
        found = re.match(r"# (my_package/\w+\.py)\n", self.text)
        return found and found[1]

    @property
    def toml(self):
        return tomllib.loads(self.text) if self.language == "toml" else {}


def sections():
    """Heading -> the blocks under it; what stands before the first heading is under ''."""
    title, found = "", {}
    for match in re.finditer(r"^## ([^\n]*)$|^```(\w*)\n(.*?)^```$", TEXT, re.M | re.S):
        title = match[1] or title
        if not match[1]:
            line = TEXT.count("\n", 0, match.start(3)) + 1
            found.setdefault(title, []).append(Block(match[2], match[3], line))
    return found


SECTIONS = sections()
SETUP = SECTIONS.pop("")
ENTRY_POINTS = {
    title: {
        group: names
        for block in blocks
        for group, names in block.toml.get("project", {}).get("entry-points", {}).items()
    }
    for title, blocks in SECTIONS.items()
}
KINDS = [title for title, found in ENTRY_POINTS.items() if found and title != "A data set"]


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    """The page's files as an installed distribution, with the page's entry points."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "my_package-1.0.dist-info"
    info.mkdir()
    (folder / "my_package").mkdir()
    for blocks in SECTIONS.values():
        for block in blocks:
            if block.file:
                (folder / block.file).write_text(block.text)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    lines = [
        line
        for groups in ENTRY_POINTS.values()
        for group, names in groups.items()
        for line in (f"[{group}]", *(f"{name} = {path}" for name, path in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        forget_kinds()
        yield
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]
    forget_kinds()


def forget_kinds():
    """Have the registries look for entry points again."""
    for each in REGISTRIES.values():
        each.__dict__.pop("_entries", None)


@pytest.fixture(scope="module")
def ran(package, tmp_path_factory):
    """Section -> the names that its blocks leave, run once in order in a folder of their own."""
    made = {}

    def run(title):
        if title in made:
            return made[title]
        namespace = {"__name__": "page"}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("section"))
            for block in [*SETUP, *SECTIONS[title]]:
                if block.language == "python" and not block.file:
                    code = "\n" * (block.line - 1) + block.text  # for the lines of tracebacks
                    exec(compile(code, str(PAGE), "exec"), namespace)
                elif not block.language and title == "A data set":
                    assert all(mvflow(shlex.split(c)[1:]) == 0 for c in block.text.splitlines())
        return made.setdefault(title, namespace)

    return run


@pytest.mark.parametrize("title", SECTIONS)
def test_examples_train_and_generate(ran, title, tmp_path):
    """All stages move their weights; what is generated varies, and is the same from disk."""
    names = ran(title)
    model = names["model"]
    fresh = build_system(model.config).state_dict()
    assert model.trained_ == model.stage_names
    trained = {value.data_ptr(): key for key, value in model.system_.state_dict().items()}
    for stage in model.stage_names:
        own = model.plan_.spec(stage).module.state_dict().values()
        assert any((value != fresh[trained[value.data_ptr()]]).any() for value in own), stage

    given = {"a": names["data"]["a"][:5]}
    made = model.generate(given, n=3)
    assert all(np.isfinite(x).all() and (x.std((0, 1)) > 0).all() for x in made.values())
    assert np.isfinite(model.sample_latent(n=4)).all()
    if "again" not in names:
        model.save(tmp_path / "run")
        names["again"] = load(tmp_path / "run")
    for name, x in names["again"].generate(given, n=3).items():
        np.testing.assert_array_equal(x, made[name])


@pytest.mark.parametrize("title", [*KINDS, "A data set"])
def test_entry_points_are_what_the_section_defines(title):
    found = {path for names in ENTRY_POINTS[title].values() for path in names.values()}
    defined = {block.file for block in SECTIONS[title] if block.file}
    assert {path.partition(":")[0].replace(".", "/") + ".py" for path in found} == defined
    for group, names in ENTRY_POINTS[title].items():
        for name, path in names.items():
            kind = registry(group.removeprefix("mvflow.")).load(name)
            module, _, attribute = path.partition(":")
            assert kind is getattr(sys.modules[module], attribute)


@pytest.mark.parametrize("title", KINDS)
def test_toml_means_what_python_means(ran, title):
    """Each block of TOML, over the configuration of the model, is of the class defined here."""
    config = ran(title)["model"].config
    (path,) = {path for names in ENTRY_POINTS[title].values() for path in names.values()}
    fragments = [b.toml for b in SECTIONS[title] if b.toml and "project" not in b.toml]
    assert fragments
    for fragment in fragments:
        changed = config_from_dict(merged(config.model_dump(), fragment))
        assert path in {class_path(each) for each in [build_system(changed), *parts(changed)]}


def merged(base, changes):
    if not isinstance(base, dict) or not isinstance(changes, dict) or "kind" in changes:
        return changes
    return {**base, **{key: merged(base.get(key), value) for key, value in changes.items()}}


def parts(section):
    for _, value in section:
        for each in value.values() if isinstance(value, dict) else [value]:
            yield each
            yield from parts(each) if hasattr(each, "model_dump") else ()


def class_path(value):
    return f"{type(value).__module__}:{type(value).__qualname__}"


def test_errors_are_those_of_the_page(ran):
    (title,) = (t for t, blocks in SECTIONS.items() if any(b.language == "pycon" for b in blocks))
    (block,) = (b for b in SECTIONS[title] if b.language == "pycon")
    test = doctest.DocTestParser().get_doctest(
        block.text, dict(ran(title)), PAGE.name, str(PAGE), block.line
    )
    said = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert (result.attempted, result.failed) == (5, 0), "".join(said)


def test_an_import_path_needs_the_plugin_option(ran, tmp_path, capsys, monkeypatch):
    model = ran("A posterior family")["model"]
    model.save(tmp_path / "run")
    config, name = tmp_path / "run" / "config.toml", "my_package.bernstein"
    text = config.read_text()
    assert 'kind = "bernstein"' in text
    config.write_text(text.replace('kind = "bernstein"', f'kind = "{name}:Bernstein"'))
    monkeypatch.delitem(sys.modules, name)
    command = ["sample", str(tmp_path / "run"), "--n", "2", "--out", str(tmp_path / "s.h5")]
    assert mvflow(command) == 2
    assert f"--plugin {name}'" in capsys.readouterr().err
    assert mvflow(["--plugin", name, *command]) == 0


def test_a_random_walk_draws_what_hmc_draws(ran):
    """Means agree within 5 standard errors, from variances and effective sample sizes."""
    walk, hmc = (ran("A sampler")[name] for name in ("drawn", "by_name"))
    error = sum(d.z.var(0) / d.diagnostics.ess[:, None] for d in (walk, hmc))
    assert (np.abs(walk.z.mean(0) - hmc.z.mean(0)) < 5 * np.sqrt(error)).all()


def test_every_contract_has_a_section():
    groups = {f"mvflow.{group}" for group in REGISTRIES}
    assert {group for found in ENTRY_POINTS.values() for group in found} == groups
    assert {found for found in re.findall(r"^\| \[.*?`(mvflow\.\w+)` \|", TEXT, re.M)} <= groups
