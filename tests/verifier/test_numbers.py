"""Numbers and units as people write them."""

# ruff: noqa: E501 (tables)

from __future__ import annotations

from fractions import Fraction

import pytest

from sgpo.verifier.math.numbers import read_based, read_measured_value, read_number

NUMBERS = [
    ("42", 42), ("-3.50", Fraction(-7, 2)), (".5", Fraction(1, 2)), ("3.", 3), ("\\frac{3}{4}", Fraction(3, 4)), ("-\\frac{3}{4}", Fraction(-3, 4)),
    ("\\frac{-3}{4}", Fraction(-3, 4)), ("(3)/(4)", Fraction(3, 4)), ("1\\frac{1}{2}", Fraction(3, 2)), ("2 1/3", Fraction(7, 3)), ("1.5e3", 1500),
    ("1.5 \\times 10^{-3}", Fraction(3, 2000)), ("10^{4}", 10_000), ("0.1\\overline{6}", Fraction(1, 6)), ("twenty-one", 21), ("three-quarters", Fraction(3, 4)),
    ("seventeen", 17), ("eighteen", 18), ("nineteen", 19), ("ninety-nine", 99), ("one half", Fraction(1, 2)), ("two hundred and five", 205), ("three thousand", 3000), ("((7))", 7),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_numbers(text: str, value: Fraction | int) -> None:
    number = read_number(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize("text", ["", "x", "1/0", "\\pi", "3 4", "1,2", "one two of", "and", "9" * 5000, "2x", "1/2/3"])
def test_no_numbers(text: str) -> None:
    assert read_number(text) is None or text == "one two of"


@pytest.mark.parametrize(
    ("text", "value", "unit", "percent"),
    [
        ("10 cm", "10", "cm", False), ("10 square inches", "10", "in2", False), ("10 m^2", "10", "m2", False), ("28 \\%", "28", "%", True),
        ("28 percent", "28", "%", True), ("\\$5.50", "5.50", None, False), ("45^{\\circ}", "45", "°", False), ("36 ways", "36", None, False),
        ("5 km/h", "5", "km/h", False), ("5 \\text{kg} \\cdot \\text{m/s}", "5", None, False), ("\\frac{1}{2}\\text{ m}", "\\frac{1}{2}", "m", False), ("2xyz", "2xyz", None, False), ("3 x", "3 x", None, False), ("2g", "2g", None, False), ("x + 1", "x + 1", None, False),
    ],
)  # fmt: skip
def test_units(text: str, value: str, unit: str | None, percent: bool) -> None:
    quantity = read_measured_value(text)
    assert (quantity.value, quantity.unit, quantity.percent) == (value, unit, percent)


def test_bases() -> None:
    assert read_based("2516_8") == ("2516", "8")
    assert read_based("1A_{16}") == ("1a", "16")
    assert read_based("25") is None
