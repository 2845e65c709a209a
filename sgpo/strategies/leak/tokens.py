"""Text and LaTeX as tokens in which numbers are numbers, in digits or in words: "72", "seventy-two", "six dozen"; and
the words by which the leak gate tells a method's numbers from an instance's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from sgpo.verifier.math.numbers import LARGE, MULTIPLES, PARTS, SMALL


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# After a small number: it counts something of the method ("two cases", "the three unknowns", "four-digit").
STRUCTURE = _words("""
    corners faces edges diagonals medians altitudes quadrants columns solutions signs case cases step steps part
    parts equation equations unknown unknowns variable variables condition conditions point points side sides
    vertex vertices angle angles dimension dimensions dimensional digit digits number numbers integer integers
    term terms root roots coordinate coordinates quantity quantities expression expressions factor factors value
    values way ways type types group groups set sets line lines circle circles triangle triangles square squares
    possibility possibilities option options stage stages phase phases formula formulas identity identities
    method methods inequality inequalities vector vectors function functions consecutive distinct different
    equal known given rows columns separate main key simple parameters constraints relations ratios fractions
    sums products amounts kinds
""")

# Before a small number: it is a name, not a value ("step 3", "base 10").
LABELS = _words("step case part equation figure rule stage phase method condition degree order base dimension")

# Shortly before a number: it is what comes out.
RESULT = _words("""
    answer result results total gives give giving given yields yield yielding equals equal get gets getting
    obtain obtains obtaining reach reaches leaves leave leaving becomes become conclude concluding arrive
    arrives namely exactly is are be being = left remains remain comes come works totaling totalling makes
    making produce produces find finding
