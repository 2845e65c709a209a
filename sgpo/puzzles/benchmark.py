"""A benchmark for strategies: what a policy has learned, how far that carries, and what it costs older skills.

| split | what it is | what it measures |
|---|---|---|
| `train` | the pool that a policy is trained on | |
| `fresh` | other puzzles of the same sort | whether it has learned |
| `harder` | one clue more than any puzzle of the pool | whether that carries to longer problems |
| `recombined` | pairs of steps in a row that are in neither pool nor warm-up | and to other combinations |
| `reworded` | the puzzles of `fresh`, asked in the wording that the pool does not use | and to other words |
| `guided` | the puzzles of `fresh` with their strategies in the problem | whether it still follows a strategy |
| `untouched` | a skill of the warm-up alone | what it has forgotten |

The families are clue words and orderings, which have several right answers in two styles; `untouched` is clock
arithmetic. Diversity is `distinct_solutions` on an evaluation of any split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

from sgpo.errors import InputError
from sgpo.evaluation.benchmarks import register_benchmark
from sgpo.problems import Problem
from sgpo.prompts import strategy_text
from sgpo.puzzles.base import Family, Form, Puzzle, SolutionStyle, mix_puzzles, split_evenly, warmup_rows
from sgpo.puzzles.clock import Clock
from sgpo.puzzles.clues import OPERATIONS, Clues
from sgpo.puzzles.ordering import Ordering
from sgpo.strategies import Strategy

TRAINED: tuple[Family, ...] = (Clues(clues=(2, 3)), Ordering(clues=(2, 3)))
HARDER: tuple[Family, ...] = (Clues(clues=(4, 4)), Ordering(clues=(4, 4)))
# The warm-up has the longer puzzles too, of taught words: a tiny policy never solves a length that it was never shown.
WARMED_UP: tuple[Family, ...] = (Clues(clues=(2, 4)), Ordering(clues=(2, 4)), Clock())

HeldOut = Literal["fresh", "validation"]

WARMUP_ROWS, REWORDED_FRACTION = 38_400, 0.25  # 1,200 steps of 32: orderings are learned late
NATURAL_PROBLEMS, NATURAL_SEED = 500, 0
NATURAL_SPLITS = ("fresh", "harder", "recombined", "reworded", "guided", "untouched")


def strategy_benchmark(
    *,
    seed: int,
    problems: int,
    pool: int,
    form: Form = "compact",
    style: SolutionStyle = "own",
    held_out: HeldOut = "fresh",
) -> dict[str, list[Problem]]:
    """Make the splits. The same arguments give the same problems.

    Args:
        seed: Another seed gives other problems.
        problems: The number of problems in each split but `train`.
        pool: The number of problems in `train`.
        form: "compact" for the tiny policy, "natural" for language models.
        style: The style of the solutions.
        held_out: With "validation" the splits are made of puzzles that no test split has, whatever the seeds: choose
            settings on these.

    Returns:
        The problems of each split, by its name.

    Raises:
        InputError: There are too few puzzles.
    """
    splits = {"train": _pool(seed, pool)} | _held_out(seed, problems, held_out)
    return {
        name: [_asked(puzzle, name, form=form, style=style) for puzzle in puzzles] for name, puzzles in splits.items()
    }


def benchmark_strategies(*, seed: int, pool: int, form: Form = "compact") -> list[Strategy]:
    """The expert's strategies for the problems of `train`, in their order."""
    return [puzzle.to_strategy(form) for puzzle in _pool(seed, pool)]


