r"""Numbers as people write them, and their units: `\$32,348`, `2 1/2`, `1.5 \times 10^{3}`, `three-quarters`.

The tables of number words also serve the leak gate (`sgpo.strategies.leak`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from sgpo.verifier.math.latex import closing, without_text

_ONES = "zero one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth"

SMALL = {word: value for value, word in enumerate(f"{_ONES} {_TEENS}".split())}
SMALL |= {word: 10 * ten for ten, word in enumerate(_TENS.split(), 2)}
LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MULTIPLES = LARGE | {"dozen": 12}
PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
PARTS |= {word + plural: value for value, word in enumerate(_ORDINALS.split(), 3) for plural in ("", "s")}

DIGIT_LIMIT = 1000  # longer numbers are compared as text; Python itself refuses to read 4300 digits

# Units that are told apart where both sides name one. Any other word behind a number is ignored.
_UNITS = {
    name: canonical
    for canonical, names in {
        "m": "m meter meters metre metres", "cm": "cm centimeter centimeters centimetre centimetres",
        "mm": "mm millimeter millimeters", "km": "km kilometer kilometers kilometres", "in": "in inch inches",
        "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mi mile miles", "kg": "kg kilogram kilograms",
        "g": "g gram grams", "mg": "mg milligram milligrams", "lb": "lb lbs pound pounds", "oz": "oz ounce ounces",
        "s": "s sec second seconds", "min": "min mins minute minutes", "h": "h hr hrs hour hours", "day": "day days",
        "week": "week weeks", "month": "month months", "year": "year years yr yrs",
        "L": "L l liter liters litre litres",
        "mL": "mL ml milliliter milliliters", "gal": "gal gallon gallons", "mph": "mph", "km/h": "km/h kmh kph",
        "m/s": "m/s", "N": "N newton newtons", "J": "J joule joules", "W": "W watt watts", "Hz": "Hz hertz",
        "K": "K kelvin", "Pa": "Pa", "V": "V volt volts", "cent": "cent cents",
        **{name: f"{name} {name}s" for name in MULTIPLES},
    }.items()
    for name in names.split()
}  # fmt: skip
_NOT_UNITS = {"and", "or", "mod", "if", "to", "of", "times", "over", "e", "i", "x", "y", "z", "n", "pi"}

_PERCENT = re.compile(r"(?<!\s)\s*+(?:\\?%|\bpercent(?:age)?\b|\bpct\b)\s*+(?:points?\s*+)?$", re.IGNORECASE)
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?\s*[CFK]?|\bdegrees?\b)\s*", re.IGNORECASE)
_CURRENCY = re.compile(
    r"\\\$|[$€£¥₹₩₽₱₺₫]|\b(?:Rs\b\.?|INR\b)|\\(?:euro|pounds)\b|\b(?:US)?(?:dollars?|USD|euros?|EUR)\b", re.IGNORECASE
)
_PER = re.compile(r"(?<=\d)\s*(?:/|\bper\b)\s*(?:[A-Za-z]{3,}|kg|hr)\s*$")  # 7200/year
# Units as LaTeX composes them: `\text{kg} \cdot \text{m/s}`, `\text{erg s}^{-1}`.
_TEXT_UNIT = re.compile(
    r"(.*?[\d)}!])\s*(\\text\s*\{(?:[^{}]|\\cdot)*\}(?:\\text\s*\{[^{}]*\}|\\cdot|[/\s]|\^\s*\{?\s*-?\d+\s*\}?)*)"
)

_IN_WORDS = re.compile(r"(.*\d)\s*\(([a-z -]+)\)")  # `7 \text{ (seven)}`

# Ways to write a number.
_DECIMAL = r"(?:\d+\.?\d*|\.\d+)"
_SIGN = r"(?P<sign>[-+]?)\s*"
_PLAIN = re.compile(rf"{_SIGN}(?P<value>{_DECIMAL})")
_SCIENTIFIC = re.compile(
    rf"{_SIGN}(?:(?P<value>{_DECIMAL})\s*(?:[eE]|(?:\\times|\\cdot|x)\s*10\s*\^)|10\s*\^)\s*(?P<exponent>[-+]?\d{{1,3}}|\{{\s*[-+]?\d{{1,3}}\s*\}})"
)
_FRACTION = re.compile(
    rf"{_SIGN}(?:(?P<whole>\d+)\s*(?:\\frac\s*|\s(?=\d+\s*/)))?"
    rf"(?:\\frac\s*)?(?:\(\s*|\{{\s*)?(?P<over_sign>-?)\s*(?P<over>{_DECIMAL})\s*(?:\)|\}})?\s*/?\s*(?:\(\s*|\{{\s*)?(?P<under>{_DECIMAL})\s*(?:\)|\}})?"
)
_REPEATING = re.compile(rf"{_SIGN}(?P<whole>\d*)\.(?P<once>\d*)\\(?:overline|bar|dot)\s*\{{?(?P<again>\d+)\}}?")
_BASED = re.compile(r"(?P<digits>[0-9A-Fa-f]+)\s*_\s*\{?\s*(?:\(?(?P<base>\d{1,2})\)?|(?P<name>[a-z]+))\s*\}?")


@dataclass(frozen=True, slots=True)
class MeasuredValue:
    """An answer's value without its unit.

    Attributes:
        value: the value as text.
        unit: the unit, where it is one that can be told apart.
        percent: whether the value is in percent.
    """

    value: str
    unit: str | None = None
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Number:
    """An exact value, and how precisely it was written.

    Attributes:
        value: the value.
        decimals: digits behind the point: 2 of `6630.65`.
        digits: significant digits: 6 of `6630.65`, 3 of `6630`.
        is_decimal: whether the digits behind the point are not all zeros.
    """

    value: Fraction
    decimals: int = 0
    digits: int = 0
    is_decimal: bool = False


def read_measured_value(text: str) -> MeasuredValue:
    """Take currency, percent, degrees and units off a cleaned answer."""
    # Currency signs are dropped: `$5` is 5. What excludes each other (dollars, cents) is seen by `equivalence`.
    bare = _CURRENCY.sub(" ", text).strip()
    if composed := _TEXT_UNIT.fullmatch(bare):
        bare = f"{composed[1]} {_plain_unit(composed[2])}"
    bare = without_text(bare) if re.match(r"\s*[-+]?[\d.(\\]", bare) else bare
    bare = re.sub(r"(?<=\d)\s*\^?\s*\{?\s*(?:st|nd|rd|th)(?![A-Za-z])\s*\}?", " ", bare).strip()
    bare = _PER.sub("", bare)
    if said := _IN_WORDS.fullmatch(bare):
        digits, words = read_number(said[1]), read_number(said[2])
        bare = said[1] if digits and words and digits.value == words.value else bare
    # Percent and degrees are units too, with spellings of their own.
    if percent := _PERCENT.search(bare):
        bare = bare[: percent.start()]
    without_degrees = (
        _DEGREES.sub(" ", bare).strip() if not re.search(r"\\(?:sin|cos|tan|cot|sec|csc)|\^\s*\{\s*i", bare) else bare
    )
    value, unit = _split_unit(without_degrees or bare, named=r"\text" in text)
    if percent or (without_degrees and without_degrees != bare):
        unit = "%" if percent else "°"
    return MeasuredValue(value.strip() or text, unit, percent is not None)


def in_full(quantity: MeasuredValue) -> Fraction | None:
    """Write a value out: 5,000,000 for `5 million`, and for itself; None for what is no number."""
    number = read_number(quantity.value)
    return number.value * MULTIPLES.get(quantity.unit or "", 1) if number else None


def _plain_unit(text: str) -> str:
    """`\\text{kg\\cdot m/s}` as `kg m/s`; a power stays, to tell cm from cm^2."""
    return without_text(re.sub(r"\\cdot", " ", text)).strip()


def _split_unit(text: str, *, named: bool) -> tuple[str, str | None]:
    """`10 square cm` is (`10`, `cm2`); other words behind a number are dropped, with unit None.

    Letters that may be variables are no words, unless they are `named` as text: `2xyz` is a product.
    """
    match = re.match(r"(.*(?:[\d)}!]|\\pi(?=\s)))\s*([^\W\d_][\w./^{}\s-]*)$", text, re.DOTALL)
    if not match or "=" in text:
        return text, None
    # A value, then words. Each test below is a way in which the words may be mathematics.
    value, words = match[1], match[2].strip()
    names = re.findall(r"[^\W\d_]+(?:/[^\W\d_]+)?", words)
    if _UNITS.get(names[0]) in MULTIPLES:
        names = [name for name in names if name != "of"]  # 7 dozens of eggs
    if names != ["times"] and any(name in _NOT_UNITS for name in names):  # `30 times` counts, `3 times x` does not
        return text, None
    if re.search(r"\\(?!pi)[a-z]+\s*\{?[^{}]*$", value):
        return text, None
    spaced = text[len(value) : len(value) + 1] == " "
    known = [name for name in names if name in _UNITS]
    if not known and not (named or not names[0].isascii() or (spaced and len(max(names, key=len)) > 3)):
        return text, None
    if known and len(names[0]) == 1 and not (named or (spaced and re.fullmatch(r"[-\d./\s]+", value))):
        return text, None  # `3s` and `2g` are products
    return value, _unit_name(words, names)


def _unit_name(words: str, names: list[str]) -> str | None:
    """The one unit that `words` name, with its power; None where it is composed or unknown."""
    powers = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
    units = [name for name in names if name not in powers]
    if units and _UNITS.get(units[0]) in MULTIPLES:
        return _UNITS[units[0]]  # 5 million people
    if len(units) != 1 or units[0] not in _UNITS:
        return None
    written = re.search(r"\^\s*\{?(-?\d)\}?", words)
    return _UNITS[units[0]] + (written[1] if written else powers.get(names[0], ""))


def read_number(text: str) -> Number | None:
    """Read an exact number; None where `text` is none, or has over a thousand digits."""
    if len(text) > DIGIT_LIMIT or not (text := _unwrap(text.strip())):
        return None
    if match := _PLAIN.fullmatch(text):
        return _decimal(match["sign"], match["value"])
    if match := _SCIENTIFIC.fullmatch(text):
        exponent = int(match["exponent"].strip("{} "))
        number = _decimal(match["sign"], match["value"] or "1")
        return Number(number.value * Fraction(10) ** exponent, 0, number.digits)
    if match := _FRACTION.fullmatch(text):
        return _fraction(match) if "/" in text or r"\frac" in text else None
    if match := _REPEATING.fullmatch(text):
        once, again = match["once"], match["again"]
        value = int(match["whole"] or 0) + Fraction(int(once or 0), 10 ** len(once))
        value += Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(once))
        return Number(-value if match["sign"] == "-" else value)
    return _words(text)


def read_thousands(text: str) -> Number | None:
    """Read `70k` and `\\$70K` as 70,000; None for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*[kK]\s*", without_text(_CURRENCY.sub(" ", text)))
    return Number(_decimal("", match[1]).value * 1000) if match else None


