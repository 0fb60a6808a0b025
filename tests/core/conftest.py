"""Distributions of other people, installed for one test."""

import dataclasses
import sys
from importlib import import_module

import pytest

from mvflow.core import parts

registry = import_module("mvflow.core.registry")  # the package has a function of this name


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution: install("name", module code, group={"kind": "module:object"})."""
    before = set(sys.modules)

    def call(name, code, **groups):
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(code, "utf-8")
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [
            line
            for group, kinds in groups.items()
            for line in (f"[mvflow.{group}]", *(f"{k} = {v}" for k, v in kinds.items()))
        ]
        (folder / "entry_points.txt").write_text("\n".join(lines), "utf-8")
        fresh = {group: dataclasses.replace(each) for group, each in registry.REGISTRIES.items()}
        monkeypatch.setattr(registry, "REGISTRIES", fresh)
        parts._created.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_TRUSTED", set())
    yield call
    parts._created.cache_clear()
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(tmp_path / f"{name}.py"):
            del sys.modules[name]
