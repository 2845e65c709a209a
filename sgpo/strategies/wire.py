"""What comes over the wire from a strong model: bounded in size, read with suspicion."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

MAX_BYTES = 16 * 2**20  # of one response; endless ones end here, or at the time-out


class UnreadableReplyError(Exception):
    """A success by its status, but no chat completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The text of one choice, with its share of the request's tokens and cost (None: no prices were given)."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """In the currency of your choice, per million tokens."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


def read_answers(content: bytes, prices: Prices | None) -> list[Answer]:
    """The answers of a chat completion, one per choice; an empty text where a choice has none.

    Raises UnreadableReplyError for anything else: an HTML page, an error with status 200, half a reply.
    """
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        raise UnreadableReplyError(f"no JSON: {glimpse(content)!r}") from None
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list):
        raise UnreadableReplyError(f"no chat completion: {glimpse(content)!r}")
    texts = [_choice_text(choice) for choice in choices] or [""]
    prompt_tokens, completion_tokens = _token_counts(reply.get("usage"), len(content))
    cost = prices.cost(prompt_tokens, completion_tokens) / len(texts) if prices else None
    return [
        Answer(
            text=text,
            prompt_tokens=_share(prompt_tokens, i, len(texts)),
            completion_tokens=_share(completion_tokens, i, len(texts)),
            cost=cost,
        )
        for i, text in enumerate(texts)
    ]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait: `retry-after-ms`, or `Retry-After` as seconds or as a date."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        value = headers.get("retry-after", "")
        try:
            return max(0.0, float(value))
        except ValueError:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def glimpse(content: bytes | str) -> str:
    """The beginning of a text, on one line."""
    text = content if isinstance(content, str) else content[:2000].decode("utf-8", "replace")
    text = " ".join(text[:2000].split())
    return text if len(text) <= 200 else text[:200] + "..."


class BoundedTransport(httpx2.AsyncHTTPTransport):
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


def _choice_text(choice: Any) -> str:
    message = choice.get("message") if isinstance(choice, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        return ""
    return content.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be stored


def _token_counts(usage: Any, size: int) -> tuple[int, int]:
    """The tokens a server reports; where it reports none, a quarter of the answer's bytes, so that a budget holds."""
    if isinstance(usage, dict):
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(completion, int) and prompt >= 0 and completion >= 0:
            return prompt, completion
    return 0, size // 4


def _share(total: int, i: int, parts: int) -> int:
    return total // parts + (i < total % parts)
