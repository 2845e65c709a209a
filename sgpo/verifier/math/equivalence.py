"""Whether an answer equals the gold answer, mathematically.

The forms of both answers are compared part by part, single values by a list of rules; math-verify decides what is left.
Most rules fix a verdict of math-verify's own: see "For math-verify's maintainers" in docs/verifier.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import math_verify

from sgpo.verifier.math import expressions
from sgpo.verifier.math.forms import (
    Form,
    by_name,
    defines,
    elements_of,
    entries_of,
    exact_part,
    final_value,
    interval_of,
    is_chain,
    is_name,
    items_of,
    named_rows,
    names_of,
    read_form,
    right_sides,
    rising,
    same_role,
    tuple_of,
    union_of,
    variable_of,
)  # fmt: skip
from sgpo.verifier.math.latex import clean, compact, depth, uses_both_cases, without_qualifier, without_text
from sgpo.verifier.math.numbers import (
    MULTIPLES,
    Number,
    in_full,
    read_based,
    read_measured_value,
    read_number,
    read_thousands,
)  # fmt: skip
from sgpo.verifier.math.values import (
    computes,
    count_operations,
    has_several_values,
    has_value,
    has_variables,
    is_rounded,
    is_wordy,
    read_clock,
    same_based,
    same_choice,
    same_clock,
    same_letters,
    tolerance_for,
    words_of,
)  # fmt: skip

ANSWER_LIMIT = 2000  # characters; a longer answer is right only as the same text
DEPTH_LIMIT = 15
LIST_LIMIT = 60
WORK_LIMIT = 12  # operations in an answer to a question whose answer is a number

_LATEX = [math_verify.LatexExtractionConfig()]

_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"

# Words and units of which only one can be right: `10 %` more is not `10 %` less, and 5 °C are not 5 °F. A row's sides
# exclude each other; the words of one side mean the same here.
_ROWS = (
    "increase increases increased increasing gain gains gained profit profits rise rises rose risen more higher above"
    " up upward upwards|decrease decreases decreased decreasing loss losses lost lose loses fall falls fell fallen drop"
    " drops dropped less fewer lower below down downward downwards discount",
    "am midnight|pm noon",
    "north|south|east|west|northeast|northwest|southeast|southwest",
    "left|right",
    "before ahead early fast|after behind late slow",
    "clockwise|counterclockwise anticlockwise",
    "$ dollar dollars usd|cent cents|€ euro euros eur|£|¥ yen",
    "°c celsius|°f fahrenheit|°k kelvin",
    _MONTHS,
)
_SIDES = {
    word: (row, side)
    for row, sides in enumerate(_ROWS)
    for side, words in enumerate(sides.split("|"))
    for word in words.split()
}
_DEGREES = re.compile(r"(?:\^\s*+)?(?:\{\s*+)?\\circ\s*+\}?|\bdegrees?\b")
_WORD = re.compile(
    r"°\s*[cfk](?![a-z])|[ap]\.?m(?![a-z])|(?:counter|anti)[- ]?clockwise|(?:north|south)[- ]?(?:east|west)"
    r"|[a-z]+|\\\$|[€£¥]"
)


def is_same(gold: str, found: str, *, strict: bool = False) -> bool:
    """Whether two answers, as people and models write them, are the same.

    Args:
        gold: the gold answer.
        found: the answer of a completion.
        strict: compare exact values (`policy="strict"`).
    """
    if not gold.strip() or not found.strip():
        return False
    if gold.strip() == found.strip():
        return True
    # Whatever is expensive comes behind these limits.
    if max(len(gold), len(found)) > ANSWER_LIMIT or max(depth(gold), depth(found)) > DEPTH_LIMIT:
        return False
    gold, found = clean(gold), clean(found)
    if not found or not gold:
        return False
    if compact(gold) == compact(found):
        return True
    gold, found = _without_qualifiers(gold, found)
    fold_case = not (uses_both_cases(gold) or uses_both_cases(found))
    return AnswerComparison(strict=strict, fold_case=fold_case).same(read_form(gold), read_form(found))


def _without_qualifiers(gold: str, found: str) -> tuple[str, str]:
    """Both answers without the conditions behind them, unless these name different numbers."""
    bare = without_qualifier(gold), without_qualifier(found)
    numbers = [set(re.findall(r"\d+", text[len(short) :])) for text, short in zip((gold, found), bare, strict=True)]
    return bare if not all(numbers) or numbers[0] == numbers[1] else (gold, found)


class AnswerComparison:
    """Compares answers by their forms, part by part.

    Its methods return None where their rules do not decide.

    Args:
        strict: compare exact values.
        fold_case: take X for x; for answers of which neither uses both.
    """

    def __init__(self, *, strict: bool, fold_case: bool) -> None:
        self.strict = strict
        self.fold_case = fold_case

    def same(self, gold: Form, found: Form) -> bool:
        """Whether two forms say the same: by our rules, and by math-verify where they do not decide."""
        if compact(gold.text) == compact(found.text):
            return True
        verdict = self._by_form(gold, found)
        if verdict is None:
            # math-verify folds the case of every letter.
            safe = self.fold_case and not any(expressions.is_bomb(text) for text in _values_in(found))
            return safe and _math_verify_says(gold, found)
        return verdict

    def _by_form(self, gold: Form, found: Form) -> bool | None:
        if gold.kind != found.kind:
            gold, found = elements_of(gold), elements_of(found)
        pair = (gold.kind, found.kind)
        # Unions first: "x < 1 or x > 2" is a list of relations, and a union too.
        if "union" in pair and set(pair) & {"list", "relation"}:
            unions = union_of(gold), union_of(found)
            if unions[0] and unions[1]:
                return self._any_order(*unions)
            if "list" in pair:
                return None
        if "list" in pair:
            return self._lists(gold, found)
        if "relation" in pair:
            return self._relations(gold, found)
        if pair == ("group", "group"):
            return self._groups(gold, found)
        if pair == ("union", "union"):
            return self._any_order(gold.parts, found.parts)
        if pair == ("matrix", "matrix"):
            return [len(row.parts) for row in gold.parts] == [len(row.parts) for row in found.parts] and all(
                self._in_order(g.parts, f.parts) for g, f in zip(gold.parts, found.parts, strict=True)
            )
        if set(pair) == {"matrix", "group"} and not self.strict:
            return self._in_order(entries_of(gold), entries_of(found))  # a vector as a column and as a tuple
        if pair == ("value", "value"):
            return self._values(gold.text, found.text)
        return None

    # Lists, tuples, intervals

    def _lists(self, gold: Form, found: Form) -> bool | None:
        gold, found = tuple_of(gold), tuple_of(found)
        golds, founds = items_of(gold), items_of(found)
        if len(golds) != len(founds) and len(gold.parts) == len(found.parts):
            golds, founds = list(gold.parts), list(found.parts)  # `a = 2, b = 2` and `2, 2`: each once would be one
        if len(golds) > LIST_LIMIT or len(founds) > LIST_LIMIT:
            return False
        # Values with names: by their names where both sides have them, else in the order of the names.
        if (gold_rows := named_rows(gold)) and (found_rows := named_rows(found)):
            return self._any_order(gold_rows, found_rows)
        gold_names, found_names = names_of(golds), names_of(founds)
        if gold_names and found_names and sorted(gold_names) == sorted(found_names):
            if len(set(gold_names)) == len(gold_names) > 1:  # x = 1, y = 2
                founds = [founds[found_names.index(name)] for name in gold_names]
                return self._in_order(right_sides(golds), right_sides(founds))
            return self._any_order(right_sides(golds), right_sides(founds))
        if len(set(gold_names)) > 1 and not found_names:
            return self._in_order(by_name(golds, gold_names), founds)
        if len(set(found_names)) > 1 and not gold_names:
            return self._in_order(golds, by_name(founds, found_names))
        # A list beside a tuple: the same in order, or left to math-verify.
        if "group" in (gold.kind, found.kind):
            if len(golds) == len(founds) and any(form.text.startswith(r"\{") for form in (gold, found)):
                return False  # a set is no tuple
            return True if self._in_order(golds, founds) else None
        if len(golds) != len(founds):
            other = read_number(gold.text.replace(",", ".")), read_number(found.text.replace(",", "."))
            return bool(other[0] and other[1] and other[0].value == other[1].value)  # 1,22 is 1.22
        return self._any_order(golds, founds)

    def _groups(self, gold: Form, found: Form) -> bool | None:
        if len(gold.parts) != len(found.parts):
            return False
        if len(gold.parts) == 2 and gold.brackets != found.brackets:
            return False  # (1, 2] is not (1, 2); of three parts the brackets say nothing
        return self._in_order(gold.parts, found.parts)

    def _in_order(self, golds: Sequence[Form], founds: Sequence[Form]) -> bool:
        return len(golds) == len(founds) and all(map(self.same, golds, founds))

    def _any_order(self, golds: Sequence[Form], founds: Sequence[Form]) -> bool:
        left = list(founds)
        if len(golds) != len(left):
            return False
        for gold in golds:
            match = next((place for place, found in enumerate(left) if self.same(gold, found)), None)
            if match is None:
                return False
            del left[match]
        return True

    # Equations and inequalities

    def _relations(self, gold: Form, found: Form) -> bool | None:
        gold, found = exact_part(gold), exact_part(found)
        if "relation" not in (gold.kind, found.kind):
            return self.same(gold, found)
        # Equations: `y = 2x` against another one, or against the bare `2x`.
        if is_chain(gold) and is_chain(found):
            if defines(gold) and defines(found) and self._same_role(gold, found):
                return self.same(read_form(gold.parts[-1].text), read_form(found.parts[-1].text))
            return self._equations(gold, found)
        if is_chain(found) and gold.kind != "relation":
            return self.same(gold, final_value(found))
        if is_chain(gold) and found.kind != "relation":
            return self.same(read_form(gold.parts[-1].text), found) if is_name(gold.parts[0].text) else False
        # Inequalities: by the sets that they say.
        gold, found = rising(gold), rising(found)
        if gold.kind == found.kind and gold.operators == found.operators and self._in_order(gold.parts, found.parts):
            return True
        gold_set, found_set = interval_of(gold), interval_of(found)
        if gold_set and found_set:
            if gold.kind == found.kind == "relation" and variable_of(gold) != variable_of(found):
                return False
            return self.same(gold_set, found_set)
        return None

    def _same_role(self, gold: Form, found: Form) -> bool:
        return same_role(gold.parts[0].text, found.parts[0].text, fold_case=self.fold_case)

    def _equations(self, gold: Form, found: Form) -> bool | None:
        has_letters = re.search("[A-Za-z]", gold.parts[0].text + found.parts[0].text)
        if not has_letters and read_number(gold.parts[-1].text.rstrip("\\%")):  # 0.56 = 56 %
            return self.same(read_form(gold.parts[-1].text), read_form(found.parts[-1].text))
        # Two equations are one where their differences of sides are proportional.
        sides = [expressions.parse(part.text) for part in (*gold.parts[-2:], *found.parts[-2:])]
        if any(side is None or not hasattr(side, "free_symbols") for side in sides):
            return None
        try:
            left, right = sides[0] - sides[1], sides[2] - sides[3]  # type: ignore[operator]
            return expressions.proportional(left, right, fold_case=self.fold_case)
        except TypeError:
            return None

    # Single values

    def _values(self, gold: str, found: str) -> bool | None:
        # Letters and words that exclude each other.
        choice = same_choice(gold, found, fold_case=self.fold_case)
        if choice is None:
            choice = same_letters(gold, found)
        if choice is not None:
            return choice
        if _are_contrary(gold, found):
            return False
        if computes(gold) or computes(found):
            return words_of(gold, fold_case=self.fold_case) == words_of(found, fold_case=self.fold_case)
        # Units: one that is left out is no difference, another one is.
        g, f = read_measured_value(gold), read_measured_value(found)
        if g.unit != f.unit and not MULTIPLES.keys().isdisjoint((g.unit, f.unit)):
            if (full := in_full(g)) is not None and full == in_full(f):
                return True  # 5 million and 5,000,000; leniently also 5, its "million" left out as a unit is
            if self.strict:
                return False
        if g.unit and f.unit and g.unit != f.unit:
            return False
        if compact(g.value) == compact(f.value) and (g.percent == f.percent or not self.strict):
            return True
        # Bases, clocks, numbers.
        based = read_based(g.value), read_based(f.value)
        if any(based):
            return same_based(based[0] or (g.value, ""), based[1] or (f.value, ""), self.strict)
        if (g_clock := read_clock(gold)) and (f_clock := read_clock(found)):
            return same_clock(g_clock, f_clock)
        if "°" in (g.unit, f.unit) and r"\pi" in gold + found:  # 60° and pi/3
            g_angle, f_angle = (re.sub(r"\s*\\text\s*\{\s*rad\w*\s*\}", "", text) for text in (gold, found))
            return self._expressions(g_angle, f_angle, False, False)
        g_number, f_number = read_thousands(gold), read_thousands(found)
        if bool(g_number) == bool(f_number):
            g_number, f_number = read_number(g.value), read_number(f.value)
        else:
            g_number, f_number = g_number or read_number(g.value), f_number or read_number(f.value)
        if g_number and f_number:
            return self._numbers(g_number, f_number, g.percent, f.percent)
        if any(re.search(r"(?<![_^\d.])\d[\d.]*\s+\d", text) for text in (g.value, f.value)):
            return False  # math-verify would add the numbers of `3 4`
        # Words, then expressions.
        if is_wordy(gold) or is_wordy(found):
            if words_of(gold, fold_case=self.fold_case) == words_of(found, fold_case=self.fold_case):
                return True
            # math-verify drops the words, and what they say with them.
            is_simple = all(has_value(side) and not has_several_values(side) for side in (gold, found))
            return None if is_simple else False
        return self._expressions(g.value, f.value, g.percent, f.percent)

    def _numbers(self, gold: Number, found: Number, gold_percent: bool, found_percent: bool) -> bool:
        if gold_percent == found_percent:
            return gold.value == found.value or (not self.strict and is_rounded(gold, found))
        # 10 % is 0.1; leniently it is also 10 with its unit left out.
        g, f = gold.value / (100 if gold_percent else 1), found.value / (100 if found_percent else 1)
        return g == f or (not self.strict and gold.value == found.value)

    def _expressions(self, gold: str, found: str, gold_percent: bool, found_percent: bool) -> bool | None:
        if read_number(gold) and has_variables(found):
            return False  # before it is parsed, which is what takes time
        g, f = expressions.parse(gold), expressions.parse(found)
        if g is None or f is None:
            return None
        if gold_percent != found_percent and self.strict:
            return False
        if read_number(gold) and count_operations(found) > WORK_LIMIT:
            return False  # the work was left to the verifier
        tolerance = (0.0, 0.0) if self.strict else tolerance_for(gold, found)
        return expressions.same_value(g, f, fold_case=self.fold_case, tolerance=tolerance)


def _are_contrary(gold: str, found: str) -> bool:
    """Whether both answers take sides, and not the same ones: "increase" and "decrease", dollars and cents."""
    ours, theirs = _sides_taken(gold), _sides_taken(found)
    shared_rows = {row for row, _ in ours} & {row for row, _ in theirs}
    return any(row in shared_rows for row, _ in ours ^ theirs)


def _sides_taken(text: str) -> set[tuple[int, int]]:
    plain = _DEGREES.sub("°", without_text(text).lower())
    words = (re.sub(r"[\s.\\-]", "", word) for word in _WORD.findall(plain))
    return {_SIDES[word] for word in words if word in _SIDES}


def _values_in(form: Form) -> list[str]:
    """The texts of the single values in a form."""
    return [text for part in form.parts for text in _values_in(part)] if form.parts else [form.text]


def _math_verify_says(gold: Form, found: Form) -> bool:
    """math-verify's own verdict, on both sides as LaTeX."""
    if max(len(gold.text), len(found.text)) > expressions.PARSE_LIMIT:
        return False
    # One spelling of the percent sign: with some antlr runtimes the parser gives up on it, and compares its text.
    texts = [form.text.replace("\\%", "%") for form in (gold, found)]
    sides = [math_verify.parse(f"${text}$", _LATEX, parsing_timeout=None) for text in texts]
    return bool(all(sides) and math_verify.verify(*sides, timeout_seconds=None))
