"""What the columns of a problem file hold: texts, numbers and chats, and where TRL and verl keep which field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from sgpo.errors import InputError
from sgpo.io import check_unicode

# Where a row with a `prompt` and no `problem` has its gold answer, the first that is there: verl's place, and TRL's.
_ANSWERS = ("reward_model.ground_truth", "answer", "ground_truth", "solution", "completion")
# Of these, those that may hold a whole solution.
_SOLUTIONS = ("solution", "completion")


def columns_of(row: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, str]:
    """The column of each field that has another name: as `fields` says, and in rows of TRL and verl as these do."""
    if fields.get("problem", "prompt") != "prompt" or "problem" in row or "prompt" not in row:
        return dict(fields)
    answer = next((name for name in _ANSWERS if lookup(row, name) is not None), "answer")
    theirs = {"problem": "prompt", "answer": answer}
    theirs |= {"source": "data_source"} if "source" not in row else {}
    theirs |= {"subject": "ability"} if "subject" not in row else {}
    theirs |= {"solution": answer} if answer in _SOLUTIONS else {}
    return {**theirs, **fields}


def answer_and_solution(text: str) -> tuple[str, str | None]:
    """The gold answer of a text, and the text as the solution where it is more than its answer in a box."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return text, None
    depth, end = 0, len(text)
    for place in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            end = place
            break
    answer, around = text[start + len("\\boxed{") : end], text[:start] + text[end + 1 :]
    return answer, text if around.strip("$ .\n") else None


def system_turn(row: Mapping[str, Any], column: str, where: str) -> str | None:
    """The system prompt that a column's chat begins with; None where there is none. Raises InputError for no text."""
    value = lookup(row, column)
    first = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and value else None
    if not isinstance(first, Mapping) or first.get("role", first.get("from")) not in ("system", "developer"):
        return None
    return column_text({"system": first}, "system", "system", where)


def lookup(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of a place inside it: `generations.0`. None where there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def column_text(row: Mapping[str, Any], field: str, column: str, where: str) -> str | None:
    """The text of a field; None where its column is missing, empty or blank. Raises InputError for what is no text."""
    try:
        text = _text(lookup(row, column), asked=field == "problem")
        check_unicode(text or "")
    except InputError as error:
        raise InputError(f"{where}: {column!r} holds {error}") from None
    except _NoText as found:
        inside = f"; name what to read of it, such as --field {field}={column}.{found.place}" if found.place else ""
        raise InputError(f"{where}: {column!r} holds {found}, expected a text{inside}") from None
    return text if text and text.strip() else None


class _NoText(Exception):
    """A value that becomes text only by accident; `place` is something in it that may be meant."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what)
        self.place = place


def _text(value: Any, *, asked: bool) -> str | None:
    """A value as text: numbers, bytes, lists of one and chats too. Of a chat it is what the user has `asked`, or else
    what the assistant answers. Raises _NoText for anything else."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return None  # what is missing, in files that pandas wrote
        if math.isinf(value):
            raise _NoText("an infinite number")
        # Some files store the answer 27 as 27.0.
        whole = int(value)
        return str(whole) if whole == value and abs(whole) < 10**15 else str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise _NoText("bytes that are no UTF-8") from None
    if isinstance(value, Mapping):
        said = value.get("content", value.get("value", value.get("text")))
        if {"role", "from", "type"} & value.keys() and said is not None:  # a message, or a part of one
            return _text(said, asked=asked)
        raise _NoText(f"an object with {', '.join(map(str, value))}", next(map(str, value), ""))
    if isinstance(value, Sequence):
        return _text_of_list(value, asked=asked)
    raise _NoText(f"a {type(value).__name__}")


def _text_of_list(items: Sequence[Any], *, asked: bool) -> str | None:
    """A list of one, the parts of a message, or the one message of a chat that is meant."""
    if len(items) < 2:
        return _text(items[0], asked=asked) if items else None
    if all(isinstance(item, Mapping) and item.get("type") == "text" for item in items):
        return "".join(str(item.get("text")) for item in items)
    speakers = ("user", "human") if asked else ("assistant", "gpt")
    chat = all(isinstance(item, Mapping) and {"role", "from"} & item.keys() for item in items)
    said = [item for item in items if chat and item.get("role", item.get("from")) in speakers]
    if len(said) == 1:
        return _text(said[0], asked=asked)
    what = f"a chat with {len(said)} turns of the {speakers[0]}" if chat else f"a list of {len(items)}"
    raise _NoText(what, "0.content" if chat else "0")
