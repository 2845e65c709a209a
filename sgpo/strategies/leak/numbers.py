"""The numbers that a text states, and which of a strategy's numbers are its instance's.

Numbers are plain or worked out ("half of 144", "the sum of 40 and 32", "6^2 \\cdot 2"). The words around a number
(the word lists of `sgpo.strategies.leak.tokens`) decide whether it is the instance's or the method's.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from sgpo.strategies.leak.arithmetic import BEGINNINGS, Parser
from sgpo.strategies.leak.tokens import (
    CONSTANTS,
    DIVISION,
    EMPHASIS,
    LABELS,
    RESULT,
    STRONG_RESULT,
    STRUCTURE,
    UNITS,
    TextToken,
    Value,
    tokenize,
    word_at,
)
from sgpo.strategies.leak.values import magnitude, same, to_float

MAX_SMALL = 12  # whole numbers up to here need the words around them
_PARTS_OF_UNITS = {"hour": ("minute", 60), "minute": ("second", 60), "day": ("hour", 24), "week": ("day", 7)}
_PARTS_OF_UNITS |= {"year": ("month", 12), "foot": ("inch", 12), "feet": ("inch", 12), "dollar": ("cent", 100)}
_PARTS_OF_UNITS |= {"pound": ("ounce", 16)}


@dataclass(frozen=True, slots=True)
class StatedNumber:
    """A value and the tokens `first` to `last` (inclusive) that state it; `operands` is 1 for a plain number."""

    value: Value
    first: int
    last: int
    operands: int


def quantities(tokens: Sequence[TextToken]) -> list[StatedNumber]:
    """Every number, and every expression of numbers that is as long as can be."""
    found = [
        StatedNumber(-token.value if _is_negative(tokens, i) else token.value, i, i, 1)
        for i, token in enumerate(tokens)
        if token.kind == "number" and token.value is not None
    ]
    found += _in_another_base(tokens)
    found += _in_two_units(tokens)
    i = 0
    while i < len(tokens):
        if tokens[i].kind in ("word", "end", "close") and tokens[i].text.lstrip("\\") not in BEGINNINGS:
            i += 1
            continue
        parser = Parser(tokens, i)
        value = parser.whole_expression()
        if value is not None and parser.operands > 1:
            found.append(StatedNumber(value, i, parser.i - 1, parser.operands))
            i = parser.i
        else:
            i = max(i + 1, parser.furthest) if parser.gave_up() else i + 1
    return found


def _in_another_base(tokens: Sequence[TextToken]) -> list[StatedNumber]:
    """`1001000 in binary`, `4210 in base 5`."""
    found = []
    for i, token in enumerate(tokens):
        base = {"binary": 2, "octal": 8}.get(word_at(tokens, i + 2))
        if word_at(tokens, i + 2) == "base" and i + 3 < len(tokens) and isinstance(tokens[i + 3].value, Fraction):
            base = int(tokens[i + 3].value or 0)
        digits = token.text[:200]
        if (
            base
            and 2 <= base <= 10
            and word_at(tokens, i + 1) == "in"
            and digits.isdecimal()
            and int(max(digits)) < base
        ):
            found.append(StatedNumber(Fraction(int(digits, base)), i, i + 2, 2))
    return found


def _in_two_units(tokens: Sequence[TextToken]) -> list[StatedNumber]:
    """`an hour and twenty minutes` and `1 hour 20 minutes`, in either unit."""
    found = []
    for i, token in enumerate(tokens):
        large = Fraction(1) if word_at(tokens, i) in ("a", "an") else token.value
        unit, parts = _PARTS_OF_UNITS.get(word_at(tokens, i + 1).removesuffix("s"), ("", 1))
        j = i + 2 + (word_at(tokens, i + 2) == "and")
        small = tokens[j].value if j < len(tokens) else None
        named = word_at(tokens, j + 1) in (unit, unit + "s", unit + "es")
        if unit and named and isinstance(large, Fraction) and isinstance(small, Fraction):
            found += [
                StatedNumber(large * parts + small, i, j + 1, 2),
                StatedNumber(large + small / parts, i, j + 1, 2),
            ]
    return found


def _is_negative(tokens: Sequence[TextToken], i: int) -> bool:
    """Whether the sign before a number is its own, and no difference of two things."""
    if i == 0 or tokens[i - 1].text not in ("-", "minus", "negative"):
        return False
    before = tokens[i - 2] if i > 1 else None
    joined = before is not None and tokens[i - 1].start == before.end and before.kind == "word"
    operand = before is not None and (
        before.kind in ("number", "close") or (len(before.text) == 1 and before.kind == "word")
    )
    return not operand and not joined


def read_value(text: str) -> Value | None:
    """The value of a text that is one number or expression and nothing else, such as a gold answer."""
    tokens = tokenize(text.strip().lstrip("+"))
    while tokens and tokens[-1].kind == "end":
        tokens.pop()
    parser = Parser(tokens, 0)
    value = parser.whole_expression()
    return value if value is not None and parser.i == len(tokens) else None


@dataclass(frozen=True, slots=True)
class Instance:
    """What belongs to one problem."""

    answers: tuple[Value, ...]  # of its parts, where it has several
    problem: frozenset[Value]  # without signs
    solution: frozenset[Value]
    nouns: frozenset[str]  # the problem's words
    divisors: frozenset[Value]  # small numbers that the problem itself divides by, or multiplies with
    multipliers: frozenset[Value]


@lru_cache(maxsize=64)
def instance_of(problem: str, solution: str, answer: str) -> Instance:
    tokens = tokenize(problem)
    small = [(i, token.value) for i, token in enumerate(tokens) if token.value is not None and is_small(token.value)]
    return Instance(
        answers=answer_values(answer),
        problem=frozenset(_values(problem)),
        solution=frozenset(_values(solution)),
        nouns=frozenset(word.lower() for word in re.findall(r"[A-Za-z]{4,}", problem)) - STRUCTURE,
        divisors=frozenset(value for i, value in small if _is_divisor(tokens, i)),
        multipliers=frozenset(value for i, value in small if _near(tokens, i, 1) == "times"),
    )


def _values(text: str) -> Iterator[Value]:
    tokens = tokenize(text)
    for quantity in quantities(tokens):
        if quantity.operands == 1 and tokens[quantity.first].formula and is_small(quantity.value):
            continue  # the exponent in x^3 makes no other 3 an instance's
        yield magnitude(quantity.value)
        if quantity.operands == 1 and _follows(tokens, quantity.last, "%", "percent"):
            yield quantity.value / 100


def bare_answer(answer: str) -> str:
    """A gold answer without its dressing: units, a leading `x =`, degrees, currency."""
    answer = answer.replace(",\\!", "").replace("\\\\", ";")  # 10,\!080; then the rows of a matrix
    answer = re.sub(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}|\\[$!,;: ]|\$|\\(?:left|right)", " ", answer)
    answer = re.sub(r"\\(?:begin|end)\s*\{[a-z]*\}", " ", answer)
    answer = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\%|%", " ", answer)
    return re.sub(r"^\s*[A-Za-z]\s*=", "", answer).strip()


def answer_values(answer: str) -> tuple[Value, ...]:
    bare = bare_answer(answer)
    whole = read_value(bare)
    if whole is not None and "%" in answer:
        return whole, whole / 100
    if whole is not None:
        # A degree is pi / 180, whichever way round the answer is written.
        if "circ" in answer or "degree" in answer:
            return whole, to_float(whole) * math.pi / 180
        degrees = round(to_float(whole) * 180 / math.pi) if "pi" in answer else None
        return (whole, Fraction(degrees)) if degrees and same(degrees * math.pi / 180, whole) else (whole,)
    if complex_number := re.fullmatch(r"(.*[^+\-\s])\s*([+-].*?)\s*i", bare):
        parts = [read_value(complex_number.group(1)), read_value(complex_number.group(2).replace(" ", ""))]
    else:
        inside = re.sub(r"^\\?[(\[{]|\\?[)\]}]$", "", bare) if re.match(r"\\?[(\[{]", bare) else bare
        parts = [read_value(part) for part in re.split(r",|\band\b|;|\\cup|\\\\|&", inside)]
    return tuple(part for part in parts if part is not None)


# ----------------------------------------------------------------------------------------------------------- numbers


def number_leaks(
    text: str, tokens: Sequence[TextToken], instance: Instance, general: frozenset[Value]
) -> Iterator[tuple[str, str]]:
    """Kind and text of every number that gives something away. `general` are values that are common knowledge."""
    # Whole expressions go first: what they cover, and the small numbers in their fractions, is not judged again.
    covered: set[int] = set()
    found = sorted(quantities(tokens), key=lambda quantity: -quantity.operands)
    parts = {i for quantity in found if quantity.operands > 1 for i in _parts(tokens, quantity)}
    for quantity in found:
        if quantity.first in covered or (quantity.operands == 1 and quantity.first in parts):
            continue
        if kind := _kind(tokens, quantity, instance, general):
            covered.update(range(quantity.first, quantity.last + 1))
            yield kind, text[tokens[quantity.first].start : tokens[quantity.last].end]


def _parts(tokens: Sequence[TextToken], quantity: StatedNumber) -> Iterator[int]:
    """The small numbers of a fraction or a power: 3 in \\frac13 says nothing by itself."""
    span = range(quantity.first, quantity.last + 1)
    if any(tokens[i].kind == "op" and tokens[i].text in ("frac", "/", "^") for i in span):
        yield from (i for i in span if (value := tokens[i].value) is not None and is_small(value))


def _kind(
    tokens: Sequence[TextToken], quantity: StatedNumber, instance: Instance, general: frozenset[Value]
) -> str | None:
    """What a quantity gives away, if anything. `general` are values that this strategy uses as common knowledge."""
    value, i = quantity.value, quantity.first
    is_answer = any(same(value, answer) for answer in instance.answers)
    if _is_part_of_turn(value) and not (is_answer and _says_result(tokens, i, RESULT)):
        return None
    if quantity.operands > 1:
        return _expression_kind(tokens, quantity, instance, is_answer)
    token = tokens[i]
    # "The second percent" and "one percent from the other" count percentages.
    percent = _follows(tokens, i, "%", "percent") and not (token.ordinal or (token.spelled and value == 1))
    if magnitude(value) != 1 and not _is_common_knowledge(tokens, i):
        others = [value * factor for factor in UNITS.get(_unit_of(tokens, i).removesuffix("s"), ())]
        is_answer = is_answer or any(same(other, answer) for other in others for answer in instance.answers)
    if any(_rounds_to(token, answer, percent) for answer in instance.answers):
        return "answer"
    value = magnitude(value)
    if not (is_answer or value in instance.problem or value in instance.solution):
        return None
    if is_small(value) and not percent:
        return _small_kind(tokens, i, value, instance, is_answer, general)
    if is_answer:
        own_unit = same(value, magnitude(instance.answers[0])) or value in (90, 180, 360)
        constant = own_unit and _is_constant(tokens, i, value) and not _says_result(tokens, i, STRONG_RESULT)
        return None if constant else "answer"
    if _is_constant(tokens, i, value) or value in general:
        return None
    if value in instance.problem:
        return "number"
    return None if token.formula else "intermediate"


def _expression_kind(
    tokens: Sequence[TextToken], quantity: StatedNumber, instance: Instance, is_answer: bool
) -> str | None:
    value = quantity.value
    parts = [token.value for token in tokens[quantity.first : quantity.last + 1] if token.value is not None]
    telling = any(not is_small(part) or part > 2 for part in parts)
    if is_answer and (
        telling or value > 2 or not is_small(value) or _says_result(tokens, quantity.first, STRONG_RESULT)
    ):
        return "answer"
    constant = _is_constant(tokens, quantity.first, value)
    if telling and not is_small(value) and value in instance.solution and not constant:
        return "intermediate"
    return None


def _small_kind(
    tokens: Sequence[TextToken], i: int, value: Value, instance: Instance, is_answer: bool, general: frozenset[Value]
) -> str | None:
    """A small number is the method's unless the words around it say that it is the instance's."""
    token = tokens[i]
    if (
        token.formula
        or _is_in_formula(tokens, i)
        or _is_label(tokens, i)
        or _is_constant(tokens, i, value)
        or (value in general and not is_answer)
        or (token.text == "a dozen" and _near(tokens, i, -1) in ("in", "of") and not is_answer)  # as of an hour
    ):
        return None
    if _near(tokens, i, -1) in EMPHASIS and is_answer and value > 1:
        return "answer"
    structural = (
        _is_structural(tokens, i)
        or _near(tokens, i, -1) == "all"
        or _is_chained(tokens, i)
        or (token.ordinal and value <= 4)
        or (_is_divisor(tokens, i) and value not in instance.divisors)
        or (_near(tokens, i, 1) == "times" and value not in instance.multipliers)
    )
    if is_answer and not structural:
        if value in (0, 1):
            return "answer" if _says_result(tokens, i, STRONG_RESULT) else None
        if _says_result(tokens, i, RESULT) or (value > 2 and not token.ordinal):
            return "answer"
    if value > 2 and not structural and value in instance.problem:
        return "number"
    counts_nouns = _near(tokens, i, 1) in instance.nouns
    if value in instance.solution and not structural and (value > 10 or (value > 2 and counts_nouns)):
        return "intermediate"
    return None


def is_small(value: Value) -> bool:
    """Whole numbers up to 12, and the fractions of everyday speech."""
    fractions = (Fraction(1, 2), Fraction(1, 3), Fraction(1, 4))
    return isinstance(value, Fraction) and ((value.denominator == 1 and abs(value) <= MAX_SMALL) or value in fractions)


def _is_part_of_turn(value: Value) -> bool:
    """Pi, half of it, twice it: angles that every second problem has."""
    return isinstance(value, float) and any(math.isclose(abs(value), math.pi * part) for part in (0.25, 0.5, 1, 2))


def _rounds_to(token: TextToken, answer: Value, percent: bool) -> bool:
    """Whether a number with two decimals or more (a percentage with one) is the answer, rounded."""
    places = len(token.text.partition(".")[2])
    if token.value is None or not places or places + percent < 2 or not token.text[-1].isdecimal():
        return False
    scale = 100 if percent else 1
    return abs(to_float(token.value) - scale * to_float(answer)) <= 0.5 * 10**-places


def _unit_of(tokens: Sequence[TextToken], i: int) -> str:
    """The word after a number: the hour of `45 hours`, and of `three quarters of an hour`."""
    return _near(tokens, i, 3 if _near(tokens, i, 1) == "of" and _near(tokens, i, 2) in ("a", "an") else 1)


def _is_in_formula(tokens: Sequence[TextToken], i: int) -> bool:
    """Whether an operation ties a number to letters, as in n(n+1)/6 and 1 + p/100, and nothing is set equal to it."""
    if "=" in (_near(tokens, i, -1), _near(tokens, i, -2)):
        return False
    tied = any(
        _near(tokens, i, k) in ("+", "-", "*", "/", "^", "frac", "{", "(") and _near(tokens, i, k) for k in (-1, 1)
    )
    letters = any(len(_near(tokens, i, k)) == 1 and _near(tokens, i, k).isalpha() for k in range(-6, 4) if k)
    return tied and letters


def _is_label(tokens: Sequence[TextToken], i: int) -> bool:
    before = _near(tokens, i, -1)
    return before in LABELS or (i == 0 and _near(tokens, i, 1) in (".", ")", ":"))


def _is_structural(tokens: Sequence[TextToken], i: int) -> bool:
    """`two cases`, `the three unknowns`, `four-digit`, `3 x 3`."""
    following = [_near(tokens, i, k) for k in (1, 2, 3)]
    if following[0] == "-":
        following = following[1:]
    return bool(STRUCTURE.intersection(following))


def _is_chained(tokens: Sequence[TextToken], i: int) -> bool:
    """One of the numbers in `3-4-5` and `30-60-90`."""
    around = tokens[max(0, i - 4) : i + 5]
    joined = [a.end == b.start and "-" in (a.text, b.text) for a, b in itertools.pairwise(around)]
    return sum(joined) >= 4 and (_near(tokens, i, 1) == "-" or _near(tokens, i, -1) == "-")


def _is_divisor(tokens: Sequence[TextToken], i: int) -> bool:
    """`modulo 3`, `divisible by 3 and 7`: a tool of the method more often than a number of the instance."""
    return any(_near(tokens, i, -k) in DIVISION for k in range(1, 7))


def _is_constant(tokens: Sequence[TextToken], i: int, value: Value) -> bool:
    """Whether one of its words stands close by or, where it multiplies or divides, anywhere in the text.

    A tenth is to a dime what ten is to a dollar: a constant's part is one too.
    """
    if not isinstance(value, Fraction) or value <= 0:
        return False
    whole = value if value.denominator == 1 else 1 / value
    known = CONSTANTS.get(int(whole)) if whole.denominator == 1 else None
    if known is None:
        return False
    converts = _near(tokens, i, -1) == "by"
    return any(_near(tokens, i, k) in known for k in range(-5, 6) if k) or (
        converts and any(token.text in known for token in tokens)
    )


def general_values(text: str, tokens: Sequence[TextToken]) -> Iterator[Value]:
    """The values that a text introduces as common knowledge: "12 months", percentages."""
    if "percent" in text.lower() or "%" in text:
        yield Fraction(100)
    for i, token in enumerate(tokens):
        if token.value is not None and _is_common_knowledge(tokens, i):
            yield token.value


def _is_common_knowledge(tokens: Sequence[TextToken], i: int) -> bool:
    """Whether a number stands right before the unit that makes it a constant: `12 months`."""
    value = tokens[i].value
    return isinstance(value, Fraction) and value in CONSTANTS and _near(tokens, i, 1) in CONSTANTS[int(value)]


def _says_result(tokens: Sequence[TextToken], i: int, words: frozenset[str]) -> bool:
    """Whether one of `words` stands shortly before, in the same clause."""
    for k in range(1, 6):
        j = i - k
        if j < 0 or (tokens[j].kind == "end" and tokens[j].text in ".;"):
            return False
        if tokens[j].text in words:
            return True
    return False


def _near(tokens: Sequence[TextToken], i: int, offset: int) -> str:
    return tokens[i + offset].text if 0 <= i + offset < len(tokens) else ""


def _follows(tokens: Sequence[TextToken], i: int, *texts: str) -> bool:
    return _near(tokens, i, 1) in texts
