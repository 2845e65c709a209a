"""The strong model's replies: asked for so many at a time, never paid for twice, and read with suspicion.

Reasoning blocks, code fences, prose around a JSON object, LaTeX whose backslashes were not escaped: all normal. A reply
that is cut off, or holds no such object, is asked for again, with the reason.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

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

from sgpo.endpoint import ChatEndpoint, Reply, RequestError
from sgpo.prompts import ask_again_prompt
from sgpo.reasoning import without_reasoning
from sgpo.strategies.strategy import steps_from_text

T = TypeVar("T")

TIMES_ASKED = 3  # for a usable reply
MAX_ROOM = 65_536  # tokens; up to here a reply that was cut off gets twice the room the next time
MAX_CHARS = 200_000  # of a reply without its reasoning; a strategy has a few thousand
MAX_BRACES = 50  # at which an object is looked for

_BEGUN = re.compile(r'\{\s*"')
_DECODER = json.JSONDecoder(strict=False)  # line breaks inside texts
_ESCAPE = re.compile(r'\\(["\\/]|u[0-9a-fA-F]{4})|\\')
# Control characters that were LaTeX: JSON reads "\frac" as a form feed and "rac", "\times" as a tab and "imes".
_LATEX = {"\f": "\\f", "\b": "\\b", "\t": "\\t", "\r": "\\r"}
_SWALLOWED = re.compile(r"[\f\b\t\r](?=[A-Za-z])")


class UnusableReplyError(Exception):
    """The reply holds no object of the kind that was asked for."""


# ------------------------------------------------------------------------------------------------ asking for replies


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """How replies are drawn. `max_tokens` bounds each of them."""

    temperature: float
    top_p: float = 1.0
    max_tokens: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class JSONSchema:
    """The JSON schema that a reply shall follow."""

    name: str
    schema: Mapping[str, Any]

    def response_format(self) -> dict[str, Any]:
        return {"type": "json_schema", "json_schema": {"name": self.name, "strict": True, "schema": dict(self.schema)}}


class ReplyCache(Protocol):
    """Where replies are stored, so that nothing is paid for twice (`StrategyBank` is one)."""

    def replies(self, key: str) -> list[Reply] | None: ...
    def store_replies(self, key: str, model: str, replies: Sequence[Reply]) -> None: ...


@dataclass(kw_only=True)
class StrongModel(ChatEndpoint):
    """A strong model behind an endpoint, whose replies are found in `cache` where they are."""

    cache: ReplyCache

    async def __aenter__(self) -> StrongModel:
        await super().__aenter__()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        return self

    async def sample(
        self, prompt: str, n: int, *, options: ChatOptions, schema: JSONSchema | None = None, draw: int = 0
    ) -> list[Reply]:
        """`n` replies to a prompt, from the cache where they are; asks again where a server gives fewer at once.

        `draw` numbers the first of them: the same number is the same reply, another number a fresh one. A reply may be
        empty.

        Raises:
            RequestError: This request came to nothing.
            EndpointError: The whole run has to end; BudgetError where its budget is spent.
        """
        replies = await self._ask(prompt, n, draw=draw, options=options, schema=schema)
        if len(replies) < n:
            # A server that ignores `n`: the others one by one, all at once.
            draws = range(draw + len(replies), draw + n)
            more = await all_or_first_error(
                [self._ask(prompt, 1, draw=draw, options=options, schema=schema) for draw in draws]
            )
            replies = replies + [reply for given in more for reply in given]
        return replies[:n]

    async def _ask(
        self, prompt: str, n: int, *, draw: int, options: ChatOptions, schema: JSONSchema | None
    ) -> list[Reply]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "n": n,
            **asdict(options),
        }
        if schema:
            body["response_format"] = schema.response_format()
        # What an earlier run was answered is found by this hash: change nothing that goes into it.
        key = hashlib.sha256(json.dumps([body, draw], sort_keys=True).encode()).hexdigest()
        # Two tasks that ask the same at the same time: the second waits and finds the first one's replies.
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self.cache.replies(key)
            if known is not None:
                self.usage.cached += 1
                return [replace(reply, cached=True) for reply in known]
            replies, sent = await self.send(body)
            told = {*sent, *(["max_tokens"] if "max_completion_tokens" in sent else [])}
            left = tuple(name for name in asdict(options) if name not in told)
            replies = [replace(reply, left_to_server=left) for reply in replies]
            self.cache.store_replies(key, self.model, replies)
            return replies


async def all_or_first_error(calls: Sequence[Any]) -> list[Any]:
    """The results of all; where one fails, the others are finished first: what was paid for is stored."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)


@dataclass(frozen=True, slots=True)
class UsableReply(Generic[T]):
    """What a reply says, the reply, and how it was drawn: the options, without those that the server refused."""

    value: T
    reply: Reply
    sampling: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AskedReplies(Generic[T]):
    """The replies that can be used; and how many could not, why the last of them could not, and its text."""

    usable: list[UsableReply[T]]
    unusable: int
    error: str | None
    raw: str | None


