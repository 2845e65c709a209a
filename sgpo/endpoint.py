"""One client for models behind endpoints that speak the OpenAI chat protocol, for extraction and for evaluation.

Servers differ and fail. A server may answer `n=5` with one choice, 200 with an HTML page, or not at all; what may pass
is tried again, with growing pauses, and what cannot ends the run with one clear line. The key is in no message and in
nothing that is stored.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import httpx2
import openai

from sgpo.errors import BudgetError, EndpointError, InputError
from sgpo.io import counted

CONNECT_SECONDS = 10.0
MAX_BYTES = 16 * 2**20  # of one response; endless ones end here, or at the time-out
MAX_PAUSE = 60.0  # seconds between attempts, where the server does not say
MAX_RETRY_AFTER = 600.0  # seconds that a server may ask for
SHORTEST_KEY = 6  # what stands in for a key at a local server ("x", "none") is no secret, and part of many words

# Options that some endpoints refuse, and the words by which they do. Without `n` a server gives one choice.
REFUSABLE: Mapping[str, re.Pattern[str]] = {
    "response_format": re.compile("response_format|json_schema"),
    "max_tokens": re.compile("max_tokens"),
    "max_completion_tokens": re.compile("max_completion_tokens"),
    "temperature": re.compile("temperature"),
    "top_p": re.compile("top_p"),
    "n": re.compile(r"(?<!\\)\bn\b|one completion choice"),  # not the n of a line break
}


class RequestError(Exception):
    """One request came to nothing, others may do better. `final`: the server refuses it, asking again is no use."""

    def __init__(self, message: str, *, final: bool) -> None:
        super().__init__(message)
        self.final = final


class UnreadableReplyError(Exception):
    """A success by its status, but no chat completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The text of one choice, with its part of the request's tokens and cost (None: no prices were given).

    `counted`: the server reported the tokens, they are no estimate. `has_message`: the choice had one, even if empty.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cost: float | None = None
    truncated: bool = False
    counted: bool = True
    has_message: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """In the currency of your choice, per million tokens."""

    prompt: float
    completion: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a request is sent, and when the endpoint is given up, which ends the run.

    `attempts...` bound one request: in general, while the endpoint has never answered, after a time-out, after status
    429, after an unreadable answer. The others count requests with no answer between them, and those before the first
    answer (`at_first`). `pause` seconds follow a first failure, twice as many the next one.
    """

    attempts: int = 6
    attempts_at_first: int = 4
    attempts_out_of_time: int = 2
    attempts_rate_limited: int = 20
    attempts_unreadable: int = 10
    given_up_in_a_row: float = 3
    given_up_at_first: float = 1
    unreadable_in_a_row: float = 10
    refused_at_first: float = 10
    pause: float = 0.5


@dataclass(slots=True)
class EndpointUsage:
    """What this run sent and got; retries count as requests, `cached` replies cost nothing."""

    requests: int = 0
    retries: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(kw_only=True)
class ChatEndpoint:
    """A model behind an endpoint; an asynchronous context manager, which may be entered again once it was left.

    Args:
        base_url: The address before `/chat/completions`; most end in /v1.
        model: The model's name there.
        key: The API key; empty where the server wants none.
        concurrency: The most requests under way at once.
        timeout: Seconds of one attempt.
        max_requests: Budget of this run: no request is sent once it is reached, those under way are finished.
        max_tokens: The same, in tokens of prompts and replies.
        prices: To count what is paid.
        retries: When a request is sent again, and when the endpoint is given up.
        refusable: Options that may be left out once the server refuses them, and the words by which it does.
        on_refusal: Told the option that is left out from now on, and the server's words.

    Raises:
        InputError: An address that is none, a key that holds what no key has.
    """

    base_url: str
    model: str
    key: str = field(repr=False)
    concurrency: int = 32
    timeout: float = 300.0
    max_requests: int | None = None
    max_tokens: int | None = None
    prices: Prices | None = None
    retries: RetryPolicy = RetryPolicy()
    refusable: Mapping[str, re.Pattern[str]] = field(default_factory=lambda: REFUSABLE, repr=False)
    on_refusal: Callable[[str, str], None] | None = field(default=None, repr=False)
    usage: EndpointUsage = field(default_factory=EndpointUsage)

    def __post_init__(self) -> None:
        valid = False
        with suppress(httpx2.InvalidURL):
            valid = httpx2.URL(self.base_url).scheme in ("http", "https")
        if not valid:
            wanted = "expected one such as http://localhost:8000/v1"
            raise InputError(f"--base-url {self.base_url}: not an address; {wanted}")
        if not self.key.isascii() or not self.key.strip().isprintable():
            raise InputError("the key in OPENAI_API_KEY holds characters that no key has")
        self._stop: Exception | None = None  # why nothing more is sent
        self._replaced: dict[str, str | None] = {}  # refused options, and by what they are said instead
        self._answered = False
        self._unreadable = self._refused = self._given_up = 0

    async def __aenter__(self) -> ChatEndpoint:
        # What belongs to one event loop is made here; what was learned of the server outlives it.
        self._slots, self._stopping = asyncio.Semaphore(self.concurrency), asyncio.Event()
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=self.concurrency)
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url,
            # A local server wants none, but the client does; a key with a line break would be no valid header.
            api_key=self.key.strip() or "none",
            max_retries=0,
            default_headers={"Accept-Encoding": "identity"},  # a small answer must not unfold into a huge one
            http_client=openai.DefaultAsyncHttpxClient(
                transport=_BoundedTransport(limits=limits),
                timeout=httpx2.Timeout(self.timeout, connect=CONNECT_SECONDS),
            ),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def send(self, body: dict[str, Any]) -> tuple[list[Reply], dict[str, Any]]:
        """Send one request until it is answered.

        Returns:
            The replies, one per choice, and the request as the server accepted it.

        Raises:
            RequestError: This request came to nothing.
            EndpointError: The whole run has to end; BudgetError where its budget is spent.
        """
        async with self._slots:
            return await self._send(body)

    async def _send(self, body: dict[str, Any]) -> tuple[list[Reply], dict[str, Any]]:
        attempt = 0
        while True:
            self._spend_request(retry=attempt > 0)
            attempt += 1
            after = None
            attempts = self.retries.attempts if self._answered else self.retries.attempts_at_first
            sent = self._adapted(body)
            try:
                async with asyncio.timeout(self.timeout):
                    # The client's typed call would spend more time on a request than all the rest here.
                    response = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=sent)
                replies = self._read(response.content)
            except (TimeoutError, openai.APITimeoutError) as failure:
                error = f"no answer within {self.timeout:g} s"
                if isinstance(failure.__cause__, httpx2.ConnectTimeout):
                    error = f"no connection within {CONNECT_SECONDS:g} s"
                attempts = self.retries.attempts_out_of_time
            except openai.APIStatusError as failure:
                if self._adapt(failure, sent):
                    continue
                error, after = self._judge_status(failure)
                if failure.status_code == 429:
                    attempts = self.retries.attempts_rate_limited
            except openai.APIConnectionError as failure:
                error = f"the connection failed ({self._cause(failure)})"
            except UnreadableReplyError as failure:
                reason = self._scrub(str(failure))
                error = f"no chat completion ({reason})"
                attempts = self.retries.attempts_unreadable
                self._unreadable += 1
                if self._unreadable >= self.retries.unreadable_in_a_row:
                    self._end(f"{self.base_url}: nothing but unreadable answers; the last was {reason}")
            else:
                self._answered, self._unreadable, self._given_up = True, 0, 0
                return replies, sent
            if attempt >= attempts:
                self._give_up(error, attempt)
            await self._wait(after, attempt)

    def _spend_request(self, *, retry: bool) -> None:
        if self._stop:
            raise self._stop
        usage = self.usage
        if self.max_requests is not None and usage.requests >= self.max_requests:
            self._end(f"the budget of {counted(self.max_requests, 'request')} is spent", BudgetError)
        if self.max_tokens is not None and usage.tokens >= self.max_tokens:
            self._end(f"the budget of {counted(self.max_tokens, 'token')} is spent", BudgetError)
        usage.requests += 1
        usage.retries += retry

    def stop(self, reason: Exception) -> None:
        """Send nothing more: whoever asks from now on gets `reason`. Requests under way are finished."""
        self._stop = self._stop or reason
        self._stopping.set()

    def _end(self, message: str, kind: type[EndpointError] = EndpointError) -> NoReturn:
        reason = kind(message)
        self.stop(reason)
        raise reason

    def _give_up(self, error: str, attempts: int) -> NoReturn:
        self._given_up += 1
        limit = self.retries.given_up_in_a_row if self._answered else self.retries.given_up_at_first
        if self._given_up >= limit:
            self._end(f"{self.base_url}: {error}, {attempts} times over; is the server up?")
        raise RequestError(error, final=False)

    async def _wait(self, after: float | None, attempt: int) -> None:
        pause = min(MAX_PAUSE, self.retries.pause * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause if after is None else after)

    def _judge_status(self, failure: openai.APIStatusError) -> tuple[str, float | None]:
        """What went wrong, and the seconds the server asks to wait; raises where asking again is no use."""
        status = failure.status_code
        error = f"status {status}: {self._words(failure)}"
        # What no request will get past.
        if status in (401, 403):
            self._end(f"{self.base_url}: the key was refused ({error}); check --base-url, or set OPENAI_API_KEY")
        if status == 404:
            fix = f"is there a model {self.model!r} there, and is --base-url right (most end in /v1)?"
            self._end(f"{self.base_url} refuses model {self.model!r} ({error}); {fix}")
        if status == 429 and failure.code == "insufficient_quota":
            self._end(f"{self.base_url}: {error}")
        after = retry_after(failure.response.headers)
        if after is not None and after > MAX_RETRY_AFTER:
            self._end(f"{self.base_url}: asks to come back in {after / 60:.0f} minutes ({error})")
        # What may pass.
        if status in (408, 409, 429) or status >= 500:
            return error, after
        # Refused for what the request says. Where that is all the server ever says, the mistake is not one problem's.
        self._refused += 1
        if not self._answered and self._refused >= self.retries.refused_at_first:
            self._end(f"{self.base_url}: refuses every request ({error})")
        raise RequestError(error, final=True)

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
        for option, named in self.refusable.items():
            if option not in sent or not named.search(words):
                continue
            too_large = "context" in words or "too large" in words
            other = "max_completion_tokens" if option == "max_tokens" and not too_large else None
            # Several requests under way are refused for the same: it is said once.
            if self.on_refusal and option not in self._replaced and not other:
                self.on_refusal(option, words)
            self._replaced[option] = other
            return True
        return False

    def _read(self, content: bytes) -> list[Reply]:
        replies = [replace(reply, text=self._scrub(reply.text)) for reply in read_replies(content, self.prices)]
        usage = self.usage
        usage.prompt_tokens += sum(reply.prompt_tokens for reply in replies)
        usage.completion_tokens += sum(reply.completion_tokens for reply in replies)
        if self.prices:
            usage.cost = (usage.cost or 0.0) + sum(reply.cost or 0.0 for reply in replies)
        return replies

    def _words(self, failure: openai.APIStatusError) -> str:
        body = failure.body
        message = body.get("message", body) if isinstance(body, dict) else body
        return self._scrub(_glimpse(str(message or failure.message)))

    def _cause(self, failure: Exception) -> str:
        cause: BaseException = failure
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return self._scrub(f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__)

    def _scrub(self, text: str) -> str:
        key = self.key.strip()
        return text.replace(key, "[key]") if len(key) >= SHORTEST_KEY else text


def read_replies(content: bytes, prices: Prices | None) -> list[Reply]:
    """The replies of a chat completion, one per choice; an empty text where a choice has none.

    Raises:
        UnreadableReplyError: Anything else: an HTML page, an error with status 200, half a completion.
    """
    try:
        completion = json.loads(content)
    except (ValueError, RecursionError):
        raise UnreadableReplyError(f"no JSON: {_glimpse(content)!r}") from None
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(choices, list):
        raise UnreadableReplyError(f"JSON without choices: {_glimpse(content)!r}")
    choices = choices or [None]
    counts = _token_counts(completion.get("usage"))
    # Where the server counts nothing, a quarter of the answer's bytes, so that a budget holds.
    prompt_tokens, completion_tokens = counts or (0, len(content) // 4)
    paid = (prompt_tokens * prices.prompt + completion_tokens * prices.completion) / 1e6 if prices else None
    return [
        Reply(
            text=text or "",
            prompt_tokens=_part(prompt_tokens, i, len(choices)),
            completion_tokens=_part(completion_tokens, i, len(choices)),
            cost=None if paid is None else paid / len(choices),
            truncated=isinstance(choice, dict) and choice.get("finish_reason") == "length",
            counted=counts is not None,
            has_message=text is not None,
        )
        for i, choice in enumerate(choices)
        for text in [_choice_text(choice)]
    ]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait: `retry-after-ms`, or `Retry-After` as seconds or as a date."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        value = headers.get("retry-after", "")
        is_date = value[:1].isalpha()
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time() if is_date else float(value))
    except (ValueError, TypeError):
        return None


def _choice_text(choice: Any) -> str | None:
    """The text of a choice, empty where the model said nothing; None where there is no message."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or "content" not in message:
        return None
    content = message["content"]
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        return "" if content is None else None
    return content.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be stored


def _token_counts(usage: Any) -> tuple[int, int] | None:
    """The tokens of prompt and completion that a server reports; None where it reports none."""
    try:
        counts = usage["prompt_tokens"], usage["completion_tokens"]
    except (TypeError, LookupError):
        return None
    return counts if all(isinstance(count, int) and count >= 0 for count in counts) else None


def _part(total: int, i: int, parts: int) -> int:
    return total // parts + (i < total % parts)


def _glimpse(content: bytes | str) -> str:
    """The beginning of a text, on one line."""
    text = content if isinstance(content, str) else content[:2000].decode("utf-8", "replace")
    text = " ".join(text[:2000].split())
    return text if len(text) <= 200 else text[:200] + "..."


class _BoundedTransport(httpx2.AsyncHTTPTransport):
    """Ends responses that are longer than any answer, whatever their status."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream)
        return response


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_BYTES:
                raise httpx2.ReadError(f"an answer of more than {MAX_BYTES:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
