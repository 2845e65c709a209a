"""Rules for two single values: letters of choices, bases, clocks, rounding, words."""

from __future__ import annotations

import re
from fractions import Fraction

from sgpo.verifier.math.latex import compact, without_text
from sgpo.verifier.math.numbers import MULTIPLES, PARTS, SMALL, Number

RELATIVE = Fraction(1, 10_000)  # the relative difference of rounded numbers, as in Qwen2.5-Math's grader
_CHOICE = re.compile(r"\(?\s*([A-Za-z])\s*[).:]?")
_CHOICE_AND_TEXT = re.compile(r"\(\s*([A-Z])\s*\)\s*\S.*|([A-Z])\s*[).:]\s*\S.*", re.DOTALL)
_COMPUTES = re.compile(
    r"(?<![\\a-z])(?:divided|minus|negative|plus|multiplied|times(?=\s*[\d\\(])|factorial|choose|remainder|modulo"
    r"|(?:square|cube) root(?!s)|over(?=\s*\d)"
    r"|twice|thrice|doubled|tripled|halved|half of|(?:more|less|fewer|greater|larger|smaller|higher|lower|bigger) than"
    r"|at (?:least|most)"
    r"|or (?:more|less|fewer|greater)|off(?=\s*\S)|not|to the \d|of\s*[-\d\\])(?![a-z])"
)
_COUNTING = (MULTIPLES.keys() | SMALL.keys() | PARTS.keys()) - {"one"}  # "the only one" counts nothing


def same_choice(gold: str, found: str, *, fold_case: bool) -> bool | None:
    r"""Compare letters of multiple choice: `(B)`, `B.` and `\text{B}` are one; `(B) 2.5` is B, with its text.

    Returns:
        None where one of them is no letter.
    """
    plain_gold, plain_found = without_text(gold), without_text(found)
    letter = _CHOICE.fullmatch(plain_gold)
    if letter and (other := _CHOICE.fullmatch(plain_found)):
        return letter[1] == other[1] or (fold_case and letter[1].lower() == other[1].lower())
    for one, two in ((plain_gold, plain_found), (plain_found, plain_gold)):
        if (letter := _CHOICE.fullmatch(one)) and letter[1].isupper() and (other := _CHOICE_AND_TEXT.fullmatch(two)):
            return letter[1] == (other[1] or other[2])
    return None


def same_letters(gold: str, found: str) -> bool | None:
    """Compare capitals in a row as text: `CBAD` is an order, a word or a name, not a product that may be rearranged.

    Returns:
        None where they are not that. Two capitals are left to the comparison of products: the segment CD is DC.
    """
    letters = [compact(without_text(side)) for side in (gold, found)]
    if not all(re.fullmatch("[A-Za-z]{3,}", side) for side in letters) or not any(map(str.isupper, letters)):
        return None
    return letters[0].upper() == letters[1].upper()


def same_based(gold: tuple[str, str], found: tuple[str, str], strict: bool) -> bool:
    """Compare digits with their bases, as `numbers.read_based` reads them.

    `2516_8` and `2516` (its base left out) are the same, `101_2` and `101_3` are not; `5_2` is no number.
    """
    digits = [re.sub(r"[\s,]", "", side[0]).lower().lstrip("0") for side in (gold, found)]
    if digits[0] != digits[1] or gold[1] == found[1]:
        return digits[0] == digits[1]
    return not strict and "" in (gold[1], found[1]) and _are_digits(digits[0], base=gold[1] or found[1])


def _are_digits(text: str, *, base: str) -> bool:
    return not base.isdigit() or all(int(digit, 36) < int(base) for digit in text)


def read_clock(text: str) -> tuple[int, bool] | None:
    """Read a time of day: 330 minutes for `5:30`, in an unknown half of the day, 1050 for `5:30 p.m.` and `17:30`.

    Returns:
        The minutes, and whether the half of the day is known; None for anything else.
    """
    plain = without_text(text).lower().strip().replace("noon", "pm").replace("midnight", "am")
    match = re.fullmatch(r"0?(\d{1,2})\s*(?::\s*(\d\d)\s*)?(?:([ap])\.?\s*m\.?)?", plain)
    if not match or not (match[2] or match[3]):
        return None
    hours, minutes = int(match[1]), int(match[2] or 0)
    if match[3] and hours <= 12:
        return (hours % 12 + (12 if match[3] == "p" else 0)) * 60 + minutes, True
    return hours * 60 + minutes, bool(match[3]) or not 1 <= hours <= 12


