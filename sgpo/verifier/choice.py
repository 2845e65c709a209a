"""The letters of a multiple choice: those that a gold answer names, and those that a completion chooses."""

from __future__ import annotations

import re

from sgpo.verifier.extract import last_box

_CHOICE_MARKER = re.compile(r"\b(?:answer|choice|option)\b(?:[^.:\n]{0,40}?\bis\b|\s*[:=])", re.IGNORECASE)
_LETTER = re.compile(r"(?<![\w'’])(A(?!\s+[a-z])|[B-HJ-Z])(?![\w'’])|(?<!\w)\(([A-Z])\)")
_LETTER_AHEAD = re.compile(r"\W{0,8}(?:for sure |surely |clearly |definitely )?\W{0,8}\(?([A-Z])(?![\w'’])")
_MORE_LETTERS = re.compile(r"(?:\)?\s*(?:,|\bor\b|\band\b)\s*)+\(?([A-Z])(?![\w'’])(?!\)?\s+(?:is|are|can|was|does)\b)")
_LETTER_FIRST = re.compile(r"\W{0,4}([A-Z])(?:[).:]|\s*$|\s+(?=[A-Z(]))")


def chosen_letters(completion: str) -> set[str]:
    """The letters that a completion chooses: in its box, after "answer is", at its start, or the last one it names."""
    if box := last_box(completion):
        return letters_of(re.sub(r"\\text\w*\s*\{([^{}]*)\}|\\math\w+\s*\{([^{}]*)\}", r"\1\2", box))
    for marker in reversed(list(_CHOICE_MARKER.finditer(completion))[-5:]):
        if match := _LETTER_AHEAD.match(completion, marker.end()):
            return {match[1], *_letters_linked_to(completion, match.end())}
    if match := _LETTER_FIRST.match(completion):
        return {match[1]}
    letters = _LETTER.findall(completion[-1000:])
    return {letters[-1][0] or letters[-1][1]} if letters else set()


def _letters_linked_to(completion: str, end: int) -> list[str]:
    """B and C of "the answer is A, B or C": who names several has chosen several."""
    letters = []
    while match := _MORE_LETTERS.match(completion, end):
        letters.append(match[1])
        end = match.end()
    return letters


def letters_of(text: str) -> set[str]:
    """`(B)`, `b`, `B. 2.5` and `B) 2.5` are {B}; `A, C` and `A and C` are {A, C}."""
    text = text.strip().strip("$").strip()
    if len(text) < 40 and re.fullmatch(r"\(?[A-Za-z]\)?(?:(?:\s*,\s*|\s+and\s+|\s*)\(?[A-Z]\)?)*[.]?", text):
        return {letter.upper() for letter in re.findall(r"(?<![a-z])[A-Za-z](?![a-z])", text)}
    match = re.match(r"\(([A-Za-z])\)|([A-Z])(?:[).:\s])", text)
    return {(match[1] or match[2]).upper()} if match else set()
