"""One client for models behind endpoints that speak the OpenAI chat protocol, for extraction and for evaluation.

Servers differ and fail. A server may answer `n=5` with one choice, 200 with an HTML page, or not at all; what may pass
is tried again, with growing pauses, and what cannot ends the run with one clear line. The key is in no message and in
nothing that is stored.
"""

from __future__ import annotations

import asyncio
import random
import re
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import httpx2
import openai

from sgpo.chat import (
    Prices,
    RefusedError,
    Reply,
    UnreadableReplyError,
    glimpse,
    read_replies,
    refused_by_status,
    retry_after,
)
from sgpo.errors import BudgetError, EndpointError, InputError
from sgpo.io import counted

__all__ = ["ChatEndpoint", "EndpointUsage", "Prices", "Reply", "RequestError", "RetryPolicy", "retry_after"]

CONNECT_SECONDS = 10.0
MAX_BYTES = 16 * 2**20  # of one response, unpacked; endless ones end here, or at the time-out
MAX_PAUSE = 60.0  # seconds between attempts, where the server does not say
MAX_RETRY_AFTER = 600.0  # seconds that a server may ask for
NO_CREDIT = ("insufficient_quota", "insufficient_balance", "billing_hard_limit_reached")  # as codes of an error
SHORTEST_KEY = 6  # what stands in for a key at a local server ("x", "none") is no secret, and part of many words

LIMITS = ("max_tokens", "max_completion_tokens")

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
        refusable: Options that may be left out where the server refuses them, and the words by which it does. It is
            believed once it accepts the same request without the option: some errors only repeat the prompt's words.
        on_refusal: Told the option that is left out from now on, and the server's words.

    Raises:
        InputError: An address that is none, a key that holds what no key has.
    """

    base_url: str = field(repr=False)
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
        url = None
        with suppress(httpx2.InvalidURL):
            url = httpx2.URL(self.base_url)
        self.address = address_of(self.base_url)  # for messages
        if url is None or url.scheme not in ("http", "https"):
            wanted = "expected one such as http://localhost:8000/v1"
            raise InputError(f"--base-url {self.address}: not an address; {wanted}")
        if not self.key.isascii() or not self.key.strip().isprintable():
            raise InputError("the key in OPENAI_API_KEY holds characters that no key has")
        secrets = (self.key.strip(), url.password, url.userinfo.decode().partition(":")[2])
        self._secrets = [_as_written(secret) for secret in secrets if len(secret) >= SHORTEST_KEY]
        self._stop: Exception | None = None  # why nothing more is sent
        self._replaced: dict[str, Refusal] = {}
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
        refused: dict[str, Refusal] = {}  # by this request's answers, not yet believed
        while True:
            self._spend_request(retry=attempt > 0)
            attempt += 1
            after = None
            attempts = self.retries.attempts if self._answered else self.retries.attempts_at_first
            sent = _adapted(body, self._replaced | refused)
            try:
                async with asyncio.timeout(self.timeout):
                    content = await self._post(sent)
                replies = self._read(content)
            except (TimeoutError, openai.APITimeoutError) as failure:
                error = f"no answer within {self.timeout:g} s"
                if isinstance(failure.__cause__, httpx2.ConnectTimeout):
                    error = f"no connection within {CONNECT_SECONDS:g} s"
                attempts = self.retries.attempts_out_of_time
            except RefusedError as failure:
                if option := self._refused_option(failure, sent):
                    refused[option] = self._refusal(failure, option, sent[option])
                    continue
                error = self._judge(failure)
                after = failure.after
                if failure.status == 429:
                    attempts = self.retries.attempts_rate_limited
            except openai.APIConnectionError as failure:
                error = f"the connection failed ({self._cause(failure)})"
            except UnreadableReplyError as failure:
                error = f"no chat completion ({failure})"
                attempts = self.retries.attempts_unreadable
                self._unreadable += 1
                if self._unreadable >= self.retries.unreadable_in_a_row:
                    self._end(f"{self.address}: nothing but unreadable answers; the last was {failure}")
            else:
                self._learn(refused)
                self._answered, self._unreadable, self._given_up = True, 0, 0
                return replies, sent
            if attempt >= attempts:
                self._give_up(error, attempt)
            await self._wait(after, attempt)

    async def _post(self, sent: dict[str, Any]) -> bytes:
        try:
            # The client's typed call would spend more time on a request than all the rest here.
            response = await self._client.post("/chat/completions", cast_to=httpx2.Response, body=sent)
        except openai.APIStatusError as failure:
            headers = failure.response.headers
            raise refused_by_status(failure.status_code, failure.body, failure.message, headers) from None
        return response.content

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
            self._end(f"{self.address}: {error}, {attempts} times over; is the server up?")
        raise RequestError(error, final=False)

    async def _wait(self, after: float | None, attempt: int) -> None:
        pause = min(MAX_PAUSE, self.retries.pause * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause if after is None else after)

    def _judge(self, failure: RefusedError) -> str:
        """What went wrong, where it may pass; raises where asking again is no use."""
        status, inside = failure.status, failure.inside
        error = f"status {status}: {glimpse(self._scrub(failure.words))}"
        # What no request will get past.
        if status == 402 or failure.code in NO_CREDIT:
            self._end(f"{self.address}: no credit is left ({error}); top it up, the same command goes on from here")
        if status == 401 or (status == 403 and not inside):
            self._end(f"{self.address}: the key was refused ({error}); check --base-url, or set OPENAI_API_KEY")
        if status == 404 and not inside:
            fix = f"is there a model {self.model!r} there, and is --base-url right (most end in /v1)?"
            self._end(f"{self.address} refuses model {self.model!r} ({error}); {fix}")
        after = failure.after
        if after is not None and after > MAX_RETRY_AFTER:
            self._end(f"{self.address}: asks to come back in {after / 60:.0f} minutes ({error})")
        # What may pass.
        if status in (408, 409, 429) or status >= 500:
            return error
        # Refused for what the request says. Where that is all the server ever says, the mistake is not one problem's.
        self._refused += 1
        if not self._answered and self._refused >= self.retries.refused_at_first:
            self._end(f"{self.address}: refuses every request ({error})")
        raise RequestError(error, final=True)

    def _refused_option(self, failure: RefusedError, sent: Mapping[str, Any]) -> str | None:
        """The option of a request that the server refuses, by its name or by words that have it."""
        if failure.status not in (400, 422):
            return None
        if failure.param:
            name = failure.param.split(".")[0]
            return name if name in sent and name in self.refusable else None
        words = self._scrub(failure.words)
        named = (name for name, words_of in self.refusable.items() if name in sent and words_of.search(words))
        return next(named, None)

    def _refusal(self, failure: RefusedError, option: str, value: Any) -> Refusal:
        words = self._scrub(failure.words)
        too_large = "context" in words or "too large" in words
        instead = "max_completion_tokens" if option == "max_tokens" and not too_large else None
        # A limit that is refused says nothing on lower ones.
        lowest = value if option in LIMITS and isinstance(value, int) else None
        return Refusal(instead, lowest, glimpse(words))

    def _learn(self, refused: Mapping[str, Refusal]) -> None:
        """Believe what an accepted request was sent without."""
        for option, refusal in refused.items():
            # Several requests under way are refused for the same: it is said once.
            if self.on_refusal and option not in self._replaced and not refusal.instead:
                self.on_refusal(option, refusal.words)
            self._replaced[option] = refusal

    def _read(self, content: bytes) -> list[Reply]:
        replies = read_replies(content, self.prices, self._scrub)
        usage = self.usage
        usage.prompt_tokens += sum(reply.prompt_tokens for reply in replies)
        usage.completion_tokens += sum(reply.completion_tokens for reply in replies)
        if self.prices:
            usage.cost = (usage.cost or 0.0) + sum(reply.cost or 0.0 for reply in replies)
        return replies

    def _cause(self, failure: Exception) -> str:
        cause: BaseException = failure
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return glimpse(self._scrub(f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__))

    def _scrub(self, text: str) -> str:
        """Without secrets. Give it whole texts: what is cut first may keep half a key that is not found any more."""
        for secret in self._secrets:
            text = secret.sub("[key]", text)
        return text


@dataclass(frozen=True, slots=True)
class Refusal:
    """An option that a server refuses: by what it is said instead, the value that was refused where lower ones may not
    be, and the server's words."""

    instead: str | None
    lowest: int | None
    words: str


