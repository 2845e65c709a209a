r"""The kinds of task: how a completion is judged against the gold answer.

| kind | judged by |
|---|---|
| `math` | `sgpo.verifier.math.equivalence` |
| `exact` | the same text, up to white space (LaTeX's too) and `\text{...}` |
| `choice` | the letter of a multiple choice |
| `puzzle` | the function that the gold answer names (`{"check": "package.module:function", ...}`), else as `exact` |
| `package.module:function` | `function(completion=..., answer=...) -> bool | Verdict`, a user's own |
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sgpo.errors import InputError
from sgpo.verifier.extract import READ_LIMIT, extract_answer, gold_text, last_box, words_said
from sgpo.verifier.math.latex import repaired, without_text

VerdictKind = Literal["correct", "wrong", "unparsed", "timeout"]

KINDS = ("math", "exact", "choice", "puzzle")

# Texts that say the same to `exact`.
_ANSWER_MARKER = re.compile(r"\banswer\b(?:\s+is\b)?\s*[:=]?", re.IGNORECASE)
_LATEX_SPACE = re.compile(r"\\[ ,;:!]|\\q?quad(?![A-Za-z])|~")

# Letters of a multiple choice. "A" before a lower-case word is the article.
_CHOICE_MARKER = re.compile(r"\b(?:answer|choice|option)\b(?:[^.:\n]{0,40}?\bis\b|\s*[:=])", re.IGNORECASE)
_LETTER = re.compile(r"(?<![\w'’])(A(?!\s+(?!or\b)[a-z])|[B-HJ-Z])(?![\w'’])|(?<!\w)\(([A-Z])\)")
_LETTER_RULED_OUT = re.compile(r"\b(?:not|isn't|cannot be|can't be|nor|neither|rather than)\s+\(?[A-Z](?![\w'’])\)?")
_LETTER_AHEAD = re.compile(
    r"\W{0,8}(?:for sure |surely |clearly |definitely )?\W{0,8}\(?([A-Z](?![\w'’])|[a-hj-z](?=\)|[.,]?\W*$|[.,]\s))"
)
_MORE_LETTERS = re.compile(r"(?:\)?\s*+(?:,|or\b|and\b)\s*+)++\(?([A-Z])(?![\w'’])(?!\)?\s+(?:is|are|can|was|does)\b)")
_OR = re.compile(r"\)?\s*+(?:,|,?\s*+or\b)\s*+\(?")
_LETTER_FIRST = re.compile(r"\W{0,4}([A-Z])(?:[).:]|\s*$|\s+(?=[A-Z(]))")
_LETTER_ALONE = re.compile(r"\W{0,8}([a-z])\W{0,8}")

# Mathematics: a gold answer that is a letter, and one that data sets write in several ways.
_GOLD_LETTER = re.compile(r"\s*\(?[A-H]\)?\s*|\s*\([A-H]\)\s.*", re.DOTALL)
_ALTERNATIVES = re.compile(r"\\text\s*\{\s*OR\s*\}|\sOR\s")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier says of a completion.

    Attributes:
        kind: `correct`; `wrong`; `unparsed`, where the completion holds no answer; `timeout`, where judging it took
            too long, too much memory, or crashed.
        extracted: the answer as the model wrote it, None where there is none.

    Example: `Verdict("correct", extracted="3 1 4 2")`.
    """

    kind: VerdictKind
    extracted: str | None = None

    @property
    def correct(self) -> bool:
        """Whether the answer equals the gold answer."""
        return self.kind == "correct"


class UsageError(InputError):
    """The user's mistake, not the model's: reported, never counted as a verdict."""


