"""What is shipped: recipes that load, pages that are what their generators write, links that lead somewhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from research import quickstart_seeds
from research.page import write_page
from research.plan import SHIPPED, load_study
from sgpo import SGPOConfig
from sgpo.algorithms import build_algorithm
from sgpo.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("path", sorted((ROOT / "research/recipes").rglob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_load(path, tmp_path):
    recipe = load_recipe(path)
    args = SGPOConfig(output_dir=str(tmp_path), **recipe.train)
    build_algorithm(args.algorithm, vars(args))
    assert recipe.out == f"runs/{path.parent.name}/{path.stem}"


def test_the_study_page_is_made_of_the_results(tmp_path):
    study = load_study(SHIPPED)
    page = write_page(study.model_copy(update={"page": tmp_path / "docs/results/study.md"}), "python -m research")
    assert page.read_text(encoding="utf-8") == study.page.read_text(encoding="utf-8")


def test_the_quickstart_page_is_made_of_the_results(tmp_path, monkeypatch):
    page = shutil.copy(quickstart_seeds.PAGE, tmp_path)
    monkeypatch.setattr(quickstart_seeds, "PAGE", Path(page))
    quickstart_seeds.write_seeds_page()
    assert Path(page).read_text(encoding="utf-8") == (ROOT / "docs/results/quickstart.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, heading = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"{path.relative_to(ROOT)}: {link}"
        if heading:
            assert heading in anchors(target), f"{path.relative_to(ROOT)}: {link}"


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
