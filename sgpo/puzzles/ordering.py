"""Ordering by clues: who stands before whom in a row. Several rows are right, and there are two ways to build one.

The skill is placing one after the other so that every clue holds; the knowledge is which way a clue's word points. A
newcomer may be placed at an end of the row or beside the one that the clue names: both are right, in each step anew.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sgpo.puzzles.base import Puzzle, Wording, Words, tell
from sgpo.verifier.extract import last_box
from sgpo.verifier.kinds import plain_text

PEOPLE = "abcdefgh"

WORDS = {
    "before": ("ahead", "preceding", "leading", "heralding"),
    "after": ("behind", "following", "trailing", "pursuing"),
}

Style = Literal["ends", "beside"]

PLACING = {
    ("before", "ends"): "put the newcomer at the front of the row",
    ("after", "ends"): "put the newcomer at the back of the row",
    ("before", "beside"): "put the newcomer directly before the one the clue names",
    ("after", "beside"): "put the newcomer directly after the one the clue names",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """Knobs: `clues` (how many, at least and at most), the `styles` of the expert, `taught` words per direction."""

    clues: tuple[int, int] = (2, 4)
    styles: tuple[Style, ...] = ("ends", "beside")
    taught: int = 1
    name: str = "ordering"

    @property
    def vocabulary(self) -> Sequence[str]:
        return [
            *PEOPLE,
            ",",
            ";",
            "=",
            "answer",
            "ordering",
            *WORDS,
            *(word for words in WORDS.values() for word in words),
        ]

    def make(self, rng: random.Random, *, words: Words = "all") -> Puzzle:
        people = rng.sample(PEOPLE, rng.randint(*self.clues) + 1)
        clues = []
        level = 0
        for i, newcomer in enumerate(people[1:], start=1):
            direction = rng.choice(tuple(WORDS))
            word = rng.choice(WORDS[direction][: self.taught] if words == "taught" else WORDS[direction])
            is_new = word not in WORDS[direction][: self.taught]
            level += is_new
            if words == "scrambled" and is_new:
                direction = rng.choice(tuple(WORDS))
            clues.append(Clue(newcomer=newcomer, direction=direction, known=rng.choice(people[:i]), word=word))
        return ordering_puzzle(clues, rng.choice(self.styles), level=level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clue:
    """`newcomer` stands in `direction` (before or after) of `known`, who was named already; `word` says so."""

    newcomer: str
    direction: str
    known: str
    word: str

    @property
    def pair(self) -> tuple[str, str]:
        """(who stands earlier, who stands later)."""
        return (self.newcomer, self.known) if self.direction == "before" else (self.known, self.newcomer)


def ordering_puzzle(clues: Sequence[Clue], style: Style, *, level: int) -> Puzzle:
    """The puzzle of these clues, solved by the expert in that style: one newcomer after the other."""
    rows = [[clues[0].known]]
    for clue in clues:
        rows.append(place(clue, rows[-1], style))
    told = [
        (clue, " ".join(before), " ".join(after)) for clue, before, after in zip(clues, rows, rows[1:], strict=False)
    ]
    final = " ".join(rows[-1])
    return Puzzle(
        family="ordering",
        # What the check reads: every pair that must stand in this order.
        answer=" , ".join("{} < {}".format(*clue.pair) for clue in clues),
        kind=f"{__name__}:{check.__name__}",
        level=str(level),
        compact=Wording(
            problem=" , ".join(f"{clue.newcomer} {clue.word} {clue.known}" for clue in clues),
            reworded=" , ".join(f"{clue.newcomer} {clue.known} {clue.word}" for clue in clues),
            solutions=tell(
                [f" {clue.direction} {after}" for clue, _, after in told],
                [f" {before} {clue.direction} = {after} ;" for clue, before, after in told],
                end=f" answer : {final}",
            ),
            problem_type="ordering",
            approach="place one newcomer after the other so that each clue holds",
            steps=tuple(clue.direction for clue in clues),
        ),
        natural=Wording(
            problem=(
                f"{', '.join(sorted(rows[-1]))} stand in a row. Each clue names two of them, and its word says whether "
                "the first one named stands somewhere before or somewhere after the second: "
                f"{'; '.join(f'{clue.newcomer} {clue.word} {clue.known}' for clue in clues)}. Give one order of the "
                "row, from first to last, that fits all clues, separated by single spaces."
            ),
            reworded=(
                f"Find a queue for {', '.join(sorted(rows[-1]))}. What is known of pairs, where a word tells on which "
                "side of the second one the first one is, near or far: "
                f"{'. '.join(f'{clue.newcomer} is {clue.word} {clue.known}' for clue in clues)}. Answer with any queue "
                "for which all this is true, from its head to its end, single spaces between the letters."
            ),
            solutions=tell(
                [
                    f"'{clue.word}' means {clue.direction}: placing {clue.newcomer} gives {after}."
                    for clue, _, after in told
                ],
                [f"{clue.direction}({before}, {clue.newcomer}) = {after}" for clue, before, after in told],
                begin=[f"Begin with {rows[0][0]} alone."],
                end=f"The answer is \\boxed{{{final}}}.",
                separator="\n",
            ),
            problem_type="A row to be ordered by clues about pairs",
            approach="Start with one and place the newcomer of each clue in turn, so that the clue holds at once.",
            steps=tuple(
                f"The next clue says that its newcomer stands {clue.direction} the one already placed: "
                f"{PLACING[clue.direction, style]}."
                for clue in clues
            ),
        ),
    )


def place(clue: Clue, row: Sequence[str], style: Style) -> list[str]:
    """The row with the newcomer in it; clues that held before still hold."""
    if style == "ends":
        at = 0 if clue.direction == "before" else len(row)
    else:
        at = row.index(clue.known) + (clue.direction == "after")
    return [*row[:at], clue.newcomer, *row[at:]]


def check(completion: str, answer: str) -> bool:
    """Whether a completion ends in a row that fits `answer`, the pairs that must stand in order (`a < b , c < a`).

    The row is what the last box holds or, without one, what follows the last "answer".
    """
    pairs = [tuple(pair.split(" < ")) for pair in answer.split(" , ")]
    box = last_box(completion)
    row = plain_text(completion.rpartition("answer :")[2] if box is None else box).split()
    return sorted(row) == sorted({person for pair in pairs for person in pair}) and all(
        row.index(earlier) < row.index(later) for earlier, later in pairs
    )
