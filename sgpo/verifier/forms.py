"""The form of an answer: a list, a tuple or interval, a union, a matrix, a relation, or a single value."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sgpo.verifier.text import closing, split_top, without_text

_COMMA = re.compile(r"\s*(?:,?\s*\\text\s*\{\s*,?\s*(?:and|or)\s*\}|,?\s*(?<![A-Za-z])(?:and|or)(?![A-Za-z])|,)\s*")
_SEMICOLON = re.compile(r"\s*;\s*")
_CUP = re.compile(r"\s*\\cup\s*")
_RELATION = re.compile(r"\s*(\\leq|\\geq|\\neq|\\approx|\\equiv|\\in(?![a-z])|<|>|=)\s*")
_MATRIX = re.compile(r"\\begin\{([bpvBV]?matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL)
_BUILDER = re.compile(r"[A-Za-z]\s*(?:\\in\s*(?:\\mathbb\s*\{?\s*R\s*\}?|\\R)\s*)?(?:\||:|\\mid)\s*(.*)", re.DOTALL)
_CASES = re.compile(r"\\begin\{(?:cases|aligned|array)\}(.*)\\end\{(?:cases|aligned|array)\}", re.DOTALL)
# `x`, `f(x)`, `(p, q)`, `S_{MBCN}:S`, `|AB|`, `x_1 + x_2` is not: a name that an answer is given to.
_NAME = re.compile(
    r"[(|]?\s*(?:\\(?:angle|triangle|text|overline|alpha|beta|gamma|theta|phi|lambda|omega|mu|sigma|Delta|max|min)\s*)?"
    r"[A-Za-z{][A-Za-z0-9_{}'.:,|() ]*"
)


@dataclass(frozen=True, slots=True)
class Form:
    """An answer and its parts.

    `kind` is `value` (no parts), `list` (in any order), `group` (a tuple or interval, with `brackets`), `union`,
    `matrix` (a part per row), `row`, or `relation` (the sides, with `operators` between them).
    """

    kind: str
    text: str
    parts: tuple[Form, ...] = ()
    brackets: str = ""
    operators: tuple[str, ...] = ()


def read_form(text: str) -> Form:
    """The form of a cleaned answer."""
    text = _strip_braces(text.strip())
    if (words := re.fullmatch(r"\\text\s*\{([^{}]*,[^{}]*)\}", text)) is not None:
        text = words[1].strip()  # \text{A, C}
    if (whole := _WORDED_SETS.get(" ".join(without_text(text).lower().split()))) is not None:
        return read_form(whole)
    for read in (_environment, _vector, _list, _plus_minus, _relation, _union, _group):
        if form := read(text):
            return form
    return Form("value", text)


_WORDED_SETS = {
    **dict.fromkeys(
        ("all real numbers", "all reals", "any real number", r"\mathbb{r}", r"\mathbb r"), r"(-\infty,\infty)"
    ),
    **dict.fromkeys(
        ("no solution", "no solutions", "no real solution", "no real solutions", "empty set", r"\{\}", r"\{ \}"),
        r"\emptyset",
    ),
}


def is_name(text: str) -> bool:
    """Whether an answer can be given to `text`, as to `x` or `f(x)`."""
    return bool(_NAME.fullmatch(text.strip())) and not re.match(r"\d", text.strip())


def _strip_braces(text: str) -> str:
    while text.startswith("{") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _environment(text: str) -> Form | None:
    if text.startswith(r"\begin{cases}") and (match := _CASES.fullmatch(text)):
        rows = [row.replace("&", " ").strip(" ,") for row in match[1].split(r"\\") if row.strip()]
        return Form("list", text, tuple(map(read_form, rows)))
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
