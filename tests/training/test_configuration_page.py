"""docs/configuration.md has every option of SGPOConfig as it is declared: default, meaning, reader and source."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from sgpo import SGPOConfig
from sgpo.training.config import SECTIONS
from sgpo.training.options import configuration_page
from sgpo.training.recipe import LoraSection, ProblemSource, Recipe, RewardSection, WarmupSection

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def rows_of_the_page():
    """`{option: (default, meaning, readers, source)}`."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): tuple(row[1:]) for row in cells if len(row) == 5}


def test_every_option_is_on_the_page_as_it_is():
    defaults = {field.name: field for field in fields(SGPOConfig)}
    rows = rows_of_the_page()
    expected = {}
    for name in SGPOConfig.__annotations__:
        default = "null" if defaults[name].default is None else str(defaults[name].default)
        expected[name] = (f"`{default}`", defaults[name].metadata["help"])
    assert {name: row[:2] for name, row in rows.items()} == expected
    assert all(row[2] for row in rows.values()), "an option that nothing reads"
    assert all(row[3] for row in rows.values()), "an option without a source"


def test_the_page_has_the_tables_that_the_declarations_print():
    assert configuration_page(SGPOConfig, SECTIONS) in PAGE.read_text(encoding="utf-8")


def test_every_key_of_a_recipe_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_.]+)`", page))
    for model, prefix in (
        (Recipe, ""),
        (ProblemSource, "problems."),
        (WarmupSection, "warmup."),
        (LoraSection, "lora."),
        (RewardSection, "rewards."),
    ):
        assert {prefix + name for name in model.model_fields} <= named