def same_clock(gold: tuple[int, bool], found: tuple[int, bool]) -> bool:
    """Compare two times of day; one without its half of the day may be in either."""
    if gold[1] and found[1]:
        return gold[0] == found[0]
    return gold[0] % 720 == found[0] % 720 if gold[1] or found[1] else gold[0] == found[0]


def computes(text: str) -> bool:
    """Whether words in an answer compute or bound: its number is not its value in `5 more than 10` and `half of 8`."""
    return bool(_COMPUTES.search(without_text(text).lower()))


def is_rounded(gold: Number, found: Number) -> bool:
    """Whether one number is the other one rounded.

    The gold answer may be rounded to three digits or more, as authors do; the found one may be rounded or cut off, to
    four or more: a model may print what it computed so far.
    """
    return _rounds_to(found, gold, digits=3, cut=False) or (
        gold.value.denominator > 1 and _rounds_to(gold, found, digits=4, cut=True)
    )


def _rounds_to(exact: Number, rounded: Number, *, digits: int, cut: bool) -> bool:
    if rounded.digits < digits or (exact.is_decimal and exact.decimals <= rounded.decimals):
        return False
    difference = abs(exact.value) - abs(rounded.value)
    if exact.value * rounded.value <= 0:
        return False
    if rounded.is_decimal:
        place = Fraction(1, 10**rounded.decimals)
        return -place / 2 <= difference < place if cut else abs(difference) <= place / 2
    # 6630 may stand for 6630.65: an integer that ends in 0 was rounded, 6631 was not.
    return exact.is_decimal and rounded.value % 10 == 0 and abs(difference) <= RELATIVE * abs(rounded.value)


def tolerance_for(gold: str, found: str) -> tuple[float, float]:
    """Say how far two expressions may differ, of which one holds decimals of at least four digits.

    Returns:
        The absolute and the relative difference; zeros where no answer is rounded, or both are.
    """
    if ("." in gold) == ("." in found):
        return 0.0, 0.0
    decimals = [
        text for text in re.findall(r"\d*\.\d+", f"{gold} {found}") if len(text.replace(".", "").lstrip("0")) >= 4
    ]
    half = max((0.5 * 10.0 ** -len(text.partition(".")[2]) for text in decimals), default=0.0)
    return half, float(RELATIVE) if decimals else 0.0


def count_operations(text: str) -> int:
    """Count the operations that an expression leaves to its reader."""
    return len(re.findall(r"[-+/^!]|\\(?:frac|cdot|times|sqrt|binom|sum|prod|int|sin|cos|tan|log|ln)(?![a-z])", text))


def has_variables(text: str) -> bool:
    """Whether letters stand in a value that stand for numbers (and not for the index of a sum)."""
    if re.search(r"\\(?:sum|prod|int|lim|max|min|text|begin)(?![a-z])", text):
        return False
    return bool(re.search(r"[a-df-hj-zA-Z]", re.sub(r"\\operatorname\s*\{[^{}]*\}|\\[A-Za-z]+", " ", text)))


def is_wordy(text: str) -> bool:
    """Whether an answer holds words beside its mathematics."""
    bare = re.sub(r"\\(?!text)[A-Za-z]+", " ", text)
    return r"\text" in bare or bool(re.search(r"[A-Za-z]{4,}", bare))


def words_of(text: str, *, fold_case: bool) -> str:
    """Write an answer as words with single spaces, without articles and punctuation."""
    plain = without_text(text).lower() if fold_case else without_text(text)
    return " ".join(re.findall(r"[\w\\^{}+/-]+", re.sub(r"\b(?:the|a|an)\b", " ", plain)))


def has_value(text: str) -> bool:
    """Whether an answer holds a number, not words alone."""
    return bool(re.search(r"\d|\\frac|\\sqrt|\\pi", text))


def has_several_values(text: str) -> bool:
    """Whether words part an answer's numbers, or count on their own: `5 hours 30 minutes`, `5 and a half`."""
    # Numbers and words in their order, without indices, powers and commands.
    bare = re.sub(r"[_^]\s*(?:\{[^{}]*\}|\w)|\\[A-Za-z]+", " ", without_text(text))
    parts = re.findall(r"\d+|[A-Za-z]{2,}", bare)
    numbers = [place for place, part in enumerate(parts) if part.isdigit()]
    between = parts[numbers[0] : numbers[-1]] if numbers else []
    return not all(map(str.isdigit, between)) or bool(numbers and _COUNTING.intersection(map(str.lower, parts)))
