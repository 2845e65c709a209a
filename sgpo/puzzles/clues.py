"""Clue words: a list of digits and words, each of which stands for an operation on the whole list.

The skill is carrying an operation out; the knowledge is which operation a word means. Each operation has several clue
words and the warm-up explains the first ones only, so an unexplained word can be solved with a strategy, by luck, or
by learning.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from sgpo.puzzles.base import Puzzle, Wording, Words, tell

Digits = tuple[int, ...]

OPERATIONS: dict[str, Callable[[Digits], Digits]] = {
    "reverse": lambda digits: digits[::-1],
    "rotate": lambda digits: digits[1:] + digits[:1],
    "swap": lambda digits: (digits[-1], *digits[1:-1], digits[0]),
    "raise": lambda digits: tuple((digit + 1) % 10 for digit in digits),
    "lower": lambda digits: tuple((digit - 1) % 10 for digit in digits),
    "double": lambda digits: tuple(2 * digit % 10 for digit in digits),
    "halve": lambda digits: tuple(digit // 2 for digit in digits),
    "complement": lambda digits: tuple(9 - digit for digit in digits),
}

# What an operation does, in words without a digit: the natural form's strategies.
MEANINGS = {
    "reverse": "reverse the order of the list",
    "rotate": "move the first digit to the end",
    "swap": "exchange the first digit and the last one",
    "raise": "raise every digit by one, the highest digit wrapping round to zero",
    "lower": "lower every digit by one, zero wrapping round to the highest digit",
    "double": "double every digit and keep the last digit of each result",
    "halve": "halve every digit and drop the remainder",
    "complement": "replace every digit by what it lacks to the highest digit",
}

WORDS = {
    "reverse": ("backward", "flip", "mirror", "overturn"),
    "rotate": ("cycle", "roll", "wheel", "spin"),
    "swap": ("exchange", "trade", "barter", "switch"),
    "raise": ("bump", "hoist", "lift", "nudge"),
    "lower": ("sink", "drop", "reduce", "descend"),
    "double": ("twice", "twofold", "duplicate", "pair"),
    "halve": ("half", "split", "bisect", "share"),
    "complement": ("opposite", "counter", "antipode", "contrast"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clues:
    """Knobs: `clues` (how many, at least and at most), `digits` of the list, `taught` words per operation."""

    clues: tuple[int, int] = (2, 4)
    digits: int = 4
    taught: int = 2
    name: str = "clues"

    @property
    def vocabulary(self) -> Sequence[str]:
        symbols = (*"0123456789", ":", ";", "=", "then", "from")
        return [*symbols, "answer", "clues", *OPERATIONS, *(word for words in WORDS.values() for word in words)]

    def make(self, rng: random.Random, *, words: Words = "all") -> Puzzle:
        chain = [self._draw_clue(rng, words) for _ in range(rng.randint(*self.clues))]
        start = tuple(rng.randrange(10) for _ in range(self.digits))
        return clue_puzzle(chain, start, level=sum(self._is_new(word, operation) for word, operation in chain))

    def _draw_clue(self, rng: random.Random, words: Words) -> tuple[str, str]:
        operation = rng.choice(tuple(OPERATIONS))
        word = rng.choice(WORDS[operation][: self.taught] if words == "taught" else WORDS[operation])
        if words == "scrambled" and self._is_new(word, operation):
            operation = rng.choice(tuple(OPERATIONS))
        return word, operation

    def _is_new(self, word: str, operation: str) -> bool:
        return word not in WORDS[operation][: self.taught]


def clue_puzzle(chain: Sequence[tuple[str, str]], start: Digits, *, level: int) -> Puzzle:
    """The puzzle of these (word, operation) pairs, solved by the expert: one operation after the other."""
    words, operations = [word for word, _ in chain], [operation for _, operation in chain]
    lists = list(accumulate(operations, lambda digits, name: OPERATIONS[name](digits), initial=start))
    answer = spaced(lists[-1])
    told = [
        (word, name, spaced(before), spaced(after))
        for word, name, before, after in zip(words, operations, lists, lists[1:], strict=False)
    ]
    return Puzzle(
        family="clues",
        answer=answer,
        level=str(level),
        compact=Wording(
            problem=f"{' '.join(words)} : {spaced(start)}",
            reworded=f"{' then '.join(words)} from {spaced(start)}",
            solutions=tell(
                [f" {name} {after}" for _, name, _, after in told],
                [f" {before} {name} = {after} ;" for _, name, before, after in told],
                end=f" answer : {answer}",
            ),
            problem_type="clues",
            approach="name the operation behind each clue and carry it out",
            steps=tuple(operations),
        ),
        natural=Wording(
            problem=(
                f"Start with the list of digits {spaced(start)} and follow these clues in order: {', '.join(words)}. "
                "Each clue stands for one operation on the whole list: reversing it, moving its first digit to the "
                "end, exchanging its ends, raising, lowering, doubling or halving every digit, or complements to nine; "
                "digits wrap round after 9. Which list is left at the end? Give its digits in order, separated by "
                "single spaces."
            ),
            reworded=(
                f"Somebody changes a list of digits step by step and notes one word for each step: {'; '.join(words)}. "
                "Every word is a hint at one of these: backwards, first digit to the end, ends exchanged, one up, one "
                "down, twice, half without remainder, nine minus the digit (of results, the last digit counts). The "
                f"list was {spaced(start)} in the beginning. What is it after the last step? Answer with its digits in "
                "order, single spaces between them."
            ),
            solutions=tell(
                [f"'{word}' stands for '{name}', which gives {after}." for word, name, _, after in told],
                [f"{name}({before}) = {after}" for _, name, before, after in told],
                begin=[f"The list is {spaced(start)}."],
                end=f"The answer is \\boxed{{{answer}}}.",
                separator="\n",
            ),
            problem_type="A chain of list operations, each named by a clue word",
            approach="Find the operation behind each clue, then carry them out one after the other on the whole list.",
            steps=tuple(f"{MEANINGS[name][0].upper()}{MEANINGS[name][1:]}." for name in operations),
        ),
    )


def spaced(digits: Digits) -> str:
    """Digits as a problem shows them: `3 1 4 2`."""
    return " ".join(map(str, digits))
