"""Reads the JSON object that a model was asked for out of what it wrote.

Reasoning blocks, code fences, prose around it, LaTeX whose backslashes were not escaped: all normal. What is cut off
or no such object is an error that says so, to be asked again.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from sgpo.errors import InputError
from sgpo.strategies.strategy import steps_from_text

MAX_CHARS = 200_000  # of an answer without its reasoning; a strategy has a few thousand
MAX_BRACES = 50  # at which an object is looked for

_REASONING_TAGS = ("think", "thinking", "reasoning")
_ESCAPE = re.compile(r'\\(["\\/]|u[0-9a-fA-F]{4})|\\')
# Control characters that were LaTeX: JSON reads "\frac" as a form feed and "rac", "\times" as a tab and "imes".
_LATEX = {"\f": "\\f", "\b": "\\b", "\t": "\\t", "\r": "\\r"}
_SWALLOWED = re.compile(r"[\f\b\t\r](?=[A-Za-z])")


class UnusableAnswerError(Exception):
    """The answer holds no object of the kind that was asked for."""


def _steps(value: Any) -> Any:
    if isinstance(value, str):
        return steps_from_text(value)
    return [_step(item) for item in value] if isinstance(value, list) else value


def _step(item: Any) -> Any:
    if isinstance(item, dict):  # {"step": 1, "description": "..."}
        item = " ".join(text for text in item.values() if isinstance(text, str))
    return " ".join(steps_from_text(item)) if isinstance(item, str) else item


def _one_line(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value


def _is_text(value: str) -> str:
    """What a server forces into JSON may still be noise: broken UTF-8, control characters, points of no character."""
    if "\ufffd" in value or any(unicodedata.category(character) in ("Cc", "Cn", "Co") for character in value):
        raise InputError("it holds what is no text")
    return value


def _says_something(value: str) -> str:
    if not any(character.isalpha() for character in value):
        raise InputError(f"{value!r} says nothing")
    return value


Line = Annotated[str, BeforeValidator(_one_line), StringConstraints(max_length=2000), AfterValidator(_is_text)]
Text = Annotated[Line, AfterValidator(_says_something)]
Score = Annotated[int, Field(ge=1, le=5)]


class ModelAnswer(BaseModel):
    """An object as a model writes it: the case of its keys, and blanks in them, do not matter."""

    @model_validator(mode="before")
    @classmethod
    def _plain_keys(cls, value: Any) -> Any:
        return {re.sub(r"[\s-]+", "_", key.strip().lower()): item for key, item in value.items()}


class StrategyAnswer(ModelAnswer):
    """A strategy as a model writes it."""

    problem_type: Text
    approach: Text = Field(validation_alias=AliasChoices("approach", "strategy"))
    steps: Annotated[list[Text], BeforeValidator(_steps), Field(min_length=1, max_length=20)]
    when_to_use: Line = ""


class ScoresAnswer(ModelAnswer):
    """A ranking as a model writes it."""

    faithful: Score
    general: Score
    actionable: Score
    leak_free: Score


M = TypeVar("M", bound=ModelAnswer)


def read_answer(text: str, kind: type[M]) -> M:
    """The first object in a model's answer that is one of `kind`. Raises UnusableAnswerError that says why not."""
    text = without_reasoning(text)
    if not text.strip():
        raise UnusableAnswerError("it was empty")
    if len(text) > MAX_CHARS:
        raise UnusableAnswerError("it was far too long")
    wrong = "it held no JSON object" if "{" not in text else "its JSON object was broken or cut off"
    for value in _objects(text):
        try:
            return kind.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            wrong = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    raise UnusableAnswerError(wrong)


def without_reasoning(text: str) -> str:
    """What a model wrote after it reasoned. A block may have begun in the prompt; one without an end has no after."""
    for tag in _REASONING_TAGS:
        text = text.rpartition(f"</{tag}>")[2]
    for tag in _REASONING_TAGS:
        text = text.partition(f"<{tag}>")[0]
    return text


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder(strict=False)  # line breaks inside texts
    start = text.find("{")
    for _ in range(MAX_BRACES):
        if start < 0:
            return
        end = start + 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value = _mended(decoder, text[start:])
        yield from _inner_objects(_cleaned(value), depth=3)
        start = text.find("{", end)


def _mended(decoder: json.JSONDecoder, text: str) -> Any:
    """The object at the start of a text whose backslashes were not escaped, as in LaTeX; None where it is not that."""
    try:
        return decoder.raw_decode(_ESCAPE.sub(lambda match: match.group(0) if match.group(1) else r"\\", text))[0]
    except (ValueError, RecursionError):
        return None


def _inner_objects(value: Any, *, depth: int) -> Iterator[dict[str, Any]]:
    """The object, then those inside it: some models wrap what they were asked for."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list) and depth:
        for item in value:
            yield from _inner_objects(item, depth=depth - 1)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        value = _SWALLOWED.sub(lambda match: _LATEX[match.group(0)], value)
        return value.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be stored
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {str(_cleaned(key)): _cleaned(item) for key, item in value.items()}
    return value
