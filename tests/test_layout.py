"""The shape of the repository: folders, exported names, what an import costs."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ["mvflow", "mvflow_datasets", "mvflow_cli"]


def packages():
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield name
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if found.ispkg:
                yield found.name


def kind(name):
    """The order of `__all__`: constants, classes, functions, each by name."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("folder", ["cli", "datasets", "tests", "docs", "benchmarks"])
def test_folders_that_are_no_packages_have_no_init(folder):
    """A regular package of that name would shadow other people's distributions."""
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("name", list(packages()))
def test_exported_names_exist_and_are_sorted(name):
    package = importlib.import_module(name)
    exported = list(getattr(package, "__all__", []))
    assert exported == sorted(set(exported), key=kind)
    for each in exported:
        assert getattr(package, each) is not None


@pytest.mark.parametrize("name", [n for n in packages() if n.startswith("mvflow.")])
def test_what_a_package_imports_for_export_is_exported(name):
    path = Path(importlib.import_module(name).__file__)
    tree = ast.parse(path.read_text("utf-8"))
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{name}.")
        for alias in node.names
    }
    exported = set(getattr(importlib.import_module(name), "__all__", []))
    assert imported <= exported


def loaded(code):
    """Names of the modules that are loaded after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_importing_mvflow_is_cheap():
    heavy = {"torch", "matplotlib", "pandas", "scipy", "h5py", "zuko", "pydantic"}
    assert not loaded("import mvflow") & heavy


@pytest.mark.parametrize("layer", ["core", "functional", "samplers", "metrics"])
def test_array_generic_layers_import_no_backend(layer):
    code = f"import importlib; importlib.import_module('mvflow.{layer}')"
    assert not loaded(code) & {"torch", "zuko", "jax", "h5py", "typer"}


def test_lazy_names_are_those_of_the_package():
    import mvflow

    assert sorted(mvflow._HOMES) == sorted(mvflow.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'JFN'"):
        _ = mvflow.JFN
