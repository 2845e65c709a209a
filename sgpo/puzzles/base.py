"""Families of puzzles, how their splits are drawn, and rows for a warm-up.

A family is a small frozen dataclass whose fields are its difficulty knobs and whose `make` draws one puzzle with its
solution and strategy. Each puzzle is written in two forms: `compact`, for the tiny policy's vocabulary of words, and
`natural`, for language models.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from sgpo.errors import InputError
from sgpo.problems import Problem
from sgpo.prompts import autonomous_prompt, guided_prompt
from sgpo.strategies import Strategy

Form = Literal["compact", "natural"]

# Which words a puzzle's clues are drawn from: all of them; those that the warm-up teaches; or all of them, where each
# untaught one has a meaning at random, so that a policy can learn nothing about it.
Words = Literal["all", "taught", "scrambled"]

# How the strong model's solutions are written: in the style that the warm-up teaches the policy; in it, but with every
# second step left out, as by one who does two at once; or in a notation that the policy knows from another family.
SolutionStyle = Literal["own", "leap", "foreign"]

# The fraction of all texts that belongs to each split. A puzzle's split is a hash of its text, so two splits never
# overlap, whatever the seeds and sizes: fresh puzzles are in no warm-up, not even that of another run.
SPLITS = {"warmup": 0.5, "train": 0.3, "validation": 0.1, "fresh": 0.1}

# So many draws in a row without a new puzzle of the split mean that the family's knobs leave too few puzzles.
MAX_DRAWS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """A puzzle, the expert's solutions and their strategy in one form.

    Example (compact): problem `flip hoist : 3 1 4 2`, solution ` reverse 2 4 1 3 raise 3 5 2 4 answer : 3 5 2 4`,
    problem_type `clues`, approach `name each operation`, steps `("reverse", "raise")`. A compact solution begins with
    a space, as completions of the tiny policy do: the space belongs to the word's token. `reworded` asks the same in
    other words.
    """

    problem: str
    reworded: str
    solutions: Mapping[SolutionStyle, str]
    problem_type: str
    approach: str
    steps: tuple[str, ...]

    @property
    def solution(self) -> str:
        """The solution in the policy's own style."""
        return self.solutions["own"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Puzzle:
    """One puzzle of a family. `level` counts the clues that the warm-up does not teach; `kind` as in `Problem`."""

    family: str
    answer: str
    level: str
    compact: Wording
    natural: Wording
    kind: str = "exact"

    @property
    def id(self) -> str:
        """The family and a hash of the text: the same puzzle has the same id in every run."""
        return f"{self.family}-{_digest(self.compact.problem) >> 24:010x}"

    @property
    def split(self) -> str:
        """The one split that this puzzle may be in."""
        point = _digest(self.compact.problem) % 10_000 / 10_000
        for split, fraction in SPLITS.items():
            if point < fraction:
                return split
            point -= fraction
        return split

    def wording(self, form: Form) -> Wording:
        """The puzzle in that form."""
        return self.compact if form == "compact" else self.natural

    def to_problem(self, form: Form = "compact", style: SolutionStyle = "own") -> Problem:
        """The puzzle as a problem, with the expert's solution in that style as the strong model's."""
        wording = self.wording(form)
        return Problem(
            id=self.id,
            problem=wording.problem,
            answer=self.answer,
            solution=wording.solutions[style],
            subject=self.family,
            level=self.level,
            source=__package__,
            kind=self.kind,
        )

    def to_strategy(self, form: Form = "compact") -> Strategy:
        """The expert's strategy for this puzzle."""
        wording = self.wording(form)
        return Strategy(
            problem_id=self.id,
            problem_type=wording.problem_type,
            approach=wording.approach,
            steps=wording.steps,
            strong_model=f"the expert of {self.family}",
        )


class Family(Protocol):
    """A family of puzzles."""

    @property
    def name(self) -> str: ...

    @property
    def vocabulary(self) -> Sequence[str]:
        """Every word of the compact form."""
        ...

    def make(self, rng: random.Random, *, words: Words = "all") -> Puzzle:
        """Draw a puzzle with clues from `words`."""
        ...


def tell(
    own: Sequence[str], foreign: Sequence[str], *, end: str, begin: Sequence[str] = (), separator: str = ""
) -> dict[SolutionStyle, str]:
    """Tell a solution in every style, from its steps in two notations. A leap keeps the last and every other step."""
    steps: dict[SolutionStyle, Sequence[str]] = {"own": own, "leap": own[::-1][::2][::-1], "foreign": foreign}
    return {style: separator.join([*begin, *told, end]) for style, told in steps.items()}


def draw_puzzles(
    family: Family,
    count: int,
    *,
    split: str,
    seed: int,
    words: Words = "all",
    keep: Callable[[Puzzle], bool] = lambda puzzle: True,
) -> list[Puzzle]:
    """Draw `count` different puzzles of one split, among those for which `keep` is true.

    The same arguments give the same puzzles.

    Raises:
        InputError: The split is unknown, or the family's knobs leave too few different puzzles.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}; there are: {', '.join(SPLITS)}")
    rng = random.Random(f"{family.name}/{split}/{words}/{seed}")
    return list(islice(_new_puzzles(family, rng, split=split, words=words, keep=keep), count))


def mix_puzzles(
    families: Sequence[Family],
    count: int,
    *,
    split: str,
    seed: int,
    words: Words = "all",
    keep: Callable[[Puzzle], bool] = lambda puzzle: True,
) -> list[Puzzle]:
    """Draw `count` puzzles in all, equally many of each family (the first ones get the rest), shuffled."""
    puzzles = [
        puzzle
        for family, number in zip(families, split_evenly(count, len(families)), strict=True)
        for puzzle in draw_puzzles(family, number, split=split, seed=seed, words=words, keep=keep)
    ]
    random.Random(seed).shuffle(puzzles)
    return puzzles


def warmup_rows(
    families: Sequence[Family],
    count: int,
    *,
    seed: int,
    guided_words: Words = "scrambled",
    reworded: float = 0.0,
    keep: Callable[[Puzzle], bool] = lambda puzzle: True,
) -> list[dict[str, str]]:
    """`count` rows `{"prompt", "completion"}` for a warm-up, shuffled, a third of each of three sorts.

    Autonomous prompts of taught words teach the skills and those words. Autonomous and guided ones in which every
    untaught word has a meaning at random teach to guess and to follow a strategy, and nothing about the words.

    Args:
        families: The families that take part.
        count: The number of rows.
        seed: The same seed gives the same rows.
        guided_words: With "all" the guided rows have the true meanings, and so teach some of them on the side.
        reworded: The fraction of rows in the other wording.
        keep: Which puzzles may occur.
    """
    rng = random.Random(seed)
    sorts: tuple[tuple[Words, bool], ...] = (("taught", False), ("scrambled", False), (guided_words, True))
    rows = []
    for (words, guided), number in zip(sorts, split_evenly(count, len(sorts)), strict=True):
        for puzzle in mix_puzzles(families, number, split="warmup", seed=seed + guided, words=words, keep=keep):
            wording = puzzle.compact
            problem = wording.reworded if rng.random() < reworded else wording.problem
            prompt = (
                guided_prompt(problem, wording, style="compact")
                if guided
                else autonomous_prompt(problem, style="compact")
            )
            rows.append({"prompt": prompt, "completion": wording.solution})
    rng.shuffle(rows)
    return rows


def split_evenly(count: int, parts: int) -> list[int]:
    """Divide `count` into so many parts; the first ones get the rest."""
    return [count // parts + (i < count % parts) for i in range(parts)]


def _new_puzzles(
    family: Family, rng: random.Random, *, split: str, words: Words, keep: Callable[[Puzzle], bool]
) -> Iterator[Puzzle]:
    seen: set[str] = set()
    while True:
        for _ in range(MAX_DRAWS):
            puzzle = family.make(rng, words=words)
            if puzzle.split == split and puzzle.compact.problem not in seen and keep(puzzle):
                break
        else:
            raise InputError(
                f"puzzles of the family {family.name!r}: only {len(seen)} different ones found for the split "
                f"{split!r}; ask for fewer, or make them longer"
            )
        seen.add(puzzle.compact.problem)
        yield puzzle


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")