def strategy_warmup(
    count: int = WARMUP_ROWS, *, seed: int, leak: Literal["little", "much"] = "little"
) -> list[dict[str, str]]:
    """`count` rows `{"prompt", "completion"}` that teach a tiny policy all that it is to know before training.

    With `leak="little"` they give away no meaning of an untaught word. With "much" the guided rows tell the true
    meanings, and a policy learns some of them on the side. A quarter of the rows is in the other wording. Equations,
    the notation of the `foreign` style, are those of clock arithmetic.

    Raises:
        InputError: `leak` is neither of the two.
    """
    words: Mapping[str, Literal["scrambled", "all"]] = {"little": "scrambled", "much": "all"}
    if leak not in words:
        raise InputError(f"leak must be one of {', '.join(words)}, got {leak!r}")
    return warmup_rows(
        WARMED_UP,
        count,
        seed=seed,
        guided_words=words[leak],
        reworded=REWORDED_FRACTION,
        keep=lambda puzzle: not is_recombined(puzzle),
    )


def natural_benchmark() -> list[Problem]:
    """The problems of `sgpo eval --benchmarks strategies`: 500 in natural language, always the same, from every split.

    `subject` is the split, `level` the family.
    """
    problems = []
    for name, count in zip(NATURAL_SPLITS, split_evenly(NATURAL_PROBLEMS, len(NATURAL_SPLITS)), strict=True):
        puzzles = _held_out(NATURAL_SEED, count, "fresh")[name]
        asked = [_asked(puzzle, name, form="natural", style="own") for puzzle in puzzles]
        problems += [
            replace(problem, id=f"{name}-{problem.id}", subject=name, level=problem.subject) for problem in asked
        ]
    return problems


register_benchmark("strategies", k=4, make=natural_benchmark)


def distinct_solutions(rows: Iterable[Mapping[str, Any]]) -> float:
    """Diversity: the number of different right completions among a problem's samples, its mean over problems.

    Args:
        rows: The rows of an evaluation (`eval/*.jsonl`).

    Raises:
        InputError: There are no rows.
    """
    right: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found = right[row["problem_id"]]
        if row["verdict"] == "correct":
            found.add(" ".join(row["completion"].split()))
    if not right:
        raise InputError("no completions: there is no diversity of nothing")
    return sum(map(len, right.values())) / len(right)


def is_recombined(puzzle: Puzzle) -> bool:
    """Whether two steps follow each other that never do so in the pool or the warm-up.

    Of the 64 pairs of list operations these are 16, chosen so that each operation is twice the first one and twice the
    second one.
    """
    order = list(OPERATIONS)
    steps = [order.index(step) for step in puzzle.compact.steps if step in OPERATIONS]
    return any((3 * second - first) % len(order) < 2 for first, second in pairwise(steps))


def _pool(seed: int, count: int) -> list[Puzzle]:
    return mix_puzzles(TRAINED, count, split="train", seed=seed, keep=lambda puzzle: not is_recombined(puzzle))


def _held_out(seed: int, count: int, split: HeldOut) -> dict[str, list[Puzzle]]:
    def drawn(families: Sequence[Family], *, recombined: bool = False) -> list[Puzzle]:
        return mix_puzzles(
            families, count, split=split, seed=seed, keep=lambda puzzle: is_recombined(puzzle) == recombined
        )

    fresh = drawn(TRAINED)
    return {
        "fresh": fresh,
        "harder": drawn(HARDER),
        "recombined": drawn(TRAINED[:1], recombined=True),
        "reworded": fresh,
        "guided": fresh,
        "untouched": drawn([Clock()]),
    }


def _asked(puzzle: Puzzle, split: str, *, form: Form, style: SolutionStyle) -> Problem:
    problem, wording = puzzle.to_problem(form, style), puzzle.wording(form)
    if split == "reworded":
        return replace(problem, problem=wording.reworded)
    if split == "guided":
        return replace(problem, problem=_with_strategy(puzzle, form))
    return problem


def _with_strategy(puzzle: Puzzle, form: Form) -> str:
    """The problem whose autonomous prompt is the puzzle's guided prompt (in the natural form all but a line of it)."""
    wording = puzzle.wording(form)
    if form == "compact":
        return f"{strategy_text(wording, style='compact')} | {wording.problem}"
    return (
        f"{wording.problem}\n\nHere is a strategy for problems of this kind:\n\n{strategy_text(wording, style='math')}"
    )
