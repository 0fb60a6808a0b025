"""The data cards of the documentation agree with the builders that they speak of."""

import json
from pathlib import Path

import pytest

from mvflow_datasets import find_builder, known_builders

DOCS = Path(__file__).parents[2] / "docs"
MADE = DOCS / "data" / "cards.json"
CARDS = json.loads(MADE.read_text()) if MADE.exists() else {}  # a source archive has no docs


@pytest.mark.parametrize("name", [n for n in known_builders() if n in CARDS or n == "mhd"])
def test_a_builder_says_how_the_data_are_made_and_under_what_terms(name):
    builder = find_builder(name)
    assert builder.about.endswith(".")
    assert builder.licence
    assert not builder.licence.endswith(".")


@pytest.mark.parametrize("name", CARDS)
def test_a_card_shows_a_store_built_with_the_defaults(name):
    card = CARDS[name]
    assert card["parameters"] == {p.name: p.default for p in find_builder(name).parameters}
    assert card["seed"] == 0
    assert bool(card["sources"]) == find_builder(name).needs_source


@pytest.mark.parametrize("name", [n for n in CARDS if CARDS[n]["picture"]])
def test_a_picture_is_there_and_small(name):
    assert (DOCS / "images" / "data" / CARDS[name]["picture"]).stat().st_size < 60_000
