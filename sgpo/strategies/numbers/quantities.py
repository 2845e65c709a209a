"""The numbers that a text states: plain, or worked out ("half of 144", "the sum of 40 and 32", "6^2 \\cdot 2").

Nothing is evaluated by Python, for the text is a model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from sgpo.strategies.numbers.arithmetic import Value
from sgpo.strategies.numbers.expressions import BEGINNINGS, Parser
from sgpo.strategies.numbers.tokens import Token, tokenize, word_at


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value and the tokens `first` to `last` (inclusive) that state it; `operands` is 1 for a plain number."""

    value: Value
    first: int
    last: int
    operands: int


def quantities(tokens: Sequence[Token]) -> list[Quantity]:
    """Every number, and every expression of numbers that is as long as can be."""
    found = [
        Quantity(-token.value if _is_negative(tokens, i) else token.value, i, i, 1)
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
            found.append(Quantity(value, i, parser.i - 1, parser.operands))
            i = parser.i
        else:
            i += 1
    return found


def _in_another_base(tokens: Sequence[Token]) -> list[Quantity]:
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
            found.append(Quantity(Fraction(int(digits, base)), i, i + 2, 2))
    return found


_PARTS_OF_UNITS = {"hour": ("minute", 60), "minute": ("second", 60), "day": ("hour", 24), "week": ("day", 7)}
_PARTS_OF_UNITS |= {"year": ("month", 12), "foot": ("inch", 12), "feet": ("inch", 12), "dollar": ("cent", 100)}
_PARTS_OF_UNITS |= {"pound": ("ounce", 16)}


def _in_two_units(tokens: Sequence[Token]) -> list[Quantity]:
    """`an hour and twenty minutes` and `1 hour 20 minutes`, in either unit."""
    found = []
    for i, token in enumerate(tokens):
        large = Fraction(1) if word_at(tokens, i) in ("a", "an") else token.value
        unit, parts = _PARTS_OF_UNITS.get(word_at(tokens, i + 1).removesuffix("s"), ("", 1))
        j = i + 2 + (word_at(tokens, i + 2) == "and")
        small = tokens[j].value if j < len(tokens) else None
        named = word_at(tokens, j + 1) in (unit, unit + "s", unit + "es")
        if unit and named and isinstance(large, Fraction) and isinstance(small, Fraction):
            found += [Quantity(large * parts + small, i, j + 1, 2), Quantity(large + small / parts, i, j + 1, 2)]
    return found


def _is_negative(tokens: Sequence[Token], i: int) -> bool:
    """Whether the sign before a number is its own, and no difference of two things."""
    if i == 0 or tokens[i - 1].text not in ("-", "minus", "negative"):
        return False
    before = tokens[i - 2] if i > 1 else None
    joined = before is not None and tokens[i - 1].start == before.end and before.kind == "word"
    operand = before is not None and (
        before.kind in ("number", "close") or (len(before.text) == 1 and before.kind == "word")
    )
    return not operand and not joined


def value_of(text: str) -> Value | None:
    """The value of a text that is one number or expression and nothing else, such as a gold answer."""
    tokens = tokenize(text.strip().lstrip("+"))
    while tokens and tokens[-1].kind == "end":
        tokens.pop()
    parser = Parser(tokens, 0)
    value = parser.whole_expression()
    return value if value is not None and parser.i == len(tokens) else None