""")
STRONG_RESULT = _words("answer result total conclude concluding arrive arrives final finally")

# Right before a small number: it is counted out.
EMPHASIS = _words("exactly namely precisely only just")

# Shortly before a small number: it divides.
DIVISION = _words("modulo mod divisible divisibility multiples divides powers")

# Names that say a number: leaks where it is the answer and the problem does not have the name.
NAMES = {
    "pair": 2, "trio": 3, "triplet": 3, "quartet": 4, "quintet": 5, "triangle": 3, "quadrilateral": 4, "pentagon": 5,
    "hexagon": 6, "heptagon": 7, "octagon": 8, "nonagon": 9, "decagon": 10, "dodecagon": 12, "tetrahedron": 4,
    "octahedron": 8, "dodecahedron": 12, "icosahedron": 20,
}  # fmt: skip

# What a number of one unit is in others.
UNITS: dict[str, tuple[Fraction, ...]] = {
    "hour": (Fraction(60), Fraction(3600)),
    "minute": (Fraction(60), Fraction(1, 60)),
    "second": (Fraction(1, 60),),
    "day": (Fraction(24), Fraction(1, 7)),
    "week": (Fraction(7),),
    "month": (Fraction(1, 12),),
    "year": (Fraction(12), Fraction(52), Fraction(365)),
    "dollar": (Fraction(100),),
    "cent": (Fraction(1, 100),),
    "foot": (Fraction(12),),
    "feet": (Fraction(12),),
    "yard": (Fraction(3), Fraction(36)),
    "meter": (Fraction(100), Fraction(1, 1000)),
    "kilometer": (Fraction(1000),),
    "kilogram": (Fraction(1000),),
    "pound": (Fraction(16),),
    "%": (Fraction(1, 100),),
    "percent": (Fraction(1, 100),),
}

# What makes a number common knowledge: a unit or a notion close by.
CONSTANTS: dict[int, frozenset[str]] = {
    3: _words("feet foot yard yards dimensional teaspoons"),
    4: _words("quarters quarter quarts weeks legs wheels seasons gallon"),
    5: _words("workdays weekdays cents nickel nickels fingers"),
    6: _words("legs insect insects faces die dice cube strings"),
    7: _words("day days week weeks"),
    8: _words("bits byte spider spiders arachnid octopus"),
    9: _words("digit digits"),
    10: _words("decimal digit digits base place power powers ten tens cents dime dimes fingers modulo millimeters"),
    11: _words("alternating digits"),
    12: _words("month months year years inches inch foot feet dozen dozens hours clock") | {"a dozen"},
    13: _words("cards suit ranks friday"),
    16: _words("ounce ounces pound pounds"),
    20: _words("score fingers toes nickel nickels"),
    24: _words("hour hours day days"),
    25: _words("cents quarter quarters"),
    26: _words("letters alphabet"),
    28: _words("days february"),
    30: _words("days month angle triangle degree degrees special"),
    31: _words("days month"),
    36: _words("inches yard dice outcomes"),
    45: _words("angle triangle degree degrees special"),
    50: _words("states"),
    52: _words("week weeks year years cards deck"),
    60: _words("minute minutes second seconds hour hours angle triangle degree degrees"),
    90: _words("degree degrees angle angles right perpendicular"),
    100: _words(
        "percent percentage percentages cent cents penny pennies meter dollar dollars whole hundred % modulo "
        "decimals place"
    ),
    120: _words("degree degrees angle angles"),
    128: _words("ounce ounces gallon"),
    180: _words("degree degrees angle angles triangle straight supplementary radians"),
    270: _words("degree degrees angle angles"),
    360: _words("degree degrees angle angles circle turn full revolution"),
    365: _words("day days year years"),
    366: _words("day days year years"),
    1000: _words("gram grams kilogram meter meters kilometer milliliters liter liters thousand modulo mod remainder"),
    3600: _words("second seconds hour hours"),
    5280: _words("feet foot mile miles"),
}


Value = Fraction | float


@dataclass(frozen=True, slots=True)
class TextToken:
    """A piece of text that matters: kind `number`, `op`, `word`, `open`, `close` or `end` (of a clause)."""

    kind: str
    text: str
    start: int
    end: int
    value: Value | None = None
    spelled: bool = False
    ordinal: bool = False
    formula: bool = False  # a coefficient, an exponent or an index of a letter, as in 2a, b^2, x_1


MAX_DIGITS = 300  # a longer run of digits is no number that a strategy could leak

_SMALL = SMALL | {"fourty": 40}
_DOZENS = {"dozen": MULTIPLES["dozen"], "gross": 144}
_PARTS = {word: part for word, part in PARTS.items() if word != "halves" and not word.endswith("s")}
_PARTS |= {"twelfth": 12, "twentieth": 20, "hundredth": 100, "thousandth": 1000}
_PLURAL_PARTS = {"halves": 2} | {word + "s": part for word, part in _PARTS.items() if word != "half"}
_ORDINALS = {word: part for word, part in _PARTS.items() if word not in ("half", "quarter")}
_ORDINALS |= {"first": 1, "second": 2, "eleventh": 11, "thirteenth": 13, "fourteenth": 14, "fifteenth": 15}
_ORDINALS |= {"thirtieth": 30, "fortieth": 40, "fiftieth": 50, "sixtieth": 60}

_SKIPPED = re.compile(
    r"\\left|\\right|\\displaystyle|\\(?:text|mathrm|mathbf|textbf|operatorname|boxed|mbox|rm)(?![a-zA-Z])"
    r"|\\[!,;: ()\[\]]|\$|~|&|\s+|\*{2,}(?=[A-Za-z])"
)
_OPERATORS = {"+": "+", "*": "*", "×": "*", "·": "*", "⋅": "*", "/": "/", "÷": "/", "^": "^", "**": "^", "=": "="}
_OPERATORS |= {"-": "-", "−": "-", "%": "%", "\\%": "%", "\\times": "*", "\\cdot": "*", "\\div": "/", "√": "sqrt"}
_OPERATORS |= {
    "\\frac": "frac",
    "\\dfrac": "frac",
    "\\tfrac": "frac",
    "\\sqrt": "sqrt",
    "°": "degree",
    "\\circ": "degree",
}
_OPERATORS |= {"\\binom": "binom", "\\dbinom": "binom", "\\tbinom": "binom"}
_OPERATORS |= {"≈": "=", "\\approx": "=", "\\equiv": "=", "²": "squared", "³": "cubed", "\\degree": "degree"}
_ROMAN = re.compile(r"M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_ROMAN_DIGITS = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_TWO_DIGITS = re.compile(r"\d\d")
_VULGAR = {"½": Fraction(1, 2), "⅓": Fraction(1, 3), "⅔": Fraction(2, 3), "¼": Fraction(1, 4), "¾": Fraction(3, 4)}
_TOKEN = re.compile(
    r"(?P<prefixed>0[xX][0-9a-fA-F]+|0[bB][01]+)|(?P<number>\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<![\w.])\.\d+)"
    r"(?:\.(?=\\(?:overline|bar|dot)))?(?:[eE](?P<exponent>[+-]?\d{1,2})(?!\w|\.\d))?"
    r"(?:\\(?:overline|bar|dot)\{?(?P<period>\d+)\}?)?(?:_\{?(?P<base>\d{1,2})\}?)?(?P<ordinal>(?:st|nd|rd|th)\b)?"
    r"|(?P<operator>\\(?:times|cdot|div|[dt]?frac|[dt]?binom|sqrt|circ|approx|equiv|degree)(?![a-zA-Z])|\\%|\*\*|[-+*×·⋅/÷^=−%√°≈²³])"
    r"|(?P<pi>\\pi(?![a-zA-Z])|π)"
    r"|(?P<vulgar>[½⅓⅔¼¾])"
    r"|(?P<factorial>(?<=\d)!(?!=))"
    r"|(?P<word>\\?[A-Za-z]+(?:['’][a-z]+)?)"
    r"|(?P<open>[({\[])|(?P<close>[)}\]])"
    r"|(?P<other>.)",
    re.DOTALL,
)


def tokenize(text: str) -> list[TextToken]:
    """The tokens of a text; numbers in words are numbers."""
    raw: list[TextToken] = []
    position = 0
    while position < len(text):
        if skipped := _SKIPPED.match(text, position):
            position = skipped.end()
            continue
        if raw and raw[-1].text in ("frac", "binom") and _TWO_DIGITS.match(text, position):
            # \frac12 is a half: LaTeX takes one digit for each.
            raw += [TextToken("number", text[k], k, k + 1, Fraction(text[k])) for k in (position, position + 1)]
            position += 2
            continue
        match = _TOKEN.match(text, position)
        assert match is not None
        raw.append(_token(match, text))
        position = match.end()
    return _with_number_words(raw)


def _token(match: re.Match[str], text: str) -> TextToken:
    start, end, piece = match.start(), match.end(), match.group(0)
    if (number := match.group("number")) and len(number) > MAX_DIGITS:
        return TextToken("word", piece, start, end)
    if number:
        digits = re.sub(r"[^\d.]", "", number)
        value = _in_base(digits, match.group("base")) or _decimal(digits, match.group("period"))
        value *= Fraction(10) ** int(match.group("exponent") or 0)
        after = text[end : end + 1]
        before = re.search(r"[A-Za-z)}\]]\s*[\^_]\s*\{?$|\\sqrt\s*\[$", text[max(0, start - 8) : start])
        glued = after.isalpha() and not match.group("ordinal")
        glued = glued or (text[start - 1 : start].isalpha() and not re.search(r"\\[a-zA-Z]+$", text[:start][-20:]))
        return TextToken(
            "number", piece, start, end, value, ordinal=bool(match.group("ordinal")), formula=bool(before) or glued
        )
    if match.group("prefixed"):
        return TextToken("number", piece, start, end, Fraction(int(piece, 0)))
    if match.group("operator"):
        return TextToken("op", _OPERATORS[piece], start, end)
    if match.group("pi") or piece.lower() == "pi":
        return TextToken("number", piece, start, end, math.pi)
    if match.group("vulgar"):
        return TextToken("number", piece, start, end, _VULGAR[piece])
    if match.group("factorial"):
        return TextToken("op", "!", start, end)
    if match.group("word") and (roman := _roman(piece)):
        return TextToken("number", piece, start, end, roman)
    if match.group("word"):
        return TextToken("word", piece.lower(), start, end)
    if match.group("open"):
        return TextToken("open", piece, start, end)
    if match.group("close"):
        return TextToken("close", piece, start, end)
    return TextToken("end", piece, start, end)


def _in_base(digits: str, base: str | None) -> Fraction | None:
    """A whole number with its base as an index, 1101_2; None where it is none."""
    if base is None or not 2 <= int(base) <= 10 or not digits.isdecimal() or int(max(digits)) >= int(base):
        return None
    return Fraction(int(digits[:200], int(base)))


def _roman(text: str) -> Fraction | None:
    """A Roman number of three letters or more; shorter ones are names of points more often than numbers."""
    if len(text) < 3 or not _ROMAN.fullmatch(text):
        return None
    values = [_ROMAN_DIGITS[letter] for letter in text]
    return Fraction(sum(-v if v < max(values[i:]) else v for i, v in enumerate(values)))


def _decimal(digits: str, period: str | None) -> Fraction:
    """A decimal, with the digits that repeat for ever if there are any: 0.5 and period 3 is 8/15, 0 and 2 is 2/9."""
    value = Fraction(digits)
    if period:
        places = len(digits.partition(".")[2])
        value += Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    return value


# ---------------------------------------------------------------------------------------------------- numbers in words


def _with_number_words(tokens: Sequence[TextToken]) -> list[TextToken]:
    result: list[TextToken] = []
    i = 0
    while i < len(tokens):
        number, j = _number_words(tokens, i)
        if number is None:
            result.append(tokens[i])
            i += 1
        else:
            result.append(number)
            i = j
    return result


def word_at(tokens: Sequence[TextToken], i: int) -> str:
    """The word at an index, in small letters; empty where there is none."""
    return tokens[i].text if 0 <= i < len(tokens) and tokens[i].kind == "word" else ""


def _hyphen(tokens: Sequence[TextToken], i: int) -> int:
    """The index after a hyphen that joins two words (`seventy-two`), or `i`."""
    if i + 1 < len(tokens) and tokens[i].text == "-" and i > 0:
        joined = tokens[i - 1].end == tokens[i].start and tokens[i].end == tokens[i + 1].start
        if joined and tokens[i - 1].kind == tokens[i + 1].kind == "word":
            return i + 1
    return i


def _number_words(tokens: Sequence[TextToken], i: int) -> tuple[TextToken | None, int]:
    """The number that words from `i` on spell, and the index after them; (None, i) where they spell none."""
    start, digits = i, tokens[i].kind == "number" and isinstance(tokens[i].value, Fraction)
    total, current, seen, last = 0, 0, False, i
    ordinal = False
    if word_at(tokens, i) in ("a", "an") and (word_at(tokens, i + 1) in LARGE or word_at(tokens, i + 1) in _DOZENS):
        current, i, seen = 1, i + 1, True
    elif digits and (word_at(tokens, i + 1) in LARGE or word_at(tokens, i + 1) in _DOZENS):
        return _scaled_digits(tokens, i)
    while True:
        word = word_at(tokens, i)
        if word in _SMALL and (not seen or current % 100 == 0 or (current % 10 == 0 and _SMALL[word] < 10)):
            if seen and current and current % 100 != 0 and _SMALL[word] >= 10:
                break
            current += _SMALL[word]
        elif word in LARGE and seen:
            if word == "hundred":
                current = (current or 1) * 100
            else:
                total, current = total + (current or 1) * LARGE[word], 0
        elif word in _DOZENS and seen:
            current = (current or 1) * _DOZENS[word]
        elif seen and word in _ORDINALS and i > start and 20 <= current % 100 <= 90 and _ORDINALS[word] < 10:
            current, ordinal = current + _ORDINALS[word], True
        elif (
            seen and word == "and" and (current % 100 == 0 and (current or total)) and word_at(tokens, i + 1) in _SMALL
        ):
            i += 1
            continue
        else:
            break
        seen, last = True, i
        i = _hyphen(tokens, i + 1)
        if ordinal:
            break
    if not seen:
        return _part_words(tokens, start)
    value, after = Fraction(total + current), last + 1
    half = [word_at(tokens, after + k) for k in range(3)] == ["and", "a", "half"]
    part = word_at(tokens, _hyphen(tokens, after))
    if not ordinal and (part in _PLURAL_PARTS or (value == 1 and part in _PARTS)):
        after = _hyphen(tokens, after) + 1
        value /= _PLURAL_PARTS.get(part) or _PARTS[part]
    elif half and word_at(tokens, after - 1) in _DOZENS:
        value, after = value + Fraction(_DOZENS[word_at(tokens, after - 1)], 2), after + 3
    elif half:
        value, after = value + Fraction(1, 2), after + 3
        if scale := _DOZENS.get(word_at(tokens, after)) or LARGE.get(word_at(tokens, after)):
            value, after = value * scale, after + 1
    first, final = tokens[start], tokens[after - 1]
    text = " ".join(token.text for token in tokens[start:after])
    return TextToken("number", text, first.start, final.end, value, spelled=True, ordinal=ordinal), after


def _scaled_digits(tokens: Sequence[TextToken], i: int) -> tuple[TextToken, int]:
    value, j = tokens[i].value, i + 1
    assert isinstance(value, Fraction)
    while scale := LARGE.get(word_at(tokens, j)) or _DOZENS.get(word_at(tokens, j)):
        value, j = value * scale, j + 1
    text = " ".join(token.text for token in tokens[i:j])
    return TextToken("number", text, tokens[i].start, tokens[j - 1].end, value), j


def _part_words(tokens: Sequence[TextToken], i: int) -> tuple[TextToken | None, int]:
    """`half`, `a third`, `twice`, `seventh`: fractions, multiples and ordinals that stand alone."""
    word = word_at(tokens, i)
    if word in ("half", "quarter"):
        return TextToken("number", word, tokens[i].start, tokens[i].end, Fraction(1, _PARTS[word]), spelled=True), i + 1
    if word in ("a", "an", "one") and word_at(tokens, i + 1) in _PARTS:
        part = word_at(tokens, i + 1)
        value = Fraction(1, _PARTS[part])
        return TextToken("number", f"a {part}", tokens[i].start, tokens[i + 1].end, value, spelled=True), i + 2
    if word in _ORDINALS:
        value = Fraction(_ORDINALS[word])
        return TextToken("number", word, tokens[i].start, tokens[i].end, value, spelled=True, ordinal=True), i + 1
    return None, i
