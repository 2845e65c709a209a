"""The leak gate: what a strategy gives away of the instance it was written from. A program, not a prompt.

A strategy leaks where it states, in digits, in words, in LaTeX or worked out,
- `answer`: the gold answer or a value equal to it;
- `number`: a number of the problem;
- `intermediate`: a number that the solution computed;
- `verbatim`: a long run of the problem's or the solution's words.

Numbers that belong to the method are no leaks: cases and steps, coefficients and exponents of letters, conversions
("60 minutes to the hour"), and the numbers up to two unless the text says that they are the result. Whether a number is
the method's or the instance's is decided by the words around it, so the gate errs now and then in both directions;
docs/strategies.md has its measured precision and recall.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from sgpo.problems import Problem
from sgpo.strategies.leak.numbers import (
    Instance,
    answer_values,
    bare_answer,
    general_values,
    instance_of,
    is_small,
    number_leaks,
    quantities,
    read_value,
)
from sgpo.strategies.leak.tokens import NAMES, TextToken, Value, tokenize
from sgpo.strategies.leak.values import magnitude, same
from sgpo.strategies.strategy import Leak, Strategy

GATE_VERSION = 3  # a higher one has extraction judge its candidates again

VERBATIM_WORDS = 7


def find_leaks(strategy: Strategy, problem: Problem) -> list[Leak]:
    """Find what a strategy gives away of its problem.

    Args:
        strategy: The strategy; its own `leaks` are not read.
        problem: The problem that it was written from, with the solution if there is one.

    Returns:
        The leaks, field by field, each once; empty where nothing was found.
    """
    # What several fields need: the instance's numbers, and what this strategy states as common knowledge.
    instance = instance_of(problem.problem, problem.solution or "", problem.answer)
    fields = [(where, text, tokenize(text)) for where, text in _fields(strategy)]
    general = frozenset(value for _, text, tokens in fields for value in general_values(text, tokens))
    leaks: list[Leak] = []
    for where, text, tokens in fields:
        numbers = number_leaks(text, tokens, instance, general)
        leaks += [Leak(kind=kind, text=found, where=where) for kind, found in numbers]
        leaks += [Leak(kind="answer", text=name, where=where) for name in _names(tokens, problem, instance)]
        leaks += [Leak(kind="intermediate", text=found, where=where) for found in _formulas(text, problem)]
        leaks += [Leak(kind="verbatim", text=found, where=where) for found in _verbatim(text, problem)]
    if read_value(bare_answer(problem.answer)) is None:
        leaks += _answers_that_are_no_numbers(strategy, problem)
    unique = {(leak.kind, leak.text.lower(), leak.where): leak for leak in leaks}
    return list(unique.values())


def find_leaking(strategies: Iterable[Strategy], problems: Iterable[Problem]) -> dict[str, list[Leak]]:
    """The leaks of every strategy that gives something away and that no person has accepted, by its id.

    For what training is about to show: wherever a strategy came from, it may never have met the gate. What is stored
    in `strategy.leaks` is not read, for a file can say anything.

    Args:
        strategies: The strategies. Each is held against the problem that its `problem_id` names; one that is shown for
            another problem comes as `replace(strategy, problem_id=problem.id)`, which keeps its id.
        problems: The problems, with their solutions where there are any. A strategy without its problem is passed over.

    Returns:
        Those that leak, in the order they came. A strategy that was accepted in review (`strategy.reviewed`) is not
        among them.
    """
    by_id = {problem.id: problem for problem in problems}
    leaking: dict[str, list[Leak]] = {}
    for strategy in strategies:
        problem = by_id.get(strategy.problem_id)
        if problem is not None and not strategy.reviewed and (leaks := find_leaks(strategy, problem)):
            leaking[strategy.id] = leaks
    return leaking


def _fields(strategy: Strategy) -> Iterator[tuple[str, str]]:
    yield "problem_type", strategy.problem_type
    yield "approach", strategy.approach
    for i, step in enumerate(strategy.steps):
        yield f"steps[{i}]", step
    if strategy.when_to_use:
        yield "when_to_use", strategy.when_to_use


# ------------------------------------------------------------------------------------------ answers beyond numbers


def _answers_that_are_no_numbers(strategy: Strategy, problem: Problem) -> list[Leak]:
    """Formulas, names, pairs, sets and intervals: found as text, or by all their parts in one clause."""
    parts = answer_values(problem.answer)
    leaks: list[Leak] = []
    for where, text in _fields(strategy):
        if found := _as_text(problem.answer, text):
            leaks.append(Leak(kind="answer", text=found, where=where))
        if len(parts) > 1 and (found := _all_parts(parts, text)):
            leaks.append(Leak(kind="answer", text=found, where=where))
    return leaks


def _normal(text: str) -> str:
    text = re.sub(r"\\(?:text|mbox|mathrm|left|right|displaystyle)|\\[!,;: ]|[${}\s]", "", text)
    return re.sub(r"\\[dt]frac", r"\\frac", text).lower()


def _as_text(answer: str, text: str) -> str | None:
    """The answer as it is written, where it says enough to be no accident."""
    gold = _normal(answer)
    name = re.search(r"\b[A-Z][a-z]{2,}\b", answer)
    if name and re.search(rf"\b{name.group(0)}\b", text):
        return name.group(0)
    letters = gold.strip("().")
    if re.fullmatch(r"[a-z]+", letters) and len(letters) > 1:
        pattern = (
            rf"\b(?:answer|result|is|are|be|becomes|namely|called)\b[^.;,]{{0,30}}?\b{re.escape(letters)}\b(?! or\b)"
        )
        match = re.search(pattern, text, re.IGNORECASE)
        return match.group(0) if match else None
    if re.fullmatch(r"[a-z]", letters):
        match = re.search(rf"\b(?:answer|choice|option)\b[^.;,]{{0,20}}?\(?\b{letters}\b", text, re.IGNORECASE)
        return match.group(0) if match else None
    return gold if len(gold) >= 4 and gold in _normal(text) else None


def _all_parts(parts: Sequence[Value], text: str) -> str | None:
    """All parts of a pair, a set or an interval, in one clause; the text of the clause."""
    for clause in re.split(r"(?<=[.;])\s+", text):
        values = [quantity.value for quantity in quantities(tokenize(clause))]
        if all(any(same(part, value) for value in values) for part in parts):
            telling = any(not is_small(part) or magnitude(part) > 2 or part < 0 for part in parts)
            if telling or re.search(r"=|\(\s*-?\d", clause):
                return clause
    return None


def _names(tokens: Sequence[TextToken], problem: Problem, instance: Instance) -> Iterator[str]:
    """`an octagon`, where the answer is 8."""
    for token in tokens:
        value = NAMES.get(token.text.removesuffix("s")) if token.kind == "word" else None
        if value and value > 4 and value in instance.answers and token.text[:5] not in problem.problem.lower():
            yield token.text


def _formulas(text: str, problem: Problem) -> Iterator[str]:
    """Formulas with numbers in them that the problem or the solution has too."""
    spans = _mathematics(text)
    known = _known_formulas(problem.problem, problem.solution or "") if spans else ""
    for span in spans:
        formula = _normal(span)
        # The exponents are the method's as often as not, and so is an identity's other side.
        numbers = re.sub(r"\^\(?\d+\)?|\\[a-z]+", "", formula)
        telling = len(formula) >= 6 and re.search(r"[3-9]|\d\d", numbers) and re.search("[a-z]", numbers)
        if telling and formula in known and not re.search(r"=\s*" + re.escape(span), text):
            yield span


@lru_cache(maxsize=64)
def _known_formulas(problem: str, solution: str) -> str:
    return _normal(problem) + " " + _normal(solution)


def _mathematics(text: str) -> list[str]:
    """The formulas of a text: between dollars or brackets, or a run of symbols."""
    marked = [a or b or c for a, b, c in re.findall(r"\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", text, re.DOTALL)]
    runs = re.findall(
        r"(?<!\S)[^\s,;]*[\d^\\+*/=()][^\s,;]*(?:\s*[-+*/=^]\s*[^\s,;]+)*", re.sub(r"\$[^$]+\$", " ", text)
    )
    spans = [span.strip(" .") for span in (*marked, *runs)]
    right_sides = [span.rpartition("=")[2].strip() for span in spans if "=" in span]
    return list(dict.fromkeys(span for span in (*spans, *right_sides) if 2 < len(span) < 200))[:50]


# ---------------------------------------------------------------------------------------------------------- verbatim


def _verbatim(text: str, problem: Problem) -> Iterator[str]:
    """Runs of words that the problem or the solution has too."""
    words = list(_WORD.finditer(text))
    sources = (_shingles(problem.problem), _shingles(problem.solution or ""))
    found = [any(shingle in source for source in sources) for shingle in _hashes(words)]
    i = 0
    while i < len(found):
        if found[i]:
            j = i
            while j < len(found) and found[j]:
                j += 1
            yield text[words[i].start() : words[j + VERBATIM_WORDS - 2].end()]
            i = j
        i += 1


def _hashes(words: Sequence[re.Match[str]]) -> list[int]:
    """A hash of every run of VERBATIM_WORDS words."""
    texts = [word.group(0).lower() for word in words]
    return [hash(tuple(texts[i : i + VERBATIM_WORDS])) for i in range(len(texts) - VERBATIM_WORDS + 1)]


@lru_cache(maxsize=64)
def _shingles(text: str) -> frozenset[int]:
    return frozenset(_hashes(list(_WORD.finditer(text))))


_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}|\b[aA]\b")
