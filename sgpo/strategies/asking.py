"""A question to the strong model whose answers must be usable: what is not is asked again, at most twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from sgpo.prompts import ask_again_prompt
from sgpo.strategies.reading import UnusableAnswerError
from sgpo.strategies.strong_model import Sampling, Schema, StrongModel
from sgpo.strategies.wire import Answer

T = TypeVar("T")

TIMES = 3


@dataclass(frozen=True, slots=True)
class Usable(Generic[T]):
    """What an answer says, and the answer."""

    value: T
    answer: Answer


@dataclass(frozen=True, slots=True)
class Replies(Generic[T]):
    """The answers that can be used, and of those that could not: how many, why the last one, and its text."""

    usable: list[Usable[T]]
    unusable: int
    error: str | None
    raw: str | None


async def ask(
    model: StrongModel,
    prompt: str,
    n: int,
    *,
    sampling: Sampling,
    schema: Schema | None,
    read: Callable[[str], T],
) -> Replies[T]:
    """Up to `n` usable answers. `read` raises UnusableAnswerError for others, which are asked for again, saying why.

    Raises what `StrongModel.sample` raises.
    """
    usable: list[Usable[T]] = []
    unusable, error, raw = 0, None, None
    question = prompt
    for time in range(TIMES):
        missing = n - len(usable)
        for answer in await model.sample(question, missing, sampling=sampling, schema=schema, draw=time * n):
            try:
                usable.append(Usable(read(answer.text), answer))
            except UnusableAnswerError as failure:
                unusable, error, raw = unusable + 1, str(failure), answer.text
        if len(usable) >= n:
            break
        question = ask_again_prompt(prompt, error or "it was empty")
    return Replies(usable, unusable, error, raw)