def judge_completion(
    completion: str, answer: str, *, kind: str, strict: bool = False, finished: bool = True
) -> Verdict:
    """Judge a completion in this process and without limits.

    Args:
        completion: what the model wrote.
        answer: the gold answer.
        kind: one of `KINDS`, or `package.module:function`.
        strict: the strict policy, which only `math` knows.
        finished: False for a completion that was cut off: it has no answer in plain prose, nor in a last line.

    Raises:
        UsageError: there is no such kind or function, or the gold answer does not fit the kind.
    """
    check_kind(kind)
    if kind == "math":
        return judge_math(completion, answer, strict=strict, finished=finished)
    if kind == "exact":
        return _judge_exact(completion[-READ_LIMIT:], answer, finished=finished)
    if kind == "choice":
        return _judge_choice(completion[-READ_LIMIT:], answer, finished=finished)
    if kind == "puzzle":
        check = check_of(answer)
        return (
            _call(check, completion, answer)
            if check
            else _judge_exact(completion[-READ_LIMIT:], answer, finished=finished)
        )
    return _call(kind, completion, answer)


def check_kind(kind: str) -> None:
    """Raises UsageError for what is no kind of problem; a function is not looked up."""
    if kind not in KINDS and ":" not in kind:
        raise UsageError(
            f"unknown kind of problem {kind!r}; there are: {', '.join(KINDS)}, and 'package.module:function' for your "
            "own"
        )


def judge_math(completion: str, answer: str, *, strict: bool = False, finished: bool = True) -> Verdict:
    """Judge a completion whose answer is mathematics.

    Args:
        completion: what the model wrote.
        answer: the gold answer, or a solution that holds it.
        strict: take a clear statement and exact values only (`policy="strict"`).
        finished: False for a completion that was cut off, which has no answer in plain prose.
    """
    from sgpo.verifier.math.equivalence import ANSWER_LIMIT, is_same  # sympy: not in a process that judges no `math`

    answer = repaired(answer)
    gold = gold_text(answer)
    found = extract_answer(completion, strict=strict, finished=finished)
    # "I think it's B, as A is too large" names its choice in a sentence, where the last value is no guide to it.
    if not strict and _GOLD_LETTER.fullmatch(without_text(gold)) and _is_in_words(completion[-READ_LIMIT:]):
        found = ", ".join(sorted(chosen_letters(completion[-READ_LIMIT:], finished=finished))) or found
    # A gold answer in words is looked for as words: "so she ends up facing west".
    if not strict and finished and (said := words_said(completion, without_text(gold))):
        found = said
    if found is None:
        return Verdict("unparsed")
    right = plain_text(found) == plain_text(answer) or any(
        is_same(way, found, strict=strict) for way in dict.fromkeys((gold, *_ALTERNATIVES.split(gold)))
    )
    return Verdict("correct" if right else "wrong", found[:ANSWER_LIMIT])


def _is_in_words(completion: str) -> bool:
    """Whether a completion says its answer in a sentence, not in a box or as a formula."""
    no_statement = extract_answer(completion, strict=True) is None
    return no_statement and bool(re.search(r"(?<![\\{A-Za-z])[a-z]{2,}+\s", completion))


def _judge_exact(completion: str, answer: str, *, finished: bool) -> Verdict:
    """The same plain text: the last box, else the line after the last "answer", else the last line."""
    extracted = last_box(completion)
    if extracted is None:
        marker = max(_ANSWER_MARKER.finditer(completion), key=re.Match.end, default=None)
        said = completion[marker.end() :] if marker else completion if finished else ""
        lines = said.strip().splitlines()
        extracted = (lines[0] if marker else lines[-1]) if lines else ""
    extracted = plain_text(extracted)
    if not extracted or extracted.startswith(r"\boxed"):  # nothing, or an empty box
        return Verdict("unparsed")
    return Verdict("correct" if extracted == plain_text(answer) else "wrong", extracted)


def plain_text(text: str) -> str:
    r"""Write a short text with single spaces, those of LaTeX included, and without `\text{...}` around its parts."""
    return " ".join(_LATEX_SPACE.sub(" ", without_text(text)).split())


def _judge_choice(completion: str, answer: str, *, finished: bool) -> Verdict:
    """The same letters. `(D) Alina` as a gold answer is D; "A, C" wants both."""
    gold = named_letters(answer)
    if not gold:
        raise UsageError(f"the answer of a problem of kind 'choice' must begin with its letter, got {answer[:80]!r}")
    found = chosen_letters(completion, finished=finished)
    if not found:
        return Verdict("unparsed")
    return Verdict("correct" if found == gold else "wrong", ", ".join(sorted(found)))


