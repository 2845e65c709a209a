"""Text that a model wrote, made fit to be shown: what cannot be seen or disturbs the page becomes a visible sign.

Escaping for HTML is the template's part; this is about characters that HTML cannot hold (NUL, lone surrogates) or that
act on the text around them (control characters, right-to-left overrides).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, except tab and line feed
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"  # direction marks, overrides, isolates, zero width
    "\u2028\u2029"  # line separators
    "\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"  # lone surrogates, noncharacters
)


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures: ␀ ␁ ...
    if code == 0x7F:
        return "\u2421"
    if 0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code >= 0xFFFE:
        return "\ufffd"
    return f"[U+{code:04X}]"


def visible_text(text: str) -> str:
    """`text` with every unfit character replaced by a sign for it. Line feeds and tabs stay, CR LF becomes LF."""
    return _UNFIT.sub(_sign, text.replace("\r\n", "\n"))


def visible(value: Any) -> Any:
    """`visible_text` for every string inside a JSON value, keys included."""
    if isinstance(value, str):
        return visible_text(value)
    if isinstance(value, dict):
        return {visible_text(key): visible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [visible(item) for item in value]
    return value


def shorten(text: str, *, head: int, tail: int) -> str:
    """The first `head` and last `tail` characters, with a line between that says how much was left out."""
    if len(text) <= head + tail:
        return text
    return f"{text[:head]}\n[… {len(text) - head - tail:,} characters left out …]\n{text[len(text) - tail :]}"


def distinct_names(paths: Sequence[Sequence[str]]) -> list[str]:
    """The shortest trailing parts of paths (as parts) that tell them apart: `a/sgpo`, `b/sgpo`."""
    longest = max((len(parts) for parts in paths), default=1)
    for depth in range(1, longest + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(parts[-1:])} ({number})" for number, parts in enumerate(paths, start=1)]
