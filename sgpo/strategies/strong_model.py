"""The strong model behind an endpoint that speaks the OpenAI chat protocol: many requests at once, none asked twice.

Servers differ and fail. A server may answer `n=5` with one choice, 200 with an HTML page, or not at all; what can be
tried again is, with growing pauses, and what cannot ends the run with one clear line. The key is in no message and
nothing that is stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NoReturn, Protocol
from weakref import WeakValueDictionary

import httpx2
import openai

from sgpo.errors import InputError
from sgpo.io import counted
from sgpo.strategies.wire import (
    Answer,
    BoundedTransport,
    Prices,
    UnreadableReplyError,
    glimpse,
    read_answers,
    retry_after,
)

ATTEMPTS = 6  # per request, where the server may recover
ATTEMPTS_AT_FIRST = 4  # where it has never answered yet
ATTEMPTS_OUT_OF_TIME = 2
ATTEMPTS_RATE_LIMITED = 20
MAX_PAUSE = 60.0  # seconds between attempts, where the server does not say
MAX_RETRY_AFTER = 600.0  # seconds that a server may ask for
UNREADABLE_IN_A_ROW = 10
GIVEN_UP_IN_A_ROW = 3
REFUSED_AT_FIRST = 10
SHORTEST_KEY = 6  # what stands in for a key at a local server ("x", "none") is no secret, and part of many words


class Stopped(Exception):
    """The run ends here; what is finished stays."""


class BudgetSpent(Stopped):
    """The budget of requests or tokens is spent."""


class EndpointFailed(Stopped):
    """The endpoint refuses, or gives nothing that could be used."""


class RequestFailed(Exception):
    """One request came to nothing, others may do better. `final`: the server refuses it, asking again is no use."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn. `max_tokens` bounds each answer."""

    temperature: float
    top_p: float = 1.0
    max_tokens: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The JSON schema that an answer shall follow."""

    name: str
    schema: Mapping[str, Any]

    def response_format(self) -> dict[str, Any]:
        return {"type": "json_schema", "json_schema": {"name": self.name, "strict": True, "schema": dict(self.schema)}}


class Cache(Protocol):
    """Where answers are kept, so that nothing is paid for twice (`sgpo.strategies.ledger.Ledger`)."""

    def answers(self, key: str) -> list[Answer] | None: ...
    def store_answers(self, key: str, model: str, answers: Sequence[Answer]) -> None: ...


@dataclass(slots=True)
class Usage:
    """What this run sent and got; retries count as requests, `cached` answers cost nothing."""

    requests: int = 0
    retries: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(slots=True, kw_only=True)
class StrongModel:
    """A model behind an endpoint; an asynchronous context manager.

    At most `concurrency` requests are under way at once, each for at most `timeout` seconds. `max_requests` and
    `max_tokens` are the budget of this run: no request is sent once they are reached, those under way are finished.
    `pause` seconds follow a first failure, twice as many the next one.

    Raises InputError for an address that is none.
    """

    base_url: str
    model: str
    key: str = field(repr=False)
    cache: Cache
    concurrency: int = 32
    timeout: float = 300.0
    max_requests: int | None = None
    max_tokens: int | None = None
    prices: Prices | None = None
    pause: float = 0.5
    usage: Usage = field(default_factory=Usage)
    _client: openai.AsyncOpenAI = field(init=False, repr=False)
    _slots: asyncio.Semaphore = field(init=False, repr=False)
    _stop: Exception | None = field(init=False, default=None, repr=False)
    _stopping: asyncio.Event = field(init=False, repr=False)
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(init=False, repr=False)
    _answered: bool = field(init=False, default=False, repr=False)
    _unreadable: int = field(init=False, default=0, repr=False)
    _refused: int = field(init=False, default=0, repr=False)
    _given_up: int = field(init=False, default=0, repr=False)
    _replaced: dict[str, str | None] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        try:
            valid = httpx2.URL(self.base_url).scheme in ("http", "https")
        except httpx2.InvalidURL:
            valid = False
        if not valid:
            raise InputError(f"{self.base_url}: not an address; expected one such as http://localhost:8000/v1")
        if not self.key.isascii() or not self.key.strip().isprintable():
            raise InputError("the key in OPENAI_API_KEY holds characters that no key has")
        self._slots = asyncio.Semaphore(self.concurrency)
        self._stopping = asyncio.Event()
        self._locks = WeakValueDictionary()
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=self.concurrency)
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url,
            # A local server wants none, but the client does; a key with a line break would be no valid header.
            api_key=self.key.strip() or "none",
            max_retries=0,
            default_headers={"Accept-Encoding": "identity"},  # a small answer must not unfold into a huge one
            http_client=openai.DefaultAsyncHttpxClient(
                transport=BoundedTransport(limits=limits), timeout=httpx2.Timeout(self.timeout, connect=10.0)
            ),
        )

    async def __aenter__(self) -> StrongModel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def sample(
        self, prompt: str, n: int, *, sampling: Sampling, schema: Schema | None = None, draw: int = 0
    ) -> list[Answer]:
        """`n` answers to a prompt, from the cache where they are; asks again where a server gives fewer at once.

        `draw` numbers the first of them: the same number is the same answer, another number a fresh one. An answer may
        be empty. Raises RequestFailed, or Stopped where the whole run has to end.
        """
        answers = await self._ask(prompt, n, draw=draw, sampling=sampling, schema=schema)
        if len(answers) < n:
            # A server that ignores `n`: the others one by one, all at once.
            draws = range(draw + len(answers), draw + n)
            more = await all_or_first_error(
                [self._ask(prompt, 1, draw=draw, sampling=sampling, schema=schema) for draw in draws]
            )
            answers = answers + [answer for given in more for answer in given]
        return answers[:n]

    async def _ask(self, prompt: str, n: int, *, draw: int, sampling: Sampling, schema: Schema | None) -> list[Answer]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "n": n,
            **asdict(sampling),
        }
        if schema:
            body["response_format"] = schema.response_format()
        key = hashlib.sha256(json.dumps([body, draw], sort_keys=True).encode()).hexdigest()
        # Two tasks that ask the same at the same time: the second waits and finds the first one's answer.
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self.cache.answers(key)
            if known is not None:
                self.usage.cached += 1
                return known
            async with self._slots:
                answers = await self._send(body)
            self.cache.store_answers(key, self.model, answers)
            return answers

    # ---------------------------------------------------------------------------------------------- one request

    async def _send(self, body: dict[str, Any]) -> list[Answer]:
        attempt = 0
        while True:
            self._spend_request(retry=attempt > 0)
            attempt += 1
            after = None
            attempts = ATTEMPTS if self._answered else ATTEMPTS_AT_FIRST
            sent = self._adapted(body)
            try:
                async with asyncio.timeout(self.timeout):
                    # The client's typed call would spend more time on a request than all the rest here.
                    reply = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=sent)
                answers = self._read(reply.content)
            except (TimeoutError, openai.APITimeoutError) as failure:
                error = f"no answer within {self.timeout:g} s"
                if _is_connect_timeout(failure):
                    error = "no connection within 10 s"
                attempts = ATTEMPTS_OUT_OF_TIME
            except openai.APIStatusError as failure:
                if self._adapt(failure, sent):
                    continue
                error, after = self._judge_status(failure)
                if failure.status_code == 429:
                    attempts = ATTEMPTS_RATE_LIMITED
            except openai.APIConnectionError as failure:
                error = f"the connection failed ({self._cause(failure)})"
            except UnreadableReplyError as failure:
                error = self._scrub(str(failure))
                attempts = UNREADABLE_IN_A_ROW
                self._unreadable += 1
                if self._unreadable >= UNREADABLE_IN_A_ROW:
                    self._end(EndpointFailed(f"{self.base_url}: nothing but unreadable answers; the last was {error}"))
            else:
                self._answered, self._unreadable, self._given_up = True, 0, 0
                return answers
            if attempt >= attempts:
                self._give_up(error, attempt)
            await self._wait(after, attempt)

    def _spend_request(self, *, retry: bool) -> None:
        if self._stop:
            raise self._stop
        usage = self.usage
        if self.max_requests is not None and usage.requests >= self.max_requests:
            self._end(BudgetSpent(f"the budget of {counted(self.max_requests, 'request')} is spent"))
        if self.max_tokens is not None and usage.tokens >= self.max_tokens:
            self._end(BudgetSpent(f"the budget of {counted(self.max_tokens, 'token')} is spent"))
        usage.requests += 1
        usage.retries += retry

    def stop(self, reason: Exception) -> None:
        """Send nothing more: whoever asks from now on gets `reason`. Requests under way are finished."""
        self._stop = self._stop or reason
        self._stopping.set()

    def _end(self, reason: Stopped) -> NoReturn:
        self.stop(reason)
        raise reason

    def _give_up(self, error: str, attempts: int) -> NoReturn:
        self._given_up += 1
        if not self._answered or self._given_up >= GIVEN_UP_IN_A_ROW:
            self._end(EndpointFailed(f"{self.base_url}: {error}, {attempts} times over; is the server up?"))
        raise RequestFailed(error, final=False)

    async def _wait(self, after: float | None, attempt: int) -> None:
        seconds = after
        if seconds is None:
            seconds = min(MAX_PAUSE, self.pause * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def _judge_status(self, failure: openai.APIStatusError) -> tuple[str, float | None]:
        """(error, seconds the server asks to wait) where it may be tried again; raises where it is no use."""
        status = failure.status_code
        error = f"status {status}: {self._words(failure)}"
        if status in (401, 403):
            self._end(EndpointFailed(f"{self.base_url}: the key was refused ({error}); set OPENAI_API_KEY"))
        if status == 404:
            mend = f"is there a model {self.model!r}, and is the address right (most end in /v1)?"
            self._end(EndpointFailed(f"{self.base_url}: {error}; {mend}"))
        if status == 429 and failure.code == "insufficient_quota":
            self._end(EndpointFailed(f"{self.base_url}: {error}"))
        after = retry_after(failure.response.headers)
        if after is not None and after > MAX_RETRY_AFTER:
            self._end(EndpointFailed(f"{self.base_url}: asks to come back in {after / 60:.0f} minutes ({error})"))
        if status in (408, 409, 429) or status >= 500:
            return error, after
        # Refused for what the request says. Where that is all the server ever says, the mistake is not one problem's.
        self._refused += 1
        if not self._answered and self._refused >= REFUSED_AT_FIRST:
            self._end(EndpointFailed(f"{self.base_url}: refuses every request ({error})"))
        raise RequestFailed(error, final=True)

    # ------------------------------------------------------------------------------- options that servers refuse

    def _adapted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        adapted = dict(body)
        for option, other in self._replaced.items():
            value = adapted.pop(option, None)
            if other and value is not None:
                adapted[other] = value
        return adapted

    def _adapt(self, failure: openai.APIStatusError, sent: Mapping[str, Any]) -> bool:
        """Leave out or rename an option that the server refuses by name. True: ask once more without it."""
        if failure.status_code not in (400, 422):
            return False
        words = self._words(failure)
        for option, named in _REFUSABLE.items():
            if option in sent and named.search(words):
                too_large = "context" in words or "too large" in words
                renamed = option == "max_tokens" and not too_large
                self._replaced[option] = "max_completion_tokens" if renamed else None
                return True
        return False

    # ------------------------------------------------------------------------------------------- reading answers

    def _read(self, content: bytes) -> list[Answer]:
        answers = [replace(answer, text=self._scrub(answer.text)) for answer in read_answers(content, self.prices)]
        usage = self.usage
        usage.prompt_tokens += sum(answer.prompt_tokens for answer in answers)
        usage.completion_tokens += sum(answer.completion_tokens for answer in answers)
        if self.prices:
            usage.cost = (usage.cost or 0.0) + sum(answer.cost or 0.0 for answer in answers)
        return answers

    def _words(self, failure: openai.APIStatusError) -> str:
        body = failure.body
        message = body.get("message", body) if isinstance(body, dict) else body
        return self._scrub(glimpse(str(message or failure.message)))

    def _cause(self, failure: Exception) -> str:
        cause: BaseException = failure
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return self._scrub(f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__)

    def _scrub(self, text: str) -> str:
        key = self.key.strip()
        return text.replace(key, "[key]") if len(key) >= SHORTEST_KEY else text


def _is_connect_timeout(failure: BaseException) -> bool:
    return isinstance(failure.__cause__, httpx2.ConnectTimeout)


async def all_or_first_error(calls: Sequence[Any]) -> list[Any]:
    """The results of all; where one fails, the others are finished first: what was paid for is kept."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)


# Options that some endpoints refuse, and the words by which they do. Without `n` a server gives one choice.
_REFUSABLE = {
    "response_format": re.compile("response_format|json_schema"),
    "max_tokens": re.compile("max_tokens"),
    "max_completion_tokens": re.compile("max_completion_tokens"),
    "temperature": re.compile("temperature"),
    "top_p": re.compile("top_p"),
    "n": re.compile(r"(?<!\\)\bn\b|one completion choice"),  # not the n of a line break
}
