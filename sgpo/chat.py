"""What a server of the OpenAI chat protocol answers, read with suspicion: replies, errors, and when to come back."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from sgpo.io import printable

MAX_COUNT = 10**12  # tokens of one request; a server that reports more reports nothing
TEXT_PARTS = (None, "text", "output_text")  # of a message in parts; the others are reasoning, images, tools
STATED_REFUSAL = re.compile("invalid_request|context_length|content_filter|content_policy")


class UnreadableReplyError(Exception):
    """A success by its status, but no chat completion."""


@dataclass(slots=True)
class RefusedError(Exception):
    """The server answered with an error: by its status or, with `inside`, within a success.

    `words` are the server's, whole; `param` is the option that it names, `after` the seconds that it asks to wait.
    """

    status: int
    words: str
    code: str | None = None
    param: str | None = None
    after: float | None = None
    inside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The text of one choice, with its part of the request's tokens and cost (None: no prices were given).

    `counted`: the server reported the tokens, they are no estimate. `has_message`: the choice had one, even if empty.
    `finish_reason` and `refusal` are the server's. `left_to_server`: sampling options that it refused to be told.
    `cached`: answered to an earlier request.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cost: float | None = None
    finish_reason: str | None = None
    refusal: str | None = None
    left_to_server: tuple[str, ...] = ()
    counted: bool = True
    has_message: bool = True
    cached: bool = False

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"

    @property
    def ending(self) -> str:
        """How it ended, to be said behind what is wrong with it; empty where the server says nothing but `stop`."""
        reason = "" if self.finish_reason in (None, "stop") else f" (finish_reason {glimpse(self.finish_reason)})"
        return f"{reason}; the model refused: {glimpse(self.refusal)}" if self.refusal else reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """In the currency of your choice, per million tokens."""

    prompt: float
    completion: float


def read_replies(content: bytes, prices: Prices | None, scrub: Callable[[str], str]) -> list[Reply]:
    """The replies of a chat completion, one per choice; an empty text where a choice has none.

    Args:
        content: The body of a success.
        prices: To count what is paid.
        scrub: Takes secrets out of a text. It sees every text whole: a secret that is cut is not found any more.

    Raises:
        RefusedError: An error with the status of a success.
        UnreadableReplyError: Anything else: an HTML page, half a completion.
    """
    try:
        completion = json.loads(content)
    except (ValueError, RecursionError):
        shown = glimpse(scrub(content.decode("utf-8", "replace")))
        raise UnreadableReplyError(f"no JSON: {shown!r}") from None
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(choices, list):
        if isinstance(completion, dict) and (error := completion.get("error")):
            raise _error_inside(error)
        shown = glimpse(scrub(content.decode("utf-8", "replace")))
        raise UnreadableReplyError(f"JSON without choices: {shown!r}")
    choices = choices or [None]
    counts = _token_counts(completion.get("usage"))
    # Where the server counts nothing, a quarter of the answer's bytes, so that a budget holds.
    prompt_tokens, completion_tokens = counts or (0, len(content) // 4)
    paid = (prompt_tokens * prices.prompt + completion_tokens * prices.completion) / 1e6 if prices else None
    return [
        Reply(
            text=scrub(text or ""),
            prompt_tokens=_part(prompt_tokens, i, len(choices)),
            completion_tokens=_part(completion_tokens, i, len(choices)),
            cost=None if paid is None else paid / len(choices),
            finish_reason=_word(choice, "finish_reason", scrub),
            refusal=_word(choice.get("message") if isinstance(choice, dict) else None, "refusal", scrub),
            counted=counts is not None,
            has_message=text is not None,
        )
        for i, choice in enumerate(choices)
        for text in [_choice_text(choice)]
    ]


def refused_by_status(status: int, body: Any, message: str, headers: Mapping[str, str]) -> RefusedError:
    """What the body of an error says, or the bare `message` where it says nothing."""
    error = body if isinstance(body, dict) else {}
    words = str(error.get("message") or body or message)
    return RefusedError(status, words, _name(error, "code"), _name(error, "param"), retry_after(headers))


def _error_inside(error: Any) -> RefusedError:
    """An error with the status of a success. One that gives no status may pass, as 500 may, unless it names a cause."""
    fields = error if isinstance(error, dict) else {"message": error}
    names = [str(fields.get(name)) for name in ("code", "status", "status_code", "type")]
    stated = [int(name) for name in names if name.isdecimal() and len(name) == 3 and 400 <= int(name) < 600]
    status = stated[0] if stated else 400 if any(STATED_REFUSAL.search(name) for name in names) else 500
    words = str(fields.get("message") or error)
    return RefusedError(status, words, _name(fields, "code"), _name(fields, "param"), inside=True)


def _name(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) else None


def _word(fields: Any, name: str, scrub: Callable[[str], str]) -> str | None:
    """A text that a server gives in a field, where it gives one."""
    value = fields.get(name) if isinstance(fields, dict) else None
    return _storable(scrub(value)) if isinstance(value, str) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait: `retry-after-ms`, or `Retry-After` as seconds or as a date.

    None where it says no number of seconds: nothing, `soon`, `inf`.
    """
    try:
        if milliseconds := headers.get("retry-after-ms"):
            seconds = float(milliseconds) / 1000
        else:
            value = headers.get("retry-after", "")
            is_date = value[:1].isalpha()
            seconds = parsedate_to_datetime(value).timestamp() - time.time() if is_date else float(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def glimpse(text: str) -> str:
    """The beginning of a text, on one line, without what would steer a terminal."""
    text = " ".join(printable(text[:2000]).split())
    return text if len(text) <= 200 else text[:200] + "..."


def _choice_text(choice: Any) -> str | None:
    """The text of a choice, empty where the model said nothing; None where there is no message."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or "content" not in message:
        return None
    content = message["content"]
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in TEXT_PARTS]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    if not isinstance(content, str):
        return "" if content is None else None
    return _storable(content)


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be stored


def _token_counts(usage: Any) -> tuple[int, int] | None:
    """The tokens of prompt and completion that a server reports; None where it reports none that can be."""
    try:
        counts = usage["prompt_tokens"], usage["completion_tokens"]
    except (TypeError, LookupError):
        return None
    return counts if all(type(count) is int and 0 <= count <= MAX_COUNT for count in counts) else None


def _part(total: int, i: int, parts: int) -> int:
    return total // parts + (i < total % parts)
