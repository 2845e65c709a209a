"""The ranking of a strategy by the strong model: four whole numbers from 1 to 5, in a request of its own."""

from __future__ import annotations

from collections.abc import Sequence

from sgpo.prompts import rank_prompt
from sgpo.strategies.asking import Usable, ask
from sgpo.strategies.reading import ScoresAnswer, read_answer
from sgpo.strategies.strategy import Scores, Strategy
from sgpo.strategies.strong_model import Sampling, Schema, StrongModel

SAMPLING = Sampling(temperature=0.0)

_SCORE = {"type": "integer", "enum": [1, 2, 3, 4, 5]}
_CRITERIA = ("faithful", "general", "actionable", "leak_free")
SCHEMA = Schema(
    name="scores",
    schema={
        "type": "object",
        "properties": dict.fromkeys(_CRITERIA, _SCORE),
        "required": list(_CRITERIA),
        "additionalProperties": False,
    },
)


async def rank(model: StrongModel, problem: str, solution: str, strategy: Strategy) -> Usable[Scores] | None:
    """The scores of a strategy; None where the model gave none that could be used."""
    replies = await ask(
        model, rank_prompt(problem, solution, strategy), 1, sampling=SAMPLING, schema=SCHEMA, read=_read
    )
    return replies.usable[0] if replies.usable else None


def best(strategies: Sequence[Strategy]) -> Strategy | None:
    """The strategy with the highest total among those without a leak, without a floor; the first of equals.

    One that could not be ranked comes after all that could.
    """
    clean = [strategy for strategy in strategies if strategy.leaks == ()]
    return max(clean, key=lambda strategy: strategy.scores.total if strategy.scores else 0, default=None)


def _read(text: str) -> Scores:
    return Scores(**read_answer(text, ScoresAnswer).model_dump())
