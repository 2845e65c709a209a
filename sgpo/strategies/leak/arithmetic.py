"""Arithmetic as people write it, in symbols, in LaTeX and in words, worked out by a recursive-descent parser.

Nothing is evaluated by Python, for the text is a model's, and the work is bounded: the values by
`sgpo.strategies.leak.values`, the steps of reading by what is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from sgpo.strategies.leak.tokens import TextToken, Value
from sgpo.strategies.leak.values import (
    FUNCTIONS,
    MAX_EXPONENT,
    add,
    choose,
    divide,
    factorial,
    multiply,
    power,
    root,
    trigonometric,
)

MAX_DEPTH = 24  # of an expression within another
STEPS, STEPS_PER_TOKEN = 500, 50  # that reading may take; more is a text that makes it read the same again and again


class Parser:
    """Reads an expression from token `i` on; `operands` counts what it is made of.

    A method returns None, with `i` where it was, where it finds nothing of its kind.
    """

    def __init__(self, tokens: Sequence[TextToken], i: int) -> None:
        self.tokens = tokens
        self.i = self.start = self.furthest = i
        self.operands = 0
        self.depth = 0
        self.steps = 0

    def whole_expression(self) -> Value | None:
        """The value of the longest expression from here; None where there is none, or one that no number can hold."""
        try:
            return self._expression()
        except (ArithmeticError, ValueError):
            return None

    def gave_up(self) -> bool:
        """Whether reading took more steps than the text is worth; `furthest` is how far it came."""
        return self.steps > STEPS + STEPS_PER_TOKEN * (self.furthest - self.start)

    def _expression(self) -> Value | None:
        value = self._term()
        while value is not None:
            before = self.i
            if self._op("+") or self._words("plus") or self._words("added", "to") or self._words("increased", "by"):
                sign = 1
            elif self._op("-") or self._words("minus") or self._words("decreased", "by") or self._words("take", "away"):
                sign = -1
            else:
                break
            other = self._term()
            if other is None:
                self.i = before
                break
            value = add(value, other, sign)
        return value

    def _term(self) -> Value | None:
        value = self._factor()
        while value is not None:
            before = self.i
            if (
                self._op("*")
                or self._times_letter()
                or self._words("times")
                or self._words("multiplied", "by")
                or self._words("groups", "of")
            ):
                other = self._factor()
                result = None if other is None else multiply(value, other)
            elif self._any_words(("choose",), ("\\choose",)):
                other = self._factor()
                result = choose(value, other)
            elif self._op("/") or self._any_words(*_OVER) or self._ratio():
                other = self._factor()
                result = None if other is None or other == 0 else divide(value, other)
            elif self._is_part(before) and (self._words("of") or self._is_spelled(before)):
                other = self._factor()
                result = None if other is None else multiply(value, other)
            elif self._adjacent():
                other = self._factor()
                result = None if other is None else self._joined(value, other, before)
            elif self._any_words(*_MORE):
                other = self._factor()
                result = None if other is None else add(other, value, 1)
            elif self._any_words(*_LESS):
                other = self._factor()
                result = None if other is None else add(other, value, -1)
            else:
                return value
            if result is None:
                self.i = before
                return value
            value = result
        return None

    def _times_letter(self) -> bool:
        """The x in `8 x 9`."""
        following = self.tokens[self.i + 1] if self.i + 1 < len(self.tokens) else None
        return following is not None and following.kind == "number" and self._words("x")

    def _ratio(self) -> bool:
        """The colon in `3:4`."""
        i = self.i
        if not 0 < i < len(self.tokens) - 1 or self.tokens[i].text != ":":
            return False
        joined = self.tokens[i - 1].end == self.tokens[i].start and self.tokens[i].end == self.tokens[i + 1].start
        self.i += joined
        return joined

    def _is_spelled(self, i: int) -> bool:
        """The dozen in `half a dozen`."""
        return i < len(self.tokens) and self.tokens[i].spelled and not self.tokens[i - 1].text.startswith("%")

    def _is_part(self, i: int) -> bool:
        token = self.tokens[i - 1]
        fraction = token.kind == "number" and isinstance(token.value, Fraction) and 0 < token.value < 1
        return fraction or token.text in ("%", "percent")

    def _adjacent(self) -> bool:
        """Whether a root, a fraction, pi or a bracket follows at once: 2\\sqrt{3}, 3\\frac{1}{2}, 2(3 + 4)."""
        if self.i >= len(self.tokens):
            return False
        token, previous = self.tokens[self.i], self.tokens[self.i - 1]
        if token.text in ("frac", "sqrt", "root") and token.kind in ("op", "word"):
            return True
        if token.kind == "number" and token.value == math.pi:
            return True
        return token.kind == "open" and token.text == "(" and previous.end == token.start and previous.kind != "word"

    def _joined(self, value: Value, other: Value, before: int) -> Value:
        mixed = self.tokens[before].text == "frac" and self.tokens[before - 1].kind == "number"
        if mixed and isinstance(value, Fraction) and isinstance(other, Fraction) and 0 < other < 1:
            return value + other
        return multiply(value, other)

    def _factor(self) -> Value | None:
        self.depth += 1
        value = self._signed() if self.depth < MAX_DEPTH else None
        self.depth -= 1
        return value

    def _signed(self) -> Value | None:
        before = self.i
        if self._op("-"):
            value = self._factor()
            if value is None:
                self.i = before
                return None
            return -value
        return self._postfixed()

    def _postfixed(self) -> Value | None:
        value = self._base()
        while value is not None:
            if self._op("^") or self._any_words(("to", "the", "power", "of"), ("to", "the", "power")):
                at = self.i
                if self._op("degree"):
                    continue
                if self.i < len(self.tokens) and self.tokens[self.i].text == "{" and self._text(self.i + 1) == "degree":
                    self.i += 3
                    continue
                exponent = self._factor()
                result = None if exponent is None else power(value, exponent)
                if result is None:
                    self.i = at - 1
                    return value
                value = result
            elif (multiple := _MULTIPLES_AFTER.get(self._text(self.i))) is not None:
                self.i += 1
                self.operands += 1
                value = multiply(value, multiple)
            elif (exponent := self._ordinal_power()) is not None:
                value = power(value, exponent) or value
            elif self._op("squared") or self._words("squared"):
                value = power(value, Fraction(2)) or value
                self.operands += 1
            elif self._op("cubed") or self._words("cubed"):
                value = power(value, Fraction(3)) or value
                self.operands += 1
            elif self._op("!") or self._words("factorial"):
                value = factorial(value)
                self.operands += 1
            elif self._op("%") or self._words("percent"):
                value = value / 100
            elif self._op("degree") or self._any_words(("degrees",), ("degree",)):
                pass
            else:
                break
        return value

    def _is_degree(self, i: int) -> bool:
        return any(self._text(k) in ("degree", "degrees") for k in (i, i - 1))

    def _ordinal_power(self) -> Value | None:
        """`to the fifth power`, `to the fifth`."""
        token = self.tokens[self.i + 2] if self.i + 2 < len(self.tokens) else None
        if token is None or not token.ordinal or not self._words("to", "the"):
            return None
        self.i += 1
        self.operands += 1
        self._words("power")
        return token.value

    def _base(self) -> Value | None:
        self.steps += 1
        self.furthest = max(self.furthest, self.i)
        if self.gave_up():
            raise OverflowError("an expression that takes too long to read")
        self.depth += 1
        value = self._plain() if self.i < len(self.tokens) and self.depth < MAX_DEPTH else None
        self.depth -= 1
        return value

    def _plain(self) -> Value | None:
        before, token = self.i, self.tokens[self.i]
        value: Value | None = None
        if token.kind == "number":
            if token.formula or token.ordinal:
                return None
            self.i += 1
            self.operands += 1
            return self._mixed(token)
        if token.kind == "open":
            self.i += 1
            value = self._expression()
            closed = value is not None and self.i < len(self.tokens) and self.tokens[self.i].kind == "close"
            value = value if closed else None
            self.i += closed
        elif self._op("frac"):
            value = self._fraction()
        elif token.text.lstrip("\\") in FUNCTIONS and token.kind == "word":
            self.i += 1
            inner = self._postfixed()
            self.operands += 1
            name, degrees = token.text.lstrip("\\"), self._is_degree(self.i - 1)
            value = None if inner is None else trigonometric(name, inner, degrees)
        elif token.text.lstrip("\\") == "log" and self._text(self.i + 1) == "_":
            value = self._logarithm()
        elif self._op("binom"):
            top, bottom = self._base(), self._base()
            value = choose(top, bottom)
        elif self._op("sqrt") or self._any_words(("square", "root", "of"), ("root",), ("sqrt",), ("square", "root")):
            index = self._root_index()
            inner = self._base()
            self.operands += 1
            value = None if inner is None else root(inner, index)
        elif self._words("cube", "root", "of"):
            inner = self._base()
            self.operands += 1
            value = None if inner is None else root(inner, 3)
        elif token.text == "c" and self._text(self.i + 1) == "(":
            value = self._choose_function()
        elif self._any_words(("square", "of"), ("cube", "of")):
            inner = self._base()
            self.operands += 1
            value = None if inner is None else power(inner, Fraction(2 if token.text == "square" else 3))
        elif token.kind == "word" and token.text in _MULTIPLES:
            self.i += 1
            self._words("of")
            inner = self._base()
            self.operands += 1
            value = None if inner is None else multiply(_MULTIPLES[token.text], inner)
        elif token.kind == "word" and token.text in _PREFIXES:
            value = self._prefix(_PREFIXES[token.text])
        elif token.kind == "word" and token.text == "the":
            self.i += 1
            value = self._base() if self._text(self.i) in _AFTER_THE else None
        if value is None:
            self.i = before
        return value

    def _mixed(self, whole: TextToken) -> Value | None:
        """`1 1/2`, once its whole part is read."""
        following = self.tokens[self.i : self.i + 3]
        over, under = (following[0].value, following[2].value) if len(following) == 3 else (None, None)
        digits = not whole.spelled and whole.end < following[0].start if following else False
        if not (digits and over and under and following[1].text == "/" and over < under):
            return whole.value
        self.i += 3
        self.operands += 1
        return None if whole.value is None else add(whole.value, divide(over, under), 1)

    def _choose_function(self) -> Value | None:
        """`C(10, 2)`."""
        self.i += 2
        top = self._expression()
        comma = self._text(self.i) == ","
        self.i += comma
        bottom = self._expression() if comma else None
        closed = self._text(self.i) == ")"
        self.i += closed
        return choose(top, bottom) if closed else None

    def _logarithm(self) -> Value | None:
        """`\\log_2 128`, `\\log_{2} 128`."""
        self.i += 2
        braces = self._text(self.i) == "{"
        base = self.tokens[self.i + braces].value if self.i + braces < len(self.tokens) else None
        self.i += 1 + 2 * braces
        inner = self._factor()
        self.operands += 1
        if base is None or inner is None or inner <= 0 or base <= 0 or base == 1:
            return None
        return math.log(inner) / math.log(base)

    def _root_index(self) -> int:
        """The 3 in \\sqrt[3]{8}, else 2."""
        closing = self._text(self.i + 2) == "]"
        index = self.tokens[self.i + 1].value if closing and self._text(self.i) == "[" else None
        if not isinstance(index, Fraction) or index.denominator != 1 or not 2 <= index <= MAX_EXPONENT:
            return 2
        self.i += 3
        return int(index)

    def _fraction(self) -> Value | None:
        """What follows \\frac: two groups, or two digits."""
        top = self._base()
        bottom = None if top is None else self._base()
        return None if top is None or bottom is None or bottom == 0 else divide(top, bottom)

    def _prefix(self, kind: str) -> Value | None:
        """`sum of 40 and 32`, `multiply 8 by 9`, `subtract 3 from 75`, `halfway between 70 and 74`."""
        self.i += 1
        self._any_words(("of",), ("between",), ("together",))
        self._words("between")
        a = self._term_without_words()
        joined = a is not None and self._any_words(("and",), ("to",), ("by",), ("with",), ("from",))
        b = self._term_without_words() if joined else None
        if a is None or b is None:
            return None
        if kind == "sum":
            return add(a, b, 1)
        if kind == "product":
            return multiply(a, b)
        if kind == "difference":
            difference = add(a, b, -1)
            return difference if difference >= 0 else -difference
        if kind == "quotient":
            return divide(a, b) if b != 0 else None
        return divide(add(a, b, 1), Fraction(2))

    def _term_without_words(self) -> Value | None:
        self._words("the")
        return self._factor()

    def _text(self, i: int) -> str:
        return self.tokens[i].text if i < len(self.tokens) else ""

    def _op(self, text: str) -> bool:
        found = self.i < len(self.tokens) and self.tokens[self.i].kind == "op" and self.tokens[self.i].text == text
        self.i += found
        return found

    def _words(self, *words: str) -> bool:
        i = self.i
        for word in words:  # asked at every token: a loop is three times as fast as `all` over a generator
            if i >= len(self.tokens) or self.tokens[i].text != word or self.tokens[i].kind != "word":
                return False
            i += 1
        self.i = i
        return True

    def _any_words(self, *choices: tuple[str, ...]) -> bool:
        return any(self._words(*words) for words in choices)


_OVER = (("divided", "by"), ("over",), ("out", "of"), ("in",))
_MORE = (("more", "than"), ("greater", "than"), ("larger", "than"), ("above",), ("beyond",))
_LESS = (("less", "than"), ("fewer", "than"), ("smaller", "than"), ("below",), ("short", "of"), ("shy", "of"))
_MULTIPLES = {"twice": Fraction(2), "double": Fraction(2), "doubled": Fraction(2), "doubling": Fraction(2)}
_MULTIPLES |= {"thrice": Fraction(3), "triple": Fraction(3), "tripling": Fraction(3), "quadruple": Fraction(4)}
_MULTIPLES |= {"halve": Fraction(1, 2), "halving": Fraction(1, 2)}
_MULTIPLES_AFTER = {"twice": Fraction(2), "doubled": Fraction(2), "tripled": Fraction(3), "halved": Fraction(1, 2)}
_PREFIXES = {"sum": "sum", "total": "sum", "add": "sum", "adding": "sum", "product": "product", "multiply": "product"}
_PREFIXES |= {"multiplying": "product", "difference": "difference", "subtract": "difference", "quotient": "quotient"}
_PREFIXES |= {"subtracting": "difference", "divide": "quotient", "dividing": "quotient", "halfway": "mean"}
_PREFIXES |= {"average": "mean", "mean": "mean", "midway": "mean"}
BEGINNINGS = {*_MULTIPLES, *FUNCTIONS, *_PREFIXES, "log", "square", "cube", "root", "sqrt", "the", "c"}
_AFTER_THE = {"sum", "product", "difference", "quotient", "square", "cube", "average", "mean"}