def named_letters(text: str) -> set[str]:
    """Read the letters that a short answer names: `(B)`, `b`, `B. 2.5` and `B) 2.5` are {B}; `A, C` is {A, C}."""
    text = text.strip().strip("$").strip()
    # Nothing but letters, in brackets or not, with "," or "and" between them.
    if len(text) < 40 and re.fullmatch(r"\(?[A-Za-z]\)?(?:(?:\s*,\s*|\s+and\s+|\s*)\(?[A-Z]\)?)*[.]?", text):
        return {letter.upper() for letter in re.findall(r"(?<![a-z])[A-Za-z](?![a-z])", text)}
    match = re.match(r"\(([A-Za-z])\)|([A-Z])(?:[).:\s])", text)
    return {(match[1] or match[2]).upper()} if match else set()


def chosen_letters(completion: str, *, finished: bool = True) -> set[str]:
    """Read the letters that a completion chooses: in its box, after "answer is", at its start, or the last it names.

    A completion that was cut off (`finished`) has not chosen the last that it names.
    """
    if box := last_box(completion):
        return named_letters(re.sub(r"\\text\w*\s*\{([^{}]*)\}|\\math\w+\s*\{([^{}]*)\}", r"\1\2", box))
    # The last "answer is" that a letter follows counts, and of the text before it only the five latest are tried.
    for marker in reversed(list(_CHOICE_MARKER.finditer(completion))[-5:]):
        if match := _LETTER_AHEAD.match(completion, marker.end()):
            return {match[1].upper(), *_letters_linked_to(completion, match.end())}
    if match := _LETTER_FIRST.match(completion) or _LETTER_ALONE.fullmatch(completion):
        return {match[1].upper()}
    return _last_letters(_LETTER_RULED_OUT.sub(" ", completion[-1000:])) if finished else set()


def _last_letters(text: str) -> set[str]:
    """The last letter that is named, with those that "or" links to it: "either (A) or (B)" chooses both."""
    letters = list(_LETTER.finditer(text))
    chosen = letters[-1:]
    for letter in reversed(letters[:-1]):
        if not _OR.fullmatch(text, letter.end(), chosen[-1].start()):
            break
        chosen.append(letter)
    return {letter[1] or letter[2] for letter in chosen}


def _letters_linked_to(completion: str, end: int) -> list[str]:
    """B and C of "the answer is A, B or C": who names several has chosen several."""
    letters = []
    while match := _MORE_LETTERS.match(completion, end):
        letters.append(match[1])
        end = match.end()
    return letters


def check_of(answer: str) -> str | None:
    """The function that a puzzle's gold answer names."""
    try:
        rule = json.loads(answer)
    except ValueError:
        return None
    check = rule.get("check") if isinstance(rule, dict) else None
    return check if isinstance(check, str) else None


def _call(path: str, completion: str, answer: str) -> Verdict:
    result = _kind_function(path)(completion=completion, answer=answer)
    if isinstance(result, Verdict):
        return result
    if isinstance(result, bool):
        return Verdict("correct" if result else "wrong")
    raise UsageError(f"{path} returned {type(result).__name__}; it must return a bool or a Verdict")


def import_function(path: str, *, what: str) -> Callable[..., object]:
    """Import the function `package.module:function`, also from the working directory, where others have none.

    Args:
        path: where it is.
        what: what messages call it.

    Raises:
        UsageError: there is none, or its module cannot be imported.
    """
    module, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # which the path of the `sgpo` command lacks
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module does when it is imported
        raise UsageError(f"{what} {path!r} names no function that can be imported: {error}") from None
    if not callable(function):
        raise UsageError(f"{what} {path!r} names no function, but a {type(function).__name__}")
    return function


def _kind_function(path: str) -> Callable[..., object]:
    """The user's function of that dotted path.

    Its two parameters must be named `completion` and `answer`: a problem file from elsewhere that names a function
    made for something else (`os:system`) gets an error, not a call.
    """
    function = import_function(path, what="kind")
    try:
        parameters = set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = set()  # some functions in C have no signature
    if parameters != {"completion", "answer"}:
        raise UsageError(f"kind {path!r}: the function must take exactly (completion, answer)")
    return function
