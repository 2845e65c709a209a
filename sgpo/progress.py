"""How far a long piece of work has come: whoever does it tells, and one listener shows it.

It is told in places that know nothing of each other (an engine's tokens, the verifier's workers, the parts of a
forward), so there is one listener for the process, and without one nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
# What is done, how much of it is done, of how much, and a word more.
Listener = Callable[[str, int, int, str], None]

_listener: Listener | None = None


def listen(listener: Listener | None) -> None:
    """Let `listener` be told from now on, in place of whoever was before; None: nobody."""
    global _listener
    _listener = listener


def tell_progress(what: str, done: int, total: int, more: str = "") -> None:
    """Tell the listener that `done` of `total` are done."""
    if _listener is not None:
        _listener(what, done, total, more)


def told(what: str, items: Sequence[T]) -> Iterator[T]:
    """Yield the items, and tell how many of them are done."""
    for done, item in enumerate(items):
        tell_progress(what, done, len(items))
        yield item
    tell_progress(what, len(items), len(items))
