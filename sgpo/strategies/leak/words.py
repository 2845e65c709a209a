"""The words by which the leak gate tells a method's numbers from an instance's."""

from __future__ import annotations

from fractions import Fraction


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
    sums products
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
    8: _words("bits byte spider spiders octopus"),
    9: _words("digit digits"),
    10: _words("decimal digit digits base place power powers ten tens cents dime dimes fingers modulo millimeters"),
    11: _words("alternating digits"),
    12: _words("month months year years inch inches foot feet dozen hours clock"),
    13: _words("cards suit ranks friday"),
    16: _words("ounce ounces pound pounds"),
    20: _words("score fingers toes"),
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
    100: _words("percent percentage percentages cent cents meter dollar dollars whole hundred % modulo decimals place"),
    120: _words("degree degrees angle angles"),
    180: _words("degree degrees angle angles triangle straight supplementary radians"),
    270: _words("degree degrees angle angles"),
    360: _words("degree degrees angle angles circle turn full revolution"),
    365: _words("day days year years"),
    366: _words("day days year years"),
    1000: _words("gram grams kilogram meter meters kilometer milliliters liter liters thousand modulo mod remainder"),
    3600: _words("second seconds hour hours"),
    5280: _words("feet foot mile miles"),
}
