"""Operations on the values of expressions: exact where they can be, bounded always.

A function returns None where the result is no real number, or larger than any answer.
"""

from __future__ import annotations

import math
from fractions import Fraction

from sgpo.strategies.leak.tokens import Value

MAX_BASE = 10**6
MAX_EXPONENT = 64
MAX_FACTORIAL = 60
MAX_BINOMIAL = 1000
MAX_BITS = 4096  # of a numerator or a denominator; squaring a number again and again doubles them every time

FUNCTIONS = {"sin": math.sin, "cos": math.cos, "tan": math.tan}


def to_float(value: Value) -> float:
    """As a floating-point number, infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def magnitude(value: Value) -> Value:
    """The value without its sign."""
    return -value if value < 0 else value


def same(a: Value, b: Value) -> bool:
    """Equal, up to the rounding of floating-point numbers."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    return math.isclose(to_float(a), to_float(b), rel_tol=1e-9, abs_tol=1e-12)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Fraction:
    """Raises OverflowError for a number that is longer than any answer; the expression ends there."""
    if _bits(value) > MAX_BITS:
        raise OverflowError(f"a number of more than {MAX_BITS} bits")
    return value


def add(a: Value, b: Value, sign: int) -> Value:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a + sign * b)
    return to_float(a) + sign * to_float(b)


def multiply(a: Value, b: Value) -> Value:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a * b)
    return to_float(a) * to_float(b)


def divide(a: Value, b: Value) -> Value:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _bounded(a / b)
    return to_float(a) / to_float(b)


def power(base: Value, exponent: Value) -> Value | None:
    """None where it is no real number or too large to matter."""
    if magnitude(exponent) > MAX_EXPONENT or magnitude(base) > MAX_BASE or (base == 0 and exponent < 0):
        return None
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        if _bits(base) * magnitude(exponent) > MAX_BITS:
            return None
        return Fraction(base**exponent.numerator)
    return None if base < 0 else to_float(base) ** to_float(exponent)


def trigonometric(name: str, angle: Value, degrees: bool) -> Value | None:
    radians = to_float(angle) * math.pi / 180 if degrees else to_float(angle)
    value = FUNCTIONS[name](radians)
    return None if abs(value) > 10**9 else value


def root(value: Value, index: int) -> Value | None:
    if value < 0 or value > 10**300:
        return None
    if isinstance(value, Fraction):
        top, bottom = (round(float(part) ** (1 / index)) for part in (value.numerator, value.denominator))
        if top**index == value.numerator and bottom**index == value.denominator:
            return Fraction(top, bottom)
    return float(value) ** (1 / index)


def choose(top: Value | None, bottom: Value | None) -> Value | None:
    whole = isinstance(top, Fraction) and isinstance(bottom, Fraction) and top.denominator == bottom.denominator == 1
    if not whole or top is None or bottom is None or not 0 <= bottom <= top <= MAX_BINOMIAL:
        return None
    return Fraction(math.comb(int(top), int(bottom)))


def factorial(value: Value) -> Value:
    whole = isinstance(value, Fraction) and value.denominator == 1 and 0 <= value <= MAX_FACTORIAL
    return Fraction(math.factorial(int(value))) if whole else value