async def ask_until_usable(
    model: StrongModel,
    prompt: str,
    n: int,
    *,
    options: ChatOptions,
    schema: JSONSchema | None,
    read: Callable[[str], T],
    retry: bool = False,
) -> AskedReplies[T]:
    """Up to `n` usable replies. `read` raises UnusableReplyError for others, which are asked for again, saying why.

    Where a reply was cut off at the limit of tokens, the next ones get twice the room, up to MAX_ROOM. With `retry`,
    replies from the cache do not count among the TIMES_ASKED, so a question that was given up is asked anew.

    Raises what `StrongModel.sample` raises.
    """
    usable: list[UsableReply[T]] = []
    unusable, error, raw = 0, None, None
    question, times, time = prompt, TIMES_ASKED, 0
    while time < times and len(usable) < n:
        try:
            given = await model.sample(question, n - len(usable), options=options, schema=schema, draw=time * n)
        except RequestError as failure:
            if not failure.final or error is None:
                raise
            error = f"{error}; asked again: {failure}"
            break
        for reply in given:
            try:
                usable.append(UsableReply(read(reply.text), reply, _sampling(options, reply)))
            except UnusableReplyError as failure:
                unusable, raw = unusable + 1, reply.text
                error = f"{failure}{f' at max_tokens {options.max_tokens}' if reply.truncated else ''}{reply.ending}"
        if any(reply.truncated for reply in given):
            options = replace(options, max_tokens=max(options.max_tokens, min(2 * options.max_tokens, MAX_ROOM)))
        times += retry and all(reply.cached for reply in given)
        time += 1
        question = ask_again_prompt(prompt, error or "it was empty")
    return AskedReplies(usable, unusable, error, raw)


def _sampling(options: ChatOptions, reply: Reply) -> dict[str, Any]:
    return {name: value for name, value in asdict(options).items() if name not in reply.left_to_server}


# --------------------------------------------------------------------------------------------------- reading a reply


def _steps(value: Any) -> Any:
    if isinstance(value, str):
        return steps_from_text(value)
    if isinstance(value, dict):  # {"1": "...", "2": "..."}
        value = list(value.values())
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
        raise ValueError("it holds what is no text")
    return value


def _says_something(value: str) -> str:
    if not any(character.isalpha() for character in value):
        raise ValueError(f"{value!r} says nothing")
    return value


Line = Annotated[str, BeforeValidator(_one_line), StringConstraints(max_length=2000), AfterValidator(_is_text)]
Text = Annotated[Line, AfterValidator(_says_something)]
Score = Annotated[int, Field(ge=1, le=5)]


class WrittenObject(BaseModel):
    """An object as a model writes it: the case of its keys, and blanks in them, do not matter."""

    @model_validator(mode="before")
    @classmethod
    def _plain_keys(cls, value: Any) -> Any:
        return {re.sub(r"[\s-]+", "_", key.strip().lower()): item for key, item in value.items()}


class WrittenStrategy(WrittenObject):
    """A strategy as a model writes it."""

    problem_type: Text
    approach: Text = Field(validation_alias=AliasChoices("approach", "strategy"))
    steps: Annotated[list[Text], BeforeValidator(_steps), Field(min_length=1, max_length=20)]
    when_to_use: Line = ""


class WrittenScores(WrittenObject):
    """A ranking as a model writes it."""

    faithful: Score
    general: Score
    actionable: Score
    leak_free: Score


M = TypeVar("M", bound=WrittenObject)


def read_object(text: str, kind: type[M]) -> M:
    """The last object in a model's reply that is one of `kind`: what stands before it may be a draft.

    Where an object that was begun behind it is broken or cut off, that one was the answer, and the reply is unusable.

    Raises:
        UnusableReplyError: There is none; the message says what the last one lacks.
    """
    text = without_reasoning(text)
    if not text.strip():
        raise UnusableReplyError("it was empty")
    if len(text) > MAX_CHARS:
        raise UnusableReplyError("it was far too long")
    broken = "its JSON object was broken or cut off"
    wrong = broken if "{" in text else "it held no JSON object"
    found: M | None = None
    for value in _objects(text):
        if value is None:
            found, wrong = None, broken
            continue
        outer, *inner = _inner_objects(value, depth=3)
        try:
            found = kind.model_validate(outer)
        except ValidationError as error:
            if (wrapped := _last_of(inner, kind)) is not None:
                found = wrapped
            first = error.errors(include_url=False, include_input=False)[0]  # those inside it were never meant
            wrong = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    if found is None:
        raise UnusableReplyError(wrong)
    return found


def _last_of(objects: Sequence[dict[str, Any]], kind: type[M]) -> M | None:
    for value in reversed(objects):
        with suppress(ValidationError):
            return kind.model_validate(value)
    return None


def _objects(text: str) -> Iterator[dict[str, Any] | None]:
    """Every object of a text; None for one that was begun, with a first key, and cannot be read."""
    start = text.find("{")
    for _ in range(MAX_BRACES):
        if start < 0:
            return
        value, end = _object_at(text, start)
        if value is None and "\\" in text:
            escaped = text[:start] + _ESCAPE.sub(lambda match: match[0] if match[1] else r"\\", text[start:])
            value, end = _object_at(escaped, start)
            text = text if value is None else escaped
        if value is not None:
            yield value
        elif _BEGUN.match(text, start):
            yield None
        start = text.find("{", end)


def _object_at(text: str, start: int) -> tuple[Any, int]:
    """The object that begins at `start`, and where it ends; None, and the next place to look, where there is none."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        return _clean(value), end
    except (ValueError, RecursionError):
        return None, start + 1


def _inner_objects(value: Any, *, depth: int) -> Iterator[dict[str, Any]]:
    """The object, then those inside it: some models wrap what they were asked for."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list) and depth:
        for item in value:
            yield from _inner_objects(item, depth=depth - 1)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        value = _SWALLOWED.sub(lambda match: _LATEX[match.group(0)], value)
        return value.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be stored
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {str(_clean(key)): _clean(item) for key, item in value.items()}
    return value
