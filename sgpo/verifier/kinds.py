r"""The kinds of task: how a completion is judged against the gold answer.

| kind | judged by |
|---|---|
| `math` | `sgpo.verifier.equivalence` |
| `exact` | the same text, up to white space (LaTeX's too) and `\text{...}` |
| `choice` | the letter of a multiple choice |
| `puzzle` | the function that the gold answer names (`{"check": "package.module:function", ...}`), else as `exact` |
| `package.module:function` | `function(completion=..., answer=...) -> bool | Verdict`, a user's own |
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Callable

from sgpo.verifier.choice import chosen_letters, letters_of
from sgpo.verifier.extract import READ_LIMIT, last_box
from sgpo.verifier.math.latex import without_text
from sgpo.verifier.verdict import Verdict

KINDS = ("math", "exact", "choice", "puzzle")

# Judged in the caller's process: a few linear passes over the text.
IN_PROCESS = ("exact", "choice")

_MARKER = re.compile(r"\banswer\b(?:\s+is\b)?\s*[:=]?", re.IGNORECASE)
_LATEX_SPACE = re.compile(r"\\[ ,;:!]|\\q?quad(?![A-Za-z])|~")


class UsageError(ValueError):
    """The user's mistake, not the model's: reported, never counted as a verdict."""


def judge(completion: str, answer: str, *, kind: str, strict: bool = False) -> Verdict:
    """The verdict, in this process and without limits. Raises UsageError for a kind that does not exist."""
    if kind == "math":
        from sgpo.verifier.math.equivalence import judge_math  # sympy: not in a process that judges none of it

        return judge_math(completion, answer, strict=strict)
    if kind == "exact":
        return _judge_exact(completion[-READ_LIMIT:], answer)
    if kind == "choice":
        return _judge_choice(completion[-READ_LIMIT:], answer)
    if kind == "puzzle":
        check = _check_of(answer)
        return _call(check, completion, answer) if check else _judge_exact(completion[-READ_LIMIT:], answer)
    if ":" in kind:
        return _call(kind, completion, answer)
    raise UsageError(
        f"unknown kind of problem {kind!r}; there are: {', '.join(KINDS)}, and 'package.module:function' for your own"
    )


def _judge_exact(completion: str, answer: str) -> Verdict:
    """The same plain text: the last box, else the line after the last "answer", else the last line."""
    extracted = last_box(completion)
    if extracted is None:
        marker = max(_MARKER.finditer(completion), key=re.Match.end, default=None)
        lines = (completion[marker.end() :] if marker else completion).strip().splitlines()
        extracted = (lines[0] if marker else lines[-1]) if lines else ""
    extracted = plain_text(extracted)
    if not extracted:
        return Verdict("unparsed")
    return Verdict("correct" if extracted == plain_text(answer) else "wrong", extracted)


def plain_text(text: str) -> str:
    r"""A short text with single spaces, those of LaTeX included, and without `\text{...}` around its parts."""
    return " ".join(_LATEX_SPACE.sub(" ", without_text(text)).split())


def _judge_choice(completion: str, answer: str) -> Verdict:
    """The same letters. `(D) Alina` as a gold answer is D; "A, C" wants both."""
    gold = letters_of(answer)
    if not gold:
        raise UsageError(f"the answer of a problem of kind 'choice' must begin with its letter, got {answer[:80]!r}")
    found = chosen_letters(completion)
    if not found:
        return Verdict("unparsed")
    return Verdict("correct" if found == gold else "wrong", ", ".join(sorted(found)))


def _check_of(answer: str) -> str | None:
    """The function that a puzzle's gold answer names."""
    try:
        rule = json.loads(answer)
    except ValueError:
        return None
    check = rule.get("check") if isinstance(rule, dict) else None
    return check if isinstance(check, str) else None


def _call(path: str, completion: str, answer: str) -> Verdict:
    result = _function(path)(completion=completion, answer=answer)
    if isinstance(result, Verdict):
        return result
    if isinstance(result, bool):
        return Verdict("correct" if result else "wrong")
    raise UsageError(f"{path} returned {type(result).__name__}; it must return a bool or a Verdict")


def _function(path: str) -> Callable[..., object]:
    """The user's function of that dotted path.

    Its two parameters must be named `completion` and `answer`: a problem file from elsewhere that names a function
    made for something else (`os:system`) gets an error, not a call.
    """
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"kind {path!r} names no function that can be imported: {error}") from None
    try:
        parameters = set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = set()
    if parameters != {"completion", "answer"}:
        raise UsageError(f"kind {path!r}: the function must take exactly (completion, answer)")
    return function
