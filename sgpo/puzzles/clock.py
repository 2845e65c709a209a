"""Clock arithmetic: an hour, and moves on the circle of twelve hours, one after the other.

Every word of it is taught: the warm-up brings the skill, and reinforcement never touches it. So it measures retention:
what a policy still can after it was trained on other families.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from sgpo.puzzles.base import Puzzle, Wording, Words, tell

HOURS = 12  # counted from 0 to 11

# The words of the puzzles, the steps they call for, and the signs of these.
WORDS = {"later": "add", "earlier": "subtract"}
SIGNS = {"add": "+", "subtract": "-"}
MEANINGS = {
    "add": "Move on by the next number of hours; past the highest hour the count begins again at zero.",
    "subtract": "Move back by the next number of hours; before zero comes the highest hour.",
}

Move = tuple[str, int]  # a word and a number of hours: ("later", 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Knobs: `moves` (how many, at least and at most) and the `longest` move in hours."""

    moves: tuple[int, int] = (2, 4)
    longest: int = 3
    name: str = "clock"

    @property
    def vocabulary(self) -> Sequence[str]:
        return [*map(str, range(HOURS)), ":", ";", "=", "from", "answer", "clock", *WORDS, *SIGNS, *SIGNS.values()]

    def make(self, rng: random.Random, *, words: Words = "all") -> Puzzle:
        moves = [(rng.choice(tuple(WORDS)), rng.randint(1, self.longest)) for _ in range(rng.randint(*self.moves))]
        return clock_puzzle(rng.randrange(HOURS), moves)


def clock_puzzle(start: int, moves: Sequence[Move]) -> Puzzle:
    """The puzzle of these moves from the hour `start`, solved by the expert: one move after the other."""
    hours = list(accumulate(moves, _moved, initial=start))
    answer = str(hours[-1])
    steps = tuple(WORDS[word] for word, _ in moves)
    told = [
        (step, number, before, after)
        for step, (_, number), before, after in zip(steps, moves, hours, hours[1:], strict=False)
    ]
    listed = [f"{word} {number}" for word, number in moves]
    return Puzzle(
        family="clock",
        answer=answer,
        level="0",
        compact=Wording(
            problem=f"clock {start} : {' '.join(listed)}",
            reworded=f"{' '.join(listed)} from clock {start}",
            solutions=tell(
                [f" {before} {SIGNS[step]} {number} = {after} ;" for step, number, before, after in told],
                [f" {step} {after}" for step, _, _, after in told],
                end=f" answer : {answer}",
            ),
            problem_type="clock",
            approach="move round the circle of hours, one move after the other",
            steps=steps,
        ),
        natural=Wording(
            problem=(
                f"The hand of a clock with the hours 0 to 11 points at {start}. It moves to an hour "
                f"{', then '.join(f'{number} {word}' for word, number in moves)}. Which hour does it point at in the "
                "end? Give the number alone."
            ),
            reworded=(
                f"On a dial numbered from 0 to 11 a pointer is turned by these hours: {', '.join(listed)}. It began at "
                f"{start}. Where is it after that? Answer with the number alone."
            ),
            solutions=tell(
                [f"{before} {SIGNS[step]} {number} is {after} on the clock." for step, number, before, after in told],
                [f"{step}({before}, {number}) = {after}" for step, number, before, after in told],
                begin=[f"The hand points at {start}."],
                end=f"The answer is \\boxed{{{answer}}}.",
                separator="\n",
            ),
            problem_type="Moves on a circle of hours",
            approach="Follow the moves one after the other and keep to the hours of the clock after each.",
            steps=tuple(MEANINGS[step] for step in steps),
        ),
    )


def _moved(hour: int, move: Move) -> int:
    word, number = move
    return (hour + number if word == "later" else hour - number) % HOURS
