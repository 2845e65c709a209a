"""Words and units of which only one can be right: `10 %` more is not `10 %` less, and 5 °C are not 5 °F."""

from __future__ import annotations

import re

from sgpo.verifier.text import without_text

_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"

# A row's sides exclude each other; the words of one side mean the same here.
_ROWS = (
    "increase increases increased increasing gain gains gained profit profits rise rises rose risen more higher above"
    " up upward upwards|decrease decreases decreased decreasing loss losses lost lose loses fall falls fell fallen drop"
    " drops dropped less fewer lower below down downward downwards discount",
    "am midnight|pm noon",
    "north|south|east|west|northeast|northwest|southeast|southwest",
    "left|right",
    "before ahead early fast|after behind late slow",
    "clockwise|counterclockwise anticlockwise",
    "$ dollar dollars usd|cent cents|€ euro euros eur|£|¥ yen",
    "°c celsius|°f fahrenheit|°k kelvin",
    _MONTHS,
)
_SIDES = {
    word: (row, side)
    for row, sides in enumerate(_ROWS)
    for side, words in enumerate(sides.split("|"))
    for word in words.split()
}
_DEGREES = re.compile(r"\^?\s*\{?\s*\\circ\s*\}?|\bdegrees?\b")
_WORD = re.compile(
    r"°\s*[cfk](?![a-z])|[ap]\.?m(?![a-z])|(?:counter|anti)[- ]?clockwise|(?:north|south)[- ]?(?:east|west)"
    r"|[a-z]+|\\\$|[€£¥]"
)


def are_contrary(gold: str, found: str) -> bool:
    """Whether both answers take sides, and not the same ones: "increase" and "decrease", dollars and cents."""
    ours, theirs = _sides_taken(gold), _sides_taken(found)
    shared_rows = {row for row, _ in ours} & {row for row, _ in theirs}
    return any(row in shared_rows for row, _ in ours ^ theirs)


def _sides_taken(text: str) -> set[tuple[int, int]]:
    plain = _DEGREES.sub("°", without_text(text).lower())
    words = (re.sub(r"[\s.\\-]", "", word) for word in _WORD.findall(plain))
    return {_SIDES[word] for word in words if word in _SIDES}
