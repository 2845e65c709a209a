"""The form of an answer: a list, a tuple or interval, a union, a matrix, a relation, or a single value.

A form may say what another one says: `x = 5` is 5, `x > 2` an interval, `p = 5, q = 2` a tuple. What an equation, an
inequality or a list of them says is read here; whether two values are equal is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.verifier.math.latex import closing, compact, split_top, without_text

_COMMA = re.compile(
    r"(?<!\s)\s*+(?:(?:,\s*+)?(?:\\text\s*+\{\s*+,?\s*+(?:and|or)\s*+\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z]))|,)\s*+"
)
_SEMICOLON = re.compile(r"\s*;\s*")
_CUP = re.compile(r"\s*\\cup\s*")
_RELATION = re.compile(r"\s*(\\leq|\\geq|\\neq|\\approx|\\equiv|\\in(?![a-z])|<|>|=)\s*")
_MATRIX = re.compile(r"\\begin\{([bpvBV]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
_BUILDER = re.compile(r"[A-Za-z]\s*(?:\\in\s*(?:\\mathbb\s*\{?\s*R\s*\}?|\\R)\s*)?(?:\||:|\\mid)\s*(.*)", re.DOTALL)
_CASES = re.compile(r"\\begin\{(cases|aligned|align\*?|gathered|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
# `x`, `f(x)`, `(p, q)`, `S_{MBCN}:S`, `|AB|`, `x_1 + x_2` is not: a name that an answer is given to.
_NAME = re.compile(
    r"[(|]?\s*(?:\\(?:angle|triangle|text|overline|alpha|beta|gamma|theta|phi|lambda|omega|mu|sigma|Delta|max|min)\s*)?"
    r"[A-Za-z{][A-Za-z0-9_{}'.:,|() ]*"
)

_FLIPPED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}
_SIZE = re.compile(r"\s*(?:\||\\lvert)\s*([A-Za-z])\s*(?:\||\\rvert)\s*")  # the absolute value of a name
_REALS = r"\\mathbb\s*\{?\s*r\s*\}?"
_WORDED_SETS = (
    (rf"(?:all|any) reals?(?: numbers?)?|{_REALS}", r"(-\infty,\infty)"),
    (r"(?:(?:there (?:is|are)|(?:the |this |it )?(?:equation |system )?has) )?no (?:real )?solutions?(?: exists?)?"
     r"|(?:the )?empty set|\\\{\s*\\\}", r"\emptyset"),
    (rf"{_REALS}\s*(?:\^\s*\{{?\s*\+\s*\}}?|_\s*\{{?\s*(?:\+|>\s*0)\s*\}}?)|(?:all )?positive real numbers",
     r"(0,\infty)"),
    (rf"{_REALS}\s*(?:\^\s*\{{?\s*-\s*\}}?|_\s*\{{?\s*(?:-|<\s*0)\s*\}}?)|(?:all )?negative real numbers",
     r"(-\infty,0)"),
    (rf"{_REALS}\s*_\s*\{{?\s*\\geq\s*0\s*\}}?|(?:all )?non-?negative real numbers", r"[0,\infty)"),
)  # fmt: skip
# "does not exist", as an answer.
_NO_VALUE = re.compile(r"dne|(?:(?:the |this )?(?:limit|value|maximum|minimum|it) )?does(?: not|n't) exist")
_EXCEPT = re.compile(r"(?:all|any) reals?(?: numbers?)?,? (?:x )?(?:except|other than|but|besides)(?: for)? (.+)")


@dataclass(frozen=True, slots=True)
class Form:
    """An answer and its parts.

    Attributes:
        kind: `value` (no parts), `list` (in any order), `group` (a tuple or interval), `union`, `matrix` (a part per
            row), `row`, or `relation` (a part per side).
        text: the answer, cleaned.
        parts: the forms of its parts.
        brackets: the two brackets of a group.
        operators: the operators between the sides of a relation.
    """

    kind: str
    text: str
    parts: tuple[Form, ...] = ()
    brackets: str = ""
    operators: tuple[str, ...] = ()


def read_form(text: str) -> Form:
    """Read the form of an answer that `latex.clean` has cleaned."""
    text = _strip_braces(text.strip())
    if (words := re.fullmatch(r"\\text\s*\{([^{}]*,[^{}]*)\}", text)) is not None:
        text = words[1].strip()  # \text{A, C}
    if said := _worded(" ".join(without_text(text).lower().split()).rstrip(" .")):
        return said
    # The order decides: a list is split before anything in it is read. Commas inside of brackets make no list.
    for read in (_environment, _vector, _list, _plus_minus, _relation, _union, _group):
        if form := read(text):
            return form
    return Form("value", text)


def is_name(text: str) -> bool:
    """Whether `text` is a name that a value can be given to, as `x` or `f(x)`."""
    return bool(_NAME.fullmatch(text.strip())) and not re.match(r"\d", text.strip())


def _worded(words: str) -> Form | None:
    """A set that is written in words, or by a name, and what does not exist."""
    if words.endswith("}") and words.count("{") < words.count("}"):
        return None
    for pattern, meant in _WORDED_SETS:
        if re.fullmatch(pattern, words):
            return read_form(meant)
    if _NO_VALUE.fullmatch(words):
        return Form("value", r"\text{does not exist}")
    if (left_out := _EXCEPT.fullmatch(words)) and re.search(r"\d", left_out[1]):
        points = left_out[1].removeprefix("x = ").removeprefix("x=").replace(" and ", ", ")
        return Form("value", rf"\mathbb{{R}} \setminus \{{{points}\}}")
    return None


def _strip_braces(text: str) -> str:
    while text.startswith("{") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _environment(text: str) -> Form | None:
    # Equations under each other; an array without any is a matrix.
    if (match := _CASES.fullmatch(text)) and (match[1] != "array" or "=" in match[2]):
        rows = [row.replace("&", " ").strip(" ,") for row in match[2].split(r"\\") if row.strip()]
        forms = tuple(map(read_form, rows))
        return forms[0] if len(forms) == 1 else Form("list", text, forms)
    inner = text
    if text[:1] + text[-1:] in ("()", "[]") and closing(text, 0) == len(text) - 1:
        inner = text[1:-1].strip()  # \left[\begin{array}...\end{array}\right]
    match = _MATRIX.fullmatch(inner)
    if not match or match[1].startswith(("v", "V")) or r"\begin" in match[2]:
        return None
    rows = [row for row in re.split(r"\\\\|\\cr\b", match[2]) if row.strip()]
    cells = [tuple(Form("value", cell.strip()) for cell in row.split("&")) for row in rows]
    return Form("matrix", text, tuple(Form("row", row, parts) for row, parts in zip(rows, cells, strict=True)))


def _list(text: str) -> Form | None:
    for separator in (_SEMICOLON, _COMMA):
        parts = [part for part in split_top(text, separator) if part.strip()]
        if len(parts) > 1:
            # `\pm 1, \pm 2` are four values.
            forms = (_flat(read_form(part)) if r"\pm" in part else (read_form(part),) for part in parts)
            return Form("list", text, tuple(form for flat in forms for form in flat))
    return None


def _plus_minus(text: str) -> Form | None:
    if r"\pm" not in text and r"\mp" not in text:
        return None
    # The upper signs, then the lower ones.
    upper = re.sub(r"^\s*\+", "", text.replace(r"\pm", "+").replace(r"\mp", "-"))
    lower = text.replace(r"\pm", "-").replace(r"\mp", "+")
    parts = (*_flat(read_form(upper.strip())), *_flat(read_form(lower)))
    return Form("list", text, parts)


def _flat(form: Form) -> tuple[Form, ...]:
    return form.parts if form.kind == "list" else (form,)


def _relation(text: str) -> Form | None:
    operators: list[str] = []
    sides = split_top(text, _RELATION)
    if len(sides) < 2:
        return None
    # The operators are what the split has left out.
    at = 0
    for side in sides[:-1]:
        at += len(side)
        match = _RELATION.match(text, at)
        if match is None:
            return None
        operators.append(match[1])
        at = match.end()
    if not all(side.strip() for side in sides[1:]):
        return None
    if not sides[0].strip():
        return read_form(sides[-1]) if set(operators) == {"="} else None  # `= 5`
    return Form("relation", text, tuple(Form("value", side.strip()) for side in sides), operators=tuple(operators))


def _union(text: str) -> Form | None:
    parts = split_top(text, _CUP)
    return Form("union", text, tuple(map(read_form, parts))) if len(parts) > 1 else None


def _vector(text: str) -> Form | None:
    if text.startswith(r"\langle") and text.endswith(r"\rangle") and text.count(r"\langle") == 1:
        return _parts(text, text.removeprefix(r"\langle").removesuffix(r"\rangle"), "()")
    return None


def _group(text: str) -> Form | None:
    # A set: by its condition (`\{x : x > 2\}`), or by its elements.
    if text.startswith(r"\{") and text.endswith(r"\}"):
        inner = text[2:-2].strip()
        if builder := _BUILDER.fullmatch(inner):
            said = read_form(builder[1])
            return said if said.kind == "relation" else None
        if "|" in inner or ":" in inner or r"\mid" in inner:
            return None
        inside = read_form(inner)
        return Form("list", text, _flat(inside)) if inner else None
    if text[:1] in ("(", "[", "]") and text[-1:] in (")", "]", "["):
        body = text[1:-1]
        if text[0] != "]" and text[-1] != "[" and closing(text, 0) != len(text) - 1:
            return None
        # ]1, 3[ is the open interval.
        return _parts(text, body, {"]": "("}.get(text[0], text[0]) + {"[": ")"}.get(text[-1], text[-1]))
    return None


def _parts(text: str, body: str, brackets: str) -> Form | None:
    separator = _SEMICOLON if ";" in body and "," not in body else _COMMA
    parts = split_top(body, separator)
    if len(parts) > 1:
        return Form("group", text, tuple(map(read_form, parts)), brackets=brackets)
    return read_form(body) if body.strip() and brackets in ("()", "[]") else None


def items_of(form: Form) -> list[Form]:
    """List the items of a list, each once, or of a tuple; any other form is its own only item."""
    if form.kind not in ("list", "group"):
        return [form]
    items = {compact(part.text): part for part in form.parts}
    return list(items.values()) if form.kind == "list" else list(form.parts)


def elements_of(form: Form) -> Form:
    r"""Read `\{1, 2, 3\}` out of `k \in \{1, 2, 3\}`; any other form is itself."""
    if form.kind == "relation" and form.operators == (r"\in",) and form.parts[1].text.startswith(r"\{"):
        return read_form(form.parts[1].text)
    return form


def names_of(items: Sequence[Form]) -> list[str]:
    """List the names that the items give values to; empty unless all do."""
    names = [compact(item.parts[0].text) for item in items if is_chain(item) and is_name(item.parts[0].text)]
    return names if len(names) == len(items) else []


def tuple_of(form: Form) -> Form:
    """Take (3, 2) out of `(a, b) = (3, 2)`; any other form is itself."""
    value = final_value(exact_part(form)) if is_chain(form) else form
    return value if value.kind == "group" else form


def named_rows(form: Form) -> list[Form]:
    """Split `p=5, q=2; p=7, q=2` into two lists, each with its names; empty where names do not repeat."""
    leaves = [leaf for part in form.parts for leaf in (part.parts if part.kind == "list" else (part,))]
    names = names_of(leaves)
    width = len(set(names))
    if not names or width in (1, len(names)) or len(names) % width or names != names[:width] * (len(names) // width):
        return []
    rows = [leaves[start : start + width] for start in range(0, len(leaves), width)]
    return [Form("list", ", ".join(leaf.text for leaf in row), tuple(row)) for row in rows]


def right_sides(items: Sequence[Form]) -> list[Form]:
    """List the values that equations give: 1 and 2 of `x = 1` and `y = 2`."""
    return [final_value(exact_part(item)) for item in items]


def by_name(items: Sequence[Form], names: Sequence[str]) -> list[Form]:
    """List the values that single letters are given, by the alphabet: `y = 3, x = 2` is (2, 3)."""
    if all(len(name) == 1 for name in names) and len(set(names)) == len(names):
        items = [items[names.index(name)] for name in sorted(names)]
    return right_sides(items)


def final_value(chain: Form) -> Form:
    """Read what a chain of equations says in the end: 5 in `x = 2 + 3 = 5`, and in `5 = x`."""
    *_, last = sides = [side.text for side in chain.parts]
    return read_form(sides[0] if is_name(last) and not is_name(sides[0]) else last)


def entries_of(form: Form) -> Sequence[Form]:
    """List the entries of a tuple, or of a matrix that is one row or one column."""
    if form.kind == "group":
        return form.parts
    return form.parts[0].parts if len(form.parts) == 1 else [row.parts[0] for row in form.parts if len(row.parts) == 1]


def is_chain(form: Form) -> bool:
    """Whether a form is an equation, of two or more sides."""
    return form.kind == "relation" and set(form.operators) <= {"=", r"\in", r"\approx", r"\equiv"}


def defines(form: Form) -> bool:
    """Whether an equation gives a value to a name."""
    return is_name(form.parts[0].text)


def same_role(gold: str, found: str, *, fold_case: bool) -> bool:
    """Whether two names stand for the same: `f(x)`, `g(x)` and `y` for the function that was asked for, but `x` and `y`
    for two unknowns."""
    gold, found = compact(gold), compact(found)
    if fold_case:
        gold, found = gold.lower(), found.lower()
    function = re.compile(r"y|[A-Za-z]\([a-z]\)")
    return gold == found or bool(function.fullmatch(gold) and function.fullmatch(found))


def exact_part(form: Form) -> Form:
    r"""Drop the approximation of `x = 1/3 \approx 0.33`."""
    if r"\approx" not in form.operators[1:]:
        return form
    end = form.operators.index(r"\approx", 1)
    return Form("relation", form.text, form.parts[: end + 1], operators=form.operators[:end])


def rising(form: Form) -> Form:
    """Turn an inequality to rising order: `c > b > a` is `a < b < c`."""
    if form.kind != "relation" or not set(form.operators) <= {">", r"\geq"}:
        return form
    operators = tuple(_FLIPPED[operator] for operator in reversed(form.operators))
    text = form.parts[-1].text
    for operator, part in zip(operators, form.parts[-2::-1], strict=True):
        text += f" {operator} {part.text}"
    return Form("relation", text, form.parts[::-1], operators=operators)


def variable_of(form: Form) -> str:
    """Find the name that an inequality is about; an empty text where there is none."""
    if len(form.parts) == 3 and is_name(form.parts[1].text):
        return compact(form.parts[1].text)
    return next((compact(part.text).strip("|") for part in form.parts if is_name(part.text)), "")


def interval_of(form: Form) -> Form | None:
    r"""Read the set that an inequality in one name says: `-2 < x \leq 7` is `(-2, 7]`.

    Returns:
        A group or union; None for a form that says no set.
    """
    if form.kind in ("group", "union"):
        return form
    if form.kind != "relation":
        return None
    if form.operators == (r"\in",):
        return read_form(form.parts[1].text)
    if not set(form.operators) <= set(_FLIPPED) or len(form.parts) > 3:
        return None
    # Bring the inequality to rising order, with three sides: `3 > x` is `-\infty < x < 3`.
    form = rising(form)
    sides, operators = [part.text for part in form.parts], list(form.operators)
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
    r"""List the intervals of a union, of inequalities that "or" links, of `x \neq 0` or `|x| > 2`; else empty."""
    if form.kind == "relation" and form.operators == (r"\neq",) and is_name(form.parts[0].text):
        return list(read_form(rf"(-\infty,{form.parts[1].text}) \cup ({form.parts[1].text},\infty)").parts)
    if form.kind == "relation" and form.operators in ((">",), (r"\geq",)) and _SIZE.fullmatch(form.parts[0].text):
        left, right = "()" if form.operators == (">",) else "[]"
        end = form.parts[1].text
        return list(read_form(rf"(-\infty,-({end}){right} \cup {left}{end},\infty)").parts)
    intervals = [interval_of(part) for part in form.parts] if form.kind in ("union", "list") else [None]
    return [interval for interval in intervals if interval] if all(intervals) else []
