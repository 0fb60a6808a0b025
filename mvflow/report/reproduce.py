"""The commands that make a run again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from mvflow.report.entry import Entry

__all__ = ["commands", "differences"]


def commands(entry: Entry) -> list[str]:
    """Commands that train and measure the model of an entry again."""
    from mvflow.config import config_from_dict, recipe, recipe_names

    config, run = entry.estimator.config, shlex.quote(entry.name)
    rest = [f"mvflow {verb} {run}" for verb in ("train", "evaluate", "report")]
    if config.recipe not in recipe_names():
        return [f"# config.toml of this run, in the folder {run}", *rest]
    usual = recipe(config.recipe)["system"]
    named = [] if config.system == usual else [f"system={config.system}"]
    plain = config_from_dict(recipe(config.recipe, named)).model_dump(mode="json")
    changed = differences(plain, config.model_dump(mode="json"))
    store = shlex.quote(config.data.store or f"{entry.store.get('name', 'STORE')}.h5")
    settings = [*named, *(f"{k}={v}" for k, v in changed if k != "data.store")]
    sets = [f"--set {shlex.quote(text)}" for text in settings]
    new = " \\\n  ".join([f"mvflow new {run} --recipe {config.recipe} --store {store}", *sets])
    return [new, *rest]


def differences(plain: Mapping[str, Any], changed: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of `changed` whose values are others than in `plain`, with values as TOML.

    Examples:
        >>> list(differences({"a": {"b": 1, "c": "x"}}, {"a": {"b": 2, "c": "x"}}))
        [('a.b', '2')]
    """
    for key, value in changed.items():
        before = plain.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            for inner, text in differences(before, value):
                yield f"{key}.{inner}", text
        elif value != before:
            yield key, _toml(value)


def _toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) + "}"
    return value if isinstance(value, str) else json.dumps(value)
