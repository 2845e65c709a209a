from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgpo.strategies.leak.arithmetic import Parser
from sgpo.strategies.leak.numbers import quantities, read_value
from sgpo.strategies.leak.tokens import tokenize
from sgpo.strategies.leak.values import MAX_BITS, same


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72),
        ("1,234.5", Fraction(2469, 2)),
        ("1{,}000", 1000),
        ("7.2e1", 72),
        ("0.5\\overline{3}", Fraction(8, 15)),
        ("1001000_2", 72),
        ("0x48", 72),
        ("LXXII", 72),
        ("seventy-two", 72),
        ("one hundred and five", 105),
        ("two thousand three hundred forty", 2340),
        ("thirty-one thousand", 31000),
        ("a dozen", 12),
        ("three dozen", 36),
        ("a dozen and a half", 18),
        ("two and a half dozen", 30),
        ("two and a half", Fraction(5, 2)),
        ("three quarters", Fraction(3, 4)),
        ("a third", Fraction(1, 3)),
        ("½", Fraction(1, 2)),
        ("\\frac12", Fraction(1, 2)),
        ("\\dfrac{3}{4}", Fraction(3, 4)),
        ("3\\frac{1}{2}", Fraction(7, 2)),
        ("-3", -3),
        ("90^\\circ", 90),
        ("20\\%", Fraction(1, 5)),
        ("2^{10}", 1024),
        ("10^{-3}", Fraction(1, 1000)),
        ("5!", 120),
        ("\\binom{9}{2}", 36),
        ("\\sqrt{144}", 12),
        ("\\sqrt[3]{27}", 3),
        ("2\\sqrt{3}", math.sqrt(12)),
        ("12^{1/2}", math.sqrt(12)),
        ("\\frac{\\sqrt{3}}{2}", math.sin(math.pi / 3)),
        ("\\sin 60^\\circ", math.sqrt(3) / 2),
        ("\\log_2 128", 7),
        ("\\dfrac{3\\pi}{4}", 3 * math.pi / 4),
        ("7.2 \\times 10^1", 72),
        ("8 x 9", 72),
        ("3:4", Fraction(3, 4)),
        ("1/2 - 1/3", Fraction(1, 6)),
        ("(1 + 2) * 3", 9),
        ("1 + 2 * 3", 7),
        ("10 - 3 - 2", 5),
        ("half of 144", 72),
        ("half a dozen", 6),
        ("one in three", Fraction(1, 3)),
        ("twice 36", 72),
        ("36 doubled", 72),
        ("two thirds of 108", 72),
        ("twenty percent of 360", 72),
        ("the sum of 40 and 32", 72),
        ("the product of eight and nine", 72),
        ("the difference of 100 and 28", 72),
        ("multiply 8 by 9", 72),
        ("halfway between 70 and 74", 72),
        ("one more than 71", 72),
        ("eight short of eighty", 72),
        ("six squared times two", 72),
        ("two to the fifth power", 32),
        ("the square root of three over two", math.sqrt(3) / 2),
        ("nine choose two", 36),
        ("three out of four", Fraction(3, 4)),
        ("7.2e1.", 72),
        ("0.\\overline{2}", Fraction(2, 9)),
        ("an eighth", Fraction(1, 8)),
        ("1 1/2", Fraction(3, 2)),
        ("{10 \\choose 2}", 45),
        ("C(10, 2)", 45),
        ("the cube root of 27", 3),
        ("halve 144", 72),
    ],
)
def test_the_value_of_a_text(text: str, value: float) -> None:
    found = read_value(text)
    assert found is not None
    assert same(found, value if isinstance(value, float) else Fraction(value))


@pytest.mark.parametrize(
    "text", ["", "x", "2a", "b^2 - 4ac", "x = 5", "step 3", "3 apples", "1/0", "0^{-1}", "9^9^9^9"]
)
def test_texts_without_one_value(text: str) -> None:
    assert read_value(text) is None