def address_of(base_url: str) -> str:
    """An address as it may be printed and stored: without a user, a password or a query in it."""
    return re.sub(r"^(\w+://)?.*@", r"\1", base_url, flags=re.DOTALL).partition("?")[0]


def _as_written(secret: str) -> re.Pattern[str]:
    """A secret as a text may hold it: each character itself or escaped, as in JSON within an answer."""
    return re.compile("".join(rf"\\?(?:{re.escape(c)}|(?i:u{ord(c):04x}))" for c in secret))


def _adapted(body: Mapping[str, Any], refusals: Mapping[str, Refusal]) -> dict[str, Any]:
    adapted = dict(body)
    for option, refusal in refusals.items():
        if refusal.lowest is not None and adapted.get(option, 0) < refusal.lowest:
            continue
        value = adapted.pop(option, None)
        if refusal.instead and value is not None:
            adapted[refusal.instead] = value
    return adapted


class _BoundedTransport(httpx2.AsyncHTTPTransport):
    """Ends responses that are longer than any answer, whatever their status."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        # Asked for none, some servers compress. It is unpacked here, where the bytes that it unfolds into are counted.
        packing = response.headers.pop("content-encoding", "identity").lower()
        if packing not in ("identity", "gzip", "deflate"):
            await response.aclose()
            raise httpx2.ReadError(f"an answer packed as {glimpse(packing)}, which was not asked for")
        response.stream = _BoundedStream(response.stream, unpack=packing != "identity")
        return response


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, *, unpack: bool) -> None:
        self._stream = stream
        self._unpacker = zlib.decompressobj(wbits=47) if unpack else None  # either of the two headers

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            if self._unpacker:
                try:
                    chunk = self._unpacker.decompress(chunk, MAX_BYTES - size + 1)
                except zlib.error as error:
                    raise httpx2.ReadError(f"an answer that cannot be unpacked ({error})") from None
            size += len(chunk)
            if size > MAX_BYTES:
                raise httpx2.ReadError(f"an answer of more than {MAX_BYTES:,} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
