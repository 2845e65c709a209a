from __future__ import annotations

import pytest

from sgpo.report.read import distinct_names, make_visible, shorten, visible_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\nof two lines", "plain\ttext\nof two lines"),
        ("nul \x00 escape \x1b bell \x07", "nul ␀ escape ␛ bell ␇"),
        ("delete \x7f, C1 \x9b", "delete ␡, C1 [U+009B]"),
        ("a lone surrogate \ud800.", "a lone surrogate \ufffd."),
        ("a noncharacter \uffff.", "a noncharacter \ufffd."),
        ("right to left \u202eevil\u202c", "right to left [U+202E]evil[U+202C]"),
        ("mark \u200f isolate \u2066", "mark [U+200F] isolate [U+2066]"),
        ("windows\r\nline, lone \r", "windows\nline, lone ␍"),
        ("separator \u2028.", "separator [U+2028]."),
        ("שלום, मस्ते, 𝒙 👍🏽 e\u0301", "שלום, मस्ते, 𝒙 👍🏽 e\u0301"),
    ],
)
def test_unfit_characters_become_signs_and_others_stay(text: str, shown: str) -> None:
    assert visible_text(text) == shown
    visible_text(text).encode("utf-8")


def test_every_string_inside_a_value_is_made_visible() -> None:
    value = {"a\x00": ["b\x00", {"c": "d\x00"}, 1, None, True]}
    assert make_visible(value) == {"a␀": ["b␀", {"c": "d␀"}, 1, None, True]}


def test_a_long_text_keeps_its_beginning_and_end() -> None:
    text = "x" * 100 + "y" * 2000 + "z" * 50
    assert shorten(text, head=100, tail=50) == "x" * 100 + "\n[… 2,000 characters left out …]\n" + "z" * 50
    assert shorten("short", head=3, tail=2) == "short"
    assert shorten("abcdef", head=2, tail=0) == "ab\n[… 4 characters left out …]\n"


def test_names_are_the_shortest_that_differ() -> None:
    assert distinct_names([("runs", "sgpo"), ("runs", "grpo")]) == ["sgpo", "grpo"]
    assert distinct_names([("a", "sgpo"), ("b", "sgpo")]) == ["a/sgpo", "b/sgpo"]
    assert distinct_names([("a", "sgpo"), ("a", "sgpo")]) == ["sgpo (1)", "sgpo (2)"]