def test_a_sentence_states_its_numbers_and_what_they_work_out_to() -> None:
    tokens = tokenize("Take 48 - 24, then add the seventh of the numbers to minus five.")
    assert {quantity.value for quantity in quantities(tokens)} == {48, 24, 7, -5}
    expressions = [q.value for q in quantities(tokenize("Take 48 - 24 = 24 apples")) if q.operands > 1]
    assert expressions == [24]
    in_binary = quantities(tokenize("write 1001000 in binary"))
    assert 72 in {quantity.value for quantity in in_binary}


def test_two_units_are_one_quantity() -> None:
    values = [
        quantity.value for quantity in quantities(tokenize("It takes 1 hour and 20 minutes, or a foot 3 inches."))
    ]
    assert {80, Fraction(4, 3), 15, Fraction(5, 4)} <= set(values)
    assert 23 not in [quantity.value for quantity in quantities(tokenize("3 hours and 20 dollars"))]


def test_coefficients_and_exponents_of_letters_are_marked() -> None:
    marks = {
        token.text: token.formula for token in tokenize("2a + x^3 + y_4 + \\sqrt[5]{z} + 6 \\cdot 7") if token.value
    }
    assert marks == {"2": True, "3": True, "4": True, "5": True, "6": False, "7": False}


@given(st.integers(0, 999_999))
def test_numbers_in_words_are_read(number: int) -> None:
    assert read_value(in_words(number)) == number


def in_words(number: int) -> str:
    units = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    small = [*units.split(), "seventeen", "eighteen", "nineteen"]
    tens = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    if number < 20:
        return small[number]
    if number < 100:
        return tens[number // 10] + (f"-{small[number % 10]}" if number % 10 else "")
    if number < 1000:
        return small[number // 100] + " hundred" + (f" and {in_words(number % 100)}" if number % 100 else "")
    rest = number % 1000
    return in_words(number // 1000) + " thousand" + (f" {in_words(rest)}" if rest else "")


@given(
    st.text()
    | st.text(alphabet="0123456789+-*/^(){}!.%x \\")
    | st.lists(
        st.sampled_from(
            [
                "two",
                "hundred",
                "and",
                "a",
                "half",
                "of",
                "the",
                "sum",
                "twice",
                "\\sqrt",
                "\\frac",
                "{",
                "}",
                "3",
                "-",
                "log",
                "_",
            ]
        )
    ).map(" ".join)
)
def test_no_text_is_too_strange(text: str) -> None:
    for quantity in quantities(tokenize(text)):
        assert 0 <= quantity.first <= quantity.last


@pytest.mark.parametrize(
    "text", ["(" * 3000, "-" * 3000 + "1", "twice " * 1000, "\\sqrt" * 1000, "9" * 5000, "60!*" * 200]
)
def test_hostile_texts_end(text: str) -> None:
    quantities(tokenize(text))
    read_value(text)


@pytest.mark.parametrize(
    "text",
    [
        "0.5" + "²" * 14,
        "0.5" + " squared" * 14,
        "0.3^{60}" * 60,
        "*".join(["9" * 290] * 20),
        "/".join(["9" * 290] * 20),
    ],
)
def test_no_number_grows_beyond_every_answer(text: str) -> None:
    for quantity in quantities(tokenize(text)):
        value = quantity.value
        assert isinstance(value, float) or max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS


@pytest.mark.parametrize(
    "piece", ["2^", "2(", "2^{", "(", "sum of ", "\\frac", "\\sqrt ", "1/", "c(", "twice ", "half of ", "-"]
)
def test_the_work_grows_as_the_text_does(piece: str) -> None:
    tokens = tokenize(piece * 60 + "3")
    steps = i = 0
    while i < len(tokens):
        parser = Parser(tokens, i)
        parser.whole_expression()
        steps += parser.steps
        i = max(i + 1, parser.furthest) if parser.gave_up() else i + 1
    assert steps < 100 * len(tokens)
