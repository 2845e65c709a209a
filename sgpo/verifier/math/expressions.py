"""Single expressions: parsed by math-verify's parser, compared by their values.

sympy's own comparison (`simplify`, `solve`) is slow, hangs on large powers, and rounds: it calls 1/2004! and 1/2006!
equal. Here both sides are evaluated to 50 digits at the same few points, with a bound on every intermediate result.
Two expressions that agree to 25 digits at generic points are equal (the Schwartz-Zippel argument).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath  # type: ignore[import-untyped]
import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from latex2sympy2_extended.math_normalization import normalize_latex
from math_verify import LatexExtractionConfig
from math_verify.grader import should_treat_as_complex

PARSE_LIMIT = 600  # characters; the longest gold answer of the usual benchmarks has 210
DIGITS = 50
TOLERANCE = mpmath.mpf(10) ** -25
FACTORIAL_LIMIT = 20_000
EXPONENT_LIMIT = 1_000_000  # binary exponent of the largest number that is worked with
TERM_LIMIT = 10_000  # of a sum or product; adding up more takes seconds

_NORMALIZATION = replace(LatexExtractionConfig().normalization_config, units=False)  # else `x + c` loses its `c`
_CONVERSION = ConversionConfig(lowercase_symbols=False)
# What the parser would misread: degrees as numbers, gamma as Euler's constant, `y'` as `y`, `dx/dt` as 0.
_RESPELLED = (
    (re.compile(r"(?<!\d)(\d++(?:\.\d++)?)\s*+\^\s*+\{?\s*+\\circ\s*+\}?"), r"(\1\\pi/180)"),
    (re.compile(r"\\([gG])amma(?![A-Za-z])"), r"\1_{gamma}"),
    (re.compile(r"([A-Za-z])('+)"), lambda match: f"{match[1]}_{{{'prime' * len(match[2])}}}"),
    (re.compile(r"\\frac\s*\{\s*d\s*([A-Za-z])\s*\}\s*\{\s*d\s*([A-Za-z])\s*\}"), r"d_{\1\2}"),
    (re.compile(r"\\\{"), "("),
    (re.compile(r"\\\}"), ")"),
)

# Functions with steps, which may hide a difference between two points.
_STEPS = (sympy.floor, sympy.ceiling, sympy.Mod, sympy.sign, sympy.Max, sympy.Min)
# What has a value here; everything else (sums, integrals, sets) has none.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": mpmath.exp, "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot, "sec": mpmath.sec,
    "csc": mpmath.csc, "asin": mpmath.asin, "acos": mpmath.acos, "atan": mpmath.atan, "acot": mpmath.acot,
    "sinh": mpmath.sinh, "cosh": mpmath.cosh, "tanh": mpmath.tanh, "asinh": mpmath.asinh, "acosh": mpmath.acosh,
    "atanh": mpmath.atanh, "Abs": abs, "floor": mpmath.floor, "ceiling": mpmath.ceil, "re": mpmath.re, "im": mpmath.im,
    "conjugate": mpmath.conj, "sign": mpmath.sign, "arg": mpmath.arg, "binomial": mpmath.binomial,
    "UnevaluatedExpr": lambda value: value,
    "Max": lambda *values: max(values, key=mpmath.re), "Min": lambda *values: min(values, key=mpmath.re),
}  # fmt: skip
_UNDEFINED = sympy.core.function.AppliedUndef
_OPERATIONS = (sympy.Add, sympy.Mul, sympy.Pow, _UNDEFINED)
_NAMED = ("factorial", "log", "Mod")
_CONSTANTS = {"Pi": mpmath.pi, "Exp1": mpmath.e, "GoldenRatio": mpmath.phi, "EulerGamma": mpmath.euler}


class Unknown(Exception):
    """The expression holds something that has no value here."""


class TooLarge(Unknown):
    """A value beyond all bounds: no answer, but a bomb."""


@lru_cache(maxsize=4096)
def parse(text: str) -> sympy.Basic | None:
    """Parse a cleaned single value; None where it is no expression."""
    if len(text) > PARSE_LIMIT or not text:
        return None
    if re.search(r"(?<![_^\d.])\d[\d.]*\s+\d|[A-Za-z]{12}", text):
        return None  # the parser would add the numbers of `3 4`
    for pattern, spelling in _RESPELLED:
        text = pattern.sub(spelling, text)
    try:
        latex = normalize_latex(text, _NORMALIZATION)
        parsed = latex2sympy(
            latex,
            is_real=not should_treat_as_complex(latex),
            normalization_config=None,
            conversion_config=_CONVERSION,
        )
    except MemoryError:
        raise
    except Exception:  # the parser raises whatever its grammar's actions raise
        return None
    if not isinstance(parsed, sympy.Basic) or parsed.has(sympy.zoo, sympy.nan):
        return None
    return parsed


def same_value(
    gold: sympy.Basic, found: sympy.Basic, *, fold_case: bool, tolerance: tuple[float, float] = (0.0, 0.0)
) -> bool | None:
    """Whether two expressions have the same value everywhere.

    Args:
        gold: the gold answer.
        found: the answer of a completion.
        fold_case: take X for x.
        tolerance: the absolute and the relative difference that is allowed where the answers were rounded.

    Returns:
        None where that cannot be told.
    """
    # Whole numbers exactly; those too large to work with are different, unless they are written alike.
    try:
        if (a := _exact(gold)) is not None and (b := _exact(found)) is not None and tolerance == (0.0, 0.0):
            return a == b
    except TooLarge:
        return None if gold == found else False
    # All else at a few points; only those in the domain of both count.
    names = _names(gold, found)
    seen = 0
    with mpmath.workdps(DIGITS):
        for number in range(_points(gold, found) if names else 1):
            point = _point(names, number, fold_case=fold_case)
            try:
                a, b = _evaluate(gold, point), _evaluate(found, point)
            except TooLarge:
                return False if gold != found else None
            except (Unknown, ZeroDivisionError, ValueError, TypeError, OverflowError):
                return None
            if names and _is_real(a) != _is_real(b):
                continue  # outside of the domain of one of them, as with \\log x^2 and 2 \\log x
            if not _close(a, b, tolerance):
                return False
            seen += 1
    return True if seen else None


def proportional(gold: sympy.Basic, found: sympy.Basic, *, fold_case: bool) -> bool | None:
    """Whether one expression is a constant multiple of the other: what two equations `gold = 0` and `found = 0` need.

    Returns:
        None where that cannot be told.
    """
    names = _names(gold, found)
    with mpmath.workdps(DIGITS):
        ratio = None
        for number in range(4):
            point = _point(names, number, fold_case=fold_case)
            try:
                a, b = _evaluate(gold, point), _evaluate(found, point)
            except TooLarge:
                return False
            except (Unknown, ZeroDivisionError, ValueError, TypeError, OverflowError):
                return None
            if abs(a) < TOLERANCE or abs(b) < TOLERANCE:
                return None
            # The ratio at the first point must be that at all others.
            if ratio is not None and not _close(a / b, ratio):
                return False
            ratio = a / b
    return bool(names)


def is_bomb(text: str) -> bool:
    """Whether `text` holds a number too large to work with: sympy would try."""
    parsed = parse(text)
    if parsed is None:
        return False
    with mpmath.workdps(DIGITS):
        try:
            _evaluate(parsed, _point(_names(parsed, parsed), 0, fold_case=False))
        except TooLarge:
            return True
        except (Unknown, ZeroDivisionError, ValueError, TypeError, OverflowError):
            return False
    return False


def _names(gold: sympy.Basic, found: sympy.Basic) -> list[str]:
    """The unknowns of both sides: `x`, and `f()` for a function of no known rule."""
    symbols = {symbol.name for symbol in gold.free_symbols | found.free_symbols} - {"i", "I", "e"}
    functions = gold.atoms(_UNDEFINED) | found.atoms(_UNDEFINED)
    return sorted(symbols | {f"{type(function).__name__}()" for function in functions})


def _points(gold: sympy.Basic, found: sympy.Basic) -> int:
    """How many points tell two expressions apart: more where steps hide a difference."""
    return 12 if gold.has(*_STEPS) or found.has(*_STEPS) else 3


def _exact(node: Any) -> Fraction | None:
    """The value of an expression of whole numbers, None where it is none: 2^{2008} - 2 is not 2^{2008} + 2."""
    if isinstance(node, sympy.Rational):
        return Fraction(int(node.p), int(node.q))
    if isinstance(node, sympy.factorial):
        value = _exact(node.args[0])
        if value is None or value.denominator > 1 or value < 0:
            return None
        return Fraction(math.factorial(_bounded(value, FACTORIAL_LIMIT)))
    if not isinstance(node, sympy.Add | sympy.Mul | sympy.Pow):
        return None
    values = [value for argument in node.args if (value := _exact(argument)) is not None]
    if len(values) < len(node.args):
        return None
    if isinstance(node, sympy.Add):
        return sum(values, Fraction(0))
    if isinstance(node, sympy.Mul):
        return math.prod(values, start=Fraction(1))
    base, exponent = values
    if exponent.denominator > 1 or (base == 0 and exponent <= 0):
        return None
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    _bounded(abs(exponent) * bits, EXPONENT_LIMIT)
    return base ** int(exponent)


def _bounded(value: Fraction, limit: int) -> int:
    if value > limit:
        raise TooLarge
    return int(value)


def _point(names: list[str], number: int, *, fold_case: bool) -> dict[str, mpmath.mpf]:
    return {name: _coordinate(name.lower() if fold_case else name, number) for name in names}


def _coordinate(name: str, number: int) -> mpmath.mpf:
    """A generic value of a symbol, the same for the same name: two positive, then one negative, ever larger."""
    size = mpmath.mpf(zlib.crc32(f"{number}/{name}".encode()) % 999_983 + 1) / 999_983
    return (mpmath.mpf("0.37") + size * 2 * (number // 3 + 1)) * (-1 if number % 3 == 2 else 1) + mpmath.pi / 1000


def _is_real(value: Any) -> bool:
    return abs(mpmath.im(value)) <= TOLERANCE * max(1, abs(value))


def _close(a: Any, b: Any, tolerance: tuple[float, float] = (0.0, 0.0)) -> bool:
    if a == b:
        return True
    difference, size = abs(a - b), max(abs(a), abs(b))
    if not mpmath.isfinite(difference):
        return False
    absolute, relative = tolerance
    return bool(difference <= max(TOLERANCE * size, mpmath.mpf(absolute), relative * size))


def _evaluate(node: Any, point: dict[str, mpmath.mpf]) -> Any:
    """The value of `node` at `point`: every step is bounded in time and memory."""
    value = _step(node, point)
    if isinstance(value, mpmath.mpf | mpmath.mpc) and abs(_exponent(value)) > EXPONENT_LIMIT:
        raise TooLarge
    return value


def _step(node: Any, point: dict[str, mpmath.mpf]) -> Any:
    name = type(node).__name__
    # Leaves of the tree.
    if isinstance(node, sympy.Rational):
        return mpmath.mpf(int(node.p)) / int(node.q)
    if isinstance(node, sympy.Float):
        return mpmath.mpf(str(node))
    if name in _CONSTANTS:
        return +_CONSTANTS[name]
    if name in ("Infinity", "NegativeInfinity"):
        return mpmath.inf if name == "Infinity" else -mpmath.inf
    if name == "ImaginaryUnit":
        return mpmath.mpc(0, 1)
    if isinstance(node, sympy.Symbol):
        return _symbol(node.name, point)
    # What is bound to fail ends before its arguments are worked out.
    if name in ("Sum", "Product") and _is_long(node):
        raise TooLarge
    if not (isinstance(node, _OPERATIONS) or name in _NAMED or name in _FUNCTIONS):
        raise Unknown  # sums, integrals, sets: they bind symbols or are no number
    # Inner nodes: their arguments first.
    arguments = [_evaluate(argument, point) for argument in node.args]
    if isinstance(node, sympy.Add):
        return _without_rounding(mpmath.fsum(arguments), max(map(abs, arguments)))
    if isinstance(node, sympy.Mul):
        return mpmath.fprod(arguments)
    if isinstance(node, sympy.Pow):
        return _power(*arguments)
    if name == "factorial":
        return _factorial(arguments[0])
    if name == "log":
        return _without_rounding(mpmath.log(*arguments), min(1, abs(arguments[0])))
    if name == "Mod":
        return arguments[0] - arguments[1] * mpmath.floor(arguments[0] / arguments[1])
    if name in _FUNCTIONS:
        if name in ("sin", "cos", "tan", "cot", "sec", "csc", "floor", "ceiling") and _exponent(arguments[0]) > 2000:
            raise Unknown  # the value is in digits that are not computed
        if name in ("exp", "sinh", "cosh") and _exponent(arguments[0]) > 40:
            raise TooLarge
        value = _FUNCTIONS[name](*arguments)
        return _without_rounding(value, min(1, abs(arguments[0]))) if name != "exp" else value
    # A function of no known rule: a fixed smooth one per name.
    return mpmath.cos(point[f"{name}()"] + mpmath.fsum((place + 1) * value for place, value in enumerate(arguments)))


def _without_rounding(value: Any, size: Any) -> Any:
    """0 for what is left of a sum that cancels, or of sin(pi): the rounding error of numbers of that size.

    So a value is 0 where it is 0, and e^{-100} is not.
    """
    return mpmath.mpf(0) if abs(value) < size * mpmath.mpf(10) ** (8 - DIGITS) else value


def _is_long(node: Any) -> bool:
    """Whether a sum has so many terms that adding them up takes seconds."""
    ranges = [limits[2] - limits[1] for limits in node.limits if len(limits) == 3]
    return any(bool(span.is_number and span.is_finite and span > TERM_LIMIT) for span in ranges)


def _symbol(name: str, point: dict[str, mpmath.mpf]) -> Any:
    if name in ("i", "I"):
        return mpmath.mpc(0, 1)
    if name == "e":
        return +mpmath.e
    return point[name]


def _exponent(value: Any) -> int:
    size = abs(value)
    return int(mpmath.mag(size)) if size and mpmath.isfinite(size) else 0


def _power(base: Any, exponent: Any) -> Any:
    if base == 0:
        if mpmath.re(exponent) <= 0:
            raise Unknown
        return mpmath.mpf(0)
    if _exponent(exponent) > 40 or abs(mpmath.re(exponent)) * abs(mpmath.log(abs(base), 2)) > EXPONENT_LIMIT:
        raise TooLarge
    if mpmath.im(base) == 0 and mpmath.re(base) < 0 and _is_odd_root(exponent):
        return -mpmath.power(-base, exponent)  # the real root, as in school: \\sqrt[3]{-8} = -2
    return mpmath.power(base, exponent)


def _is_odd_root(exponent: Any) -> bool:
    inverse = 1 / exponent if exponent else 0
    return bool(
        mpmath.im(inverse) == 0 and abs(inverse - mpmath.nint(inverse)) < TOLERANCE and mpmath.nint(inverse) % 2 == 1
    )


def _factorial(value: Any) -> Any:
    if abs(value) > 200_000:
        raise TooLarge
    return mpmath.gamma(value + 1)
