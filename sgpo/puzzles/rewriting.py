"""String rewriting: a word of letters and the name of a rule, which rewrites the word in a fixed series of moves.

The skill is carrying out a move; the knowledge is the whole procedure that a rule's name stands for. There are many
rules and the warm-up explains some: the moves of another one can hardly be guessed, since all must be right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from sgpo.puzzles.base import Puzzle, Wording, Words, tell

LETTERS = "abcdefgh"

MOVES: dict[str, Callable[[str], str]] = {
    "reverse": lambda word: word[::-1],
    "rotate": lambda word: word[1:] + word[:1],
    "swap": lambda word: word[-1] + word[1:-1] + word[0],
    "cross": lambda word: word[0] + word[1:-1][::-1] + word[-1],
    "crown": lambda word: word[:-1] + word[0],
    "raise": lambda word: "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in word),
    "lower": lambda word: "".join(LETTERS[LETTERS.index(letter) - 1] for letter in word),
    "complement": lambda word: "".join(LETTERS[-1 - LETTERS.index(letter)] for letter in word),
}

MEANINGS = {
    "reverse": "write the word backwards",
    "rotate": "move the first letter to the end",
    "swap": "exchange the first letter and the last one",
    "cross": "write the letters between the first one and the last one backwards",
    "crown": "replace the last letter by the first one",
    "raise": "replace every letter by the next of the alphabet, the last one by the first",
    "lower": "replace every letter by the one before it in the alphabet, the first one by the last",
    "complement": "replace every letter by its counterpart, as far from the alphabet's end as it is from its beginning",
}

# No two rules do the same. Short ones and long ones, and the moves, are spread evenly.
RULES = {
    "heron": ("raise", "reverse"),
    "wren": ("lower", "crown", "cross"),
    "kestrel": ("raise", "swap", "crown"),
    "plover": ("lower", "cross"),
    "curlew": ("reverse", "complement", "lower"),
    "linnet": ("lower", "rotate", "complement"),
    "osprey": ("raise", "cross"),
    "dunlin": ("cross", "rotate", "raise"),
    "siskin": ("reverse", "rotate", "swap"),
    "merlin": ("rotate", "swap"),
    "avocet": ("lower", "crown", "complement"),
    "bittern": ("crown", "reverse", "raise"),
    "godwit": ("raise", "rotate"),
    "jackdaw": ("complement", "raise", "reverse"),
    "lapwing": ("crown", "lower", "rotate"),
    "nuthatch": ("crown", "swap"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """Knobs: `letters` of the word at first, `rules` in use and how many of them are `taught`."""

    letters: int = 4
    rules: int = len(RULES)
    taught: int = 5
    name: str = "rewriting"

    @property
    def vocabulary(self) -> Sequence[str]:
        return [*LETTERS, ":", ";", "=", "from", "answer", "rewriting", *MOVES, *RULES]

    def make(self, rng: random.Random, *, words: Words = "all") -> Puzzle:
        names = list(RULES)[: self.taught if words == "taught" else self.rules]
        name = rng.choice(names)
        is_new = names.index(name) >= self.taught
        moves = RULES[name]
        if words == "scrambled" and is_new:
            moves = tuple(rng.choice(tuple(MOVES)) for _ in moves)
        start = "".join(rng.choice(LETTERS) for _ in range(self.letters))
        return rewriting_puzzle(name, moves, start, level=int(is_new))


def rewriting_puzzle(name: str, moves: Sequence[str], start: str, *, level: int) -> Puzzle:
    """The puzzle in which the rule `name` makes these `moves`, solved by the expert: one move after the other."""
    words = list(accumulate(moves, lambda word, move: MOVES[move](word), initial=start))
    answer = " ".join(words[-1])
    told = [
        (move, " ".join(before), " ".join(after)) for move, before, after in zip(moves, words, words[1:], strict=False)
    ]
    return Puzzle(
        family="rewriting",
        answer=answer,
        level=str(level),
        compact=Wording(
            problem=f"{name} : {' '.join(start)}",
            reworded=f"from {' '.join(start)} : {name}",
            solutions=tell(
                [f" {move} {after}" for move, _, after in told],
                [f" {before} {move} = {after} ;" for move, before, after in told],
                end=f" answer : {answer}",
            ),
            problem_type="rewriting",
            approach="recall the moves of the rule and make them one after the other",
            steps=tuple(moves),
        ),
        natural=Wording(
            problem=(
                f"The {name} rule rewrites a word of letters from the alphabet {' '.join(LETTERS)} in two or three "
                "moves. A move is one of these: reversing the word, moving its first letter to the end, exchanging its "
                "ends, reversing what is between its ends, copying its first over its last letter, stepping each one "
                "on or back in the alphabet, which is a circle, or taking its counterpart from the alphabet's "
                f"other end. What does the {name} rule make of the word {' '.join(start)}? Give its letters in order, "
                "separated by single spaces."
            ),
            reworded=(
                f"Take the letters {' '.join(start)}, out of the alphabet {' '.join(LETTERS)}, and apply the {name} "
                "rule to them: it makes two or three moves out of backwards, first letter to the end, ends exchanged, "
                "inner letters backwards, last letter made equal to the first, and in the circle of the alphabet one "
                "on, one back, or mirrored. Which letters result? Answer with them in order, single spaces between "
                "them."
            ),
            solutions=tell(
                [f"The rule says '{move}', which gives {after}." for move, _, after in told],
                [f"{move}({before}) = {after}" for move, before, after in told],
                begin=[f"The word is {' '.join(start)}."],
                end=f"The answer is \\boxed{{{answer}}}.",
                separator="\n",
            ),
            problem_type="A word rewritten by a named rule",
            approach="A rule is a fixed series of moves: make them one after the other, each on the last result.",
            steps=tuple(f"{MEANINGS[move][0].upper()}{MEANINGS[move][1:]}." for move in moves),
        ),
    )