def read_based(text: str) -> tuple[str, str] | None:
    """Read digits and base of `2516_8`; None where `text` names no base."""
    match = _BASED.fullmatch(text.strip())
    return (match["digits"].lower().lstrip("0"), str(match["base"] or match["name"])) if match else None


def _unwrap(text: str) -> str:
    while len(text) > 2 and text[0] + text[-1] in ("()", "{}", "[]") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _decimal(sign: str, text: str) -> Number:
    whole, point, decimals = text.partition(".")
    value = Fraction(int(whole or 0)) + Fraction(int(decimals or 0), 10 ** len(decimals))
    digits = len((whole + decimals).lstrip("0")) if decimals else len(whole.strip("0")) or 1
    return Number(-value if sign == "-" else value, len(decimals), digits, bool(point and decimals.strip("0")))


def _fraction(match: re.Match[str]) -> Number | None:
    over, under = _decimal("", match["over"]), _decimal("", match["under"])
    if under.value == 0:
        return None
    value = over.value / under.value * (-1 if match["over_sign"] else 1)
    if match["whole"]:
        if match["over_sign"]:
            return None
        value += int(match["whole"])
    return Number(-value if match["sign"] == "-" else value)


def _words(text: str) -> Number | None:
    """`twenty-one`, `three-quarters`, `one hundred and five`, `5 and a half`."""
    plain = without_text(text)
    if mixed := re.fullmatch(r"(\d+|[A-Za-z -]+?) and ((?:an?|one|two|three|four)[ -][a-z]+)", plain):
        whole, fraction = read_number(mixed[1]), read_number(mixed[2])
        return Number(whole.value + fraction.value) if whole and fraction and fraction.value < 1 else None
    words = plain.lower().replace("-", " ").split()
    if not words or len(words) > 12:
        return None
    part = PARTS.get(words[-1]) if len(words) > 1 or words[-1] == "half" else None
    words = (words[:-1] if words[:-1] not in (["a"], ["one"], []) else ["one"]) if part else words
    # "two hundred and five thousand": what stands before a multiple is multiplied, then added.
    total = current = 0
    for word in words:
        if word in SMALL:
            current += SMALL[word]
        elif word == "hundred" and current:
            current *= 100
        elif word in MULTIPLES and current:
            total, current = total + current * MULTIPLES[word], 0
        elif word != "and" or not (total or current):
            return None
    return Number(Fraction(total + current, part or 1))
