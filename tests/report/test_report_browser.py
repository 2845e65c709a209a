"""The page in a real browser: Debian's Chromium, by Playwright. Skipped where either is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import make_run, write_lines

from sgpo.report import write_report

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens a file; at the end no page may have said anything on the console, nor asked for anything but the file."""
    contexts, said, asked = [], [], []

    def open_(path: Path, **options: Any) -> Any:
        context = browser.new_context(reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []
    assert all(url.startswith("file:") for url in asked)


def found(page: Any) -> tuple[int, int, int]:
    """`(problems shown, of how many, completions)` as the page says it."""
    numbers = re.findall(r"\d+", page.locator("#found").inner_text().replace(",", ""))
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_renders_in_light_and_dark(report: Path, open_page: Any, scheme: str) -> None:
    page = open_page(report, color_scheme=scheme)
    paper, ink = page.evaluate(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    label = page.locator("#curves ~ * svg text").first.evaluate("node => getComputedStyle(node).fill")
    brightness = [sum(map(int, re.findall(r"\d+", colour))) for colour in (paper, ink, label)]
    if scheme == "light":
        assert brightness[0] > 700 > 400 > brightness[1]
        assert brightness[2] < 400
    else:
        assert brightness[0] < 100 < 600 < brightness[1]
        assert brightness[2] > 400
    assert page.locator("svg").count() > 15
    assert page.locator(".card").count() == 8


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(report: Path, open_page: Any, width: int) -> None:
    page = open_page(report, viewport={"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_filters(report: Path, open_page: Any) -> None:
    page = open_page(report)
    assert page.locator("select[name=run]").input_value() == "1"  # the run with guided completions comes first
    problems, total, completions = found(page)
    assert problems == total == 40
    page.select_option("select[name=family]", "clues")
    assert found(page)[:2] == (20, 40)
    assert set(page.locator(".card header span").all_inner_texts()) == {"clues"}
    page.select_option("select[name=family]", "")
    page.select_option("select[name=group]", "g")
    assert found(page)[2] < completions
    assert {text.split(",")[0] for text in page.locator("#cards .side > p strong").all_inner_texts()} == {"guided"}
    page.select_option("select[name=verdict]", "wrong")
    assert page.locator("#cards .completion").count() == page.locator("#cards .completion.v-wrong").count() > 0
    page.select_option("select[name=group]", "")
    page.select_option("select[name=verdict]", "timeout")
    shown = found(page)[0]
    assert shown < 40
    page.select_option("select[name=verdict]", "")
    page.fill("input[name=find]", "clock-7")
    assert page.locator(".card h4").all_inner_texts() == ["clock-7"]
    page.fill("input[name=find]", "no such text")
    assert found(page)[0] == page.locator(".card").count() == 0


def test_where_before_and_after_are_is_said_if_training_met_each_problem_once(tmp_path: Path, open_page: Any) -> None:
    page = open_page(write_report([make_run(tmp_path / "run", steps=1, problems=8)], tmp_path / "report.html"))
    assert "see fresh under From" in page.locator("#found").inner_text()
    page.select_option("select[name=source]", "fresh")
    assert "under From" not in page.locator("#found").inner_text()


def test_runs_and_evaluations_can_be_chosen(report: Path, open_page: Any) -> None:
    page = open_page(report)
    page.select_option("select[name=source]", "fresh")
    assert found(page) == (60, 60, 60 * 4 * 2)
    assert not page.locator("label:has(select[name=family])").is_visible()  # an evaluation names no family
    page.select_option("select[name=run]", "0")
    page.select_option("select[name=source]", "training")
    assert set(page.locator("#cards .side > p strong").all_inner_texts()) == {"autonomous"}


def test_the_order_is_by_what_was_gained_or_lost_alone(report: Path, open_page: Any) -> None:
    page = open_page(report)

    def gains() -> list[float]:
        """Right in the last visit minus right in the first, of 8 autonomous completions each, card by card."""
        cards = [
            card.locator(".side > p", has_text="autonomous").all_inner_texts() for card in page.locator(".card").all()
        ]
        rights = [[int(re.findall(r"(\d+) of 8 right", text)[0]) for text in texts] for texts in cards]
        return [visits[-1] - visits[0] for visits in rights]

    as_sampled = gains()
    page.select_option("select[name=order]", "gain")
    assert gains() == sorted(gains(), reverse=True) != as_sampled
    assert gains()[0] > 0
    page.select_option("select[name=order]", "loss")
    assert gains() == sorted(gains())
    assert gains()[0] < max(as_sampled)


def test_more_can_be_shown(report: Path, open_page: Any) -> None:
    page = open_page(report)
    page.locator("#show-more").press("Enter")
    assert page.locator(".card").count() == 16
    side = page.locator("#cards .side", has=page.locator("> button.more")).first
    before = side.locator(".completion").count()
    side.locator("> button.more").click()
    assert page.locator(".card").first.locator(".completion").count() > before


def test_tokens_are_walked_by_keyboard_and_say_their_value(report: Path, open_page: Any) -> None:
    page = open_page(report)
    tokens = page.locator(".tokens").first.locator("b")
    assert page.locator(".tokens").first.locator("[tabindex='0']").count() == 1
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    assert tokens.nth(1).evaluate("node => node === document.activeElement")
    value = tokens.nth(1).get_attribute("data-d")
    assert tokens.nth(1).evaluate("node => getComputedStyle(node, '::after').content") == f'"{value} nats"'
    assert tokens.nth(0).evaluate("node => getComputedStyle(node, '::after').content") == "none"
    page.keyboard.press("End")
    assert tokens.last.evaluate("node => node === document.activeElement")
    tokens.nth(2).hover()
    assert "nats" in tokens.nth(2).evaluate("node => getComputedStyle(node, '::after').content")


def test_strategies_can_be_sorted(report: Path, open_page: Any) -> None:
    page = open_page(report)
    page.evaluate("document.querySelectorAll('#strategies ~ details').forEach((one) => { one.open = true; })")
    table = page.locator("table.sortable").last

    def column(index: int) -> list[float]:
        return [
            float(value)
            for value in table.locator(f"tbody tr > :nth-child({index})").evaluate_all(
                "nodes => nodes.map((node) => node.dataset.value)"
            )
        ]

    assert column(2) == sorted(column(2), reverse=True)
    table.locator("thead button", has_text="Autonomous").click()
    assert column(3) == sorted(column(3), reverse=True)
    table.locator("thead button", has_text="Autonomous").click()
    assert column(3) == sorted(column(3))
    assert table.locator("th[aria-sort=ascending]").inner_text() == "Autonomous"


def test_a_plot_shows_its_values_under_the_pointer_and_by_keyboard(report: Path, open_page: Any) -> None:
    page = open_page(report, viewport={"width": 1280, "height": 800})
    readout, plot = page.locator(".readout"), page.locator("svg[data-values]:visible").first
    assert not readout.is_visible()
    plot.hover()
    assert re.search(r"completions sampled [\d,]+\s*grpo \d+\.\d %.*\s*sgpo \d+\.\d %", readout.inner_text())
    assert plot.locator(".marks circle").count() == 2
    page.mouse.move(0, 0)
    assert not readout.is_visible()
    plot.focus()
    page.keyboard.press("Home")
    first = readout.inner_text()
    page.keyboard.press("ArrowRight")
    assert first.startswith("completions sampled 0")
    assert readout.inner_text() != first


def test_hostile_text_is_shown_and_never_run(tmp_path: Path, open_page: Any) -> None:
    hostile = (
        '</script ><!--<script </script><script>window.pwned = 1</script><img src=x onerror="window.pwned = 1">'
        " \x00 \u202egnp.exe \ud800"
    )
    run = make_run(tmp_path / "run", steps=10, problems=8)
    row = {
        "step": 11,
        "problem_id": hostile,
        "subject": hostile,
        "prompt": hostile,
        "completion": hostile,
        "verdict": "wrong",
    }
    groups = [row | {"group": "guided", "strategy_id": hostile}, row | {"group": "autonomous", "extracted": hostile}]
    write_lines(run / "rollouts" / "step-000011.jsonl", groups)
    write_lines(
        run / "targets" / "step-000011.jsonl", [row | {"tokens": [hostile, hostile], "divergences": [9.0, 1.0]}]
    )
    page = open_page(write_report([run], tmp_path / "report.html"))
    page.fill("input[name=find]", "pwned")
    card = page.locator(".card")
    assert card.count() == 1
    assert (
        "</script ><!--<script </script><script>window.pwned = 1</script><img src=x"
        in card.locator(".completion .text").first.inner_text()
    )
    assert "␀ [U+202E]gnp.exe \ufffd" in card.inner_text()
    assert hostile[:20] in page.locator(".target").last.inner_text()
    assert page.evaluate("window.pwned") is None
    assert page.locator("img").count() == 0


def test_a_page_without_anything_says_so_and_has_no_error(tmp_path: Path, open_page: Any) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    page = open_page(write_report([tmp_path / "run"], tmp_path / "report.html"))
    assert "no score to lead with" in page.locator("header").first.inner_text()
