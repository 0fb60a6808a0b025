"""Settings that never act are said, and only those."""

import pytest

from mvflow.config import config_from_dict, idle_settings, recipe, recipe_names

RAW = {"system": "jnf", "latent_dim": 2, "modalities": {"a": {"shape": [3]}}}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({}, []),
        ({"joint": {"anneal": 0.5}}, []),  # the default, which every written config.toml has
        ({"joint": {"anneal": 0.2, "beta_start": 9.0}}, []),
        (
            {"joint": {"anneal": 0.2}},
            ["joint.anneal = 0.2 has no effect without joint.beta_start"],
        ),
        (
            {"joint": {"anneal": 0.2, "beta": 2.0, "beta_start": 2.0}},
            ["joint.anneal = 0.2 has no effect where joint.beta_start is joint.beta"],
        ),
        ({"flows": {"patience": 3}, "data": {"validation": 0.1}}, []),
        ({"flows": {"patience": 3}, "data": {"validation": 0}}, ["flows.patience need"]),
        (
            {"joint": {"keep_best": True, "patience": 2, "epochs": 0}, "data": {"validation": 0}},
            [],
        ),
    ],
)
def test_what_never_acts_is_said(sections, words):
    found = idle_settings(config_from_dict({**RAW, **sections}))
    assert len(found) == len(words)
    assert all(line.startswith(start) for line, start in zip(found, words, strict=True))


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_have_no_setting_that_never_acts(name):
    assert idle_settings(config_from_dict(recipe(name))) == []
