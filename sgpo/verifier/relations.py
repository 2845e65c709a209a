"""Equations, inequalities and lists of them: what they say, whatever way they say it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sgpo.verifier.forms import Form, is_name, read_form
from sgpo.verifier.text import compact


def items_of(form: Form) -> list[Form]:
    """The items of a list, each once; those of a list of lists stay together."""
    if form.kind not in ("list", "group"):
        return [form]
    items = {compact(part.text): part for part in form.parts}
    return list(items.values()) if form.kind == "list" else list(form.parts)


def names_of(items: Sequence[Form]) -> list[str]:
    """The names that the items give values to; empty unless all do."""
    names = [compact(item.parts[0].text) for item in items if is_chain(item) and is_name(item.parts[0].text)]
    return names if len(names) == len(items) else []


def tuple_of(form: Form) -> Form:
    """(3, 2) of `(a, b) = (3, 2)`; any other form is itself."""
    value = value_of(exact_part(form)) if is_chain(form) else form
    return value if value.kind == "group" else form


def named_rows(form: Form) -> list[Form]:
    """`p=5, q=2; p=7, q=2` as two lists, each with its names; empty where names do not repeat."""
    leaves = [leaf for part in form.parts for leaf in (part.parts if part.kind == "list" else (part,))]
    names = names_of(leaves)
    width = len(set(names))
    if not names or width in (1, len(names)) or len(names) % width or names != names[:width] * (len(names) // width):
        return []
    rows = [leaves[start : start + width] for start in range(0, len(leaves), width)]
    return [Form("list", ", ".join(leaf.text for leaf in row), tuple(row)) for row in rows]


def right_sides(items: Sequence[Form]) -> list[Form]:
    return [value_of(exact_part(item)) for item in items]


def by_name(items: Sequence[Form], names: Sequence[str]) -> list[Form]:
    """The values that single letters are given, in the order of a tuple of these letters: `y = 3, x = 2` is (2, 3)."""
    if all(len(name) == 1 for name in names) and len(set(names)) == len(names):
        items = [items[names.index(name)] for name in sorted(names)]
    return right_sides(items)


def value_of(chain: Form) -> Form:
    """What a chain of equations says in the end: 5 in `x = 2 + 3 = 5`, and in `5 = x`."""
    *_, last = sides = [side.text for side in chain.parts]
    return read_form(sides[0] if is_name(last) and not is_name(sides[0]) else last)


def entries_of(form: Form) -> Sequence[Form]:
    """The entries of a tuple, or of a matrix that is one row or one column."""
    if form.kind == "group":
        return form.parts
    return form.parts[0].parts if len(form.parts) == 1 else [row.parts[0] for row in form.parts if len(row.parts) == 1]


def is_chain(form: Form) -> bool:
    return form.kind == "relation" and set(form.operators) <= {"=", r"\in", r"\approx", r"\equiv"}


def defines(form: Form) -> bool:
    return is_name(form.parts[0].text)


def same_role(gold: str, found: str, *, fold_case: bool) -> bool:
    """`f(x)`, `g(x)` and `y` all name the function that was asked for; `x` and `y` are two unknowns."""
    gold, found = compact(gold), compact(found)
    if fold_case:
        gold, found = gold.lower(), found.lower()
    function = re.compile(r"y|[A-Za-z]\([a-z]\)")
    return gold == found or bool(function.fullmatch(gold) and function.fullmatch(found))


def exact_part(form: Form) -> Form:
    """`x = 1/3 \\approx 0.33` without its approximation."""
    if r"\approx" not in form.operators[1:]:
        return form
    end = form.operators.index(r"\approx", 1)
    return Form("relation", form.text, form.parts[: end + 1], operators=form.operators[:end])


_FLIPPED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}


_SIZE = re.compile(r"\s*(?:\||\\lvert)\s*([A-Za-z])\s*(?:\||\\rvert)\s*")


def variable_of(form: Form) -> str:
    return next((compact(part.text).strip("|") for part in form.parts if is_name(part.text)), "")


def interval_of(form: Form) -> Form | None:
    """The set that an inequality in one name says: `-2 < x \\leq 7` is `(-2, 7]`."""
    if form.kind in ("group", "union"):
        return form
    if form.kind != "relation":
        return None
    if form.operators == (r"\in",):
        return read_form(form.parts[1].text)
    if not set(form.operators) <= set(_FLIPPED) or len(form.parts) > 3:
        return None
    sides, operators = [part.text for part in form.parts], list(form.operators)
    if operators[0] in (">", r"\geq"):
        sides, operators = sides[::-1], [_FLIPPED[operator] for operator in operators[::-1]]
    if any(operator in (">", r"\geq") for operator in operators):
        return None
    if len(sides) == 2 and (size := _SIZE.fullmatch(sides[0])):
        sides, operators = [f"-({sides[1]})", size[1], sides[1]], operators * 2  # |x| < 2
    if len(sides) == 2:
        sides = [r"-\infty", *sides] if is_name(sides[0]) else [*sides, r"\infty"]
        operators = ["<", *operators] if sides[0] == r"-\infty" else [*operators, "<"]
    if not is_name(sides[1]) or "|" in sides[1]:
        return None
    brackets = ("[" if operators[0] == r"\leq" else "(") + ("]" if operators[1] == r"\leq" else ")")
    ends = (Form("value", sides[0]), Form("value", sides[2]))
    return Form("group", f"{brackets[0]}{sides[0]},{sides[2]}{brackets[1]}", ends, brackets=brackets)


def union_of(form: Form) -> list[Form]:
    """The intervals of a union, of inequalities that "or" links, of `x \\neq 0` or `|x| > 2`; else empty."""
    if form.kind == "relation" and form.operators == (r"\neq",) and is_name(form.parts[0].text):
        return list(read_form(rf"(-\infty,{form.parts[1].text}) \cup ({form.parts[1].text},\infty)").parts)
    if form.kind == "relation" and form.operators in ((">",), (r"\geq",)) and _SIZE.fullmatch(form.parts[0].text):
        left, right = "()" if form.operators == (">",) else "[]"
        end = form.parts[1].text
        return list(read_form(rf"(-\infty,-({end}){right} \cup {left}{end},\infty)").parts)
    intervals = [interval_of(part) for part in form.parts] if form.kind in ("union", "list") else [None]
    return [interval for interval in intervals if interval] if all(intervals) else []
