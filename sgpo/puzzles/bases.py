"""Number bases: digits rewritten in another base, one group after the other.

Every word of it is taught: the warm-up brings the skill, and reinforcement never touches it. So it measures retention:
what a policy still can after it was trained on other families.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.puzzles.base import Puzzle, Wording, Words

# Bits in a digit of each base.
BASES = {"octal": 3, "quaternary": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases:
    """Knob: `bits` of the number, at least and at most (rounded down to whole digits)."""

    bits: tuple[int, int] = (6, 12)
    name: str = "bases"

    @property
    def vocabulary(self) -> Sequence[str]:
        return [*"01234567", ":", "=", "answer", "bases", "expand", "group", "binary", *BASES]

    def make(self, rng: random.Random, *, words: Words = "all") -> Puzzle:
        base = rng.choice(tuple(BASES))
        digits = [rng.randrange(2 ** BASES[base]) for _ in range(rng.randint(*self.bits) // BASES[base])]
        return base_puzzle(base, digits, expand=rng.random() < 0.5)


def base_puzzle(base: str, digits: Sequence[int], *, expand: bool) -> Puzzle:
    """The puzzle to `expand` digits of that base into binary ones, or to group binary ones into such digits."""
    width = BASES[base]
    long = [" ".join(f"{digit:0{width}b}") for digit in digits]
    short = [str(digit) for digit in digits]
    source, target = (short, long) if expand else (long, short)
    step = "expand" if expand else "group"
    names = (base, "binary") if expand else ("binary", base)
    answer = " ".join(target)
    size = {3: "three", 2: "two"}[width]
    return Puzzle(
        family="bases",
        answer=answer,
        level="0",
        compact=Wording(
            problem=f"{names[0]} {names[1]} : {' '.join(source)}",
            solution="".join(f" {left} = {right}" for left, right in zip(source, target, strict=True))
            + f" answer : {answer}",
            problem_type="bases",
            approach="each digit of the larger base is a fixed group of binary digits",
            steps=(f"{step} {base}",),
        ),
        natural=Wording(
            problem=(
                f"Write the {names[0]} number {' '.join(source)} in the {names[1]} system. Keep leading zeros: every "
                f"{base} digit stands for {size} binary ones. Give the digits in order, separated by single spaces."
            ),
            solution="\n".join(
                [
                    *(f"{left} is {right}." for left, right in zip(source, target, strict=True)),
                    f"The answer is \\boxed{{{answer}}}.",
                ]
            ),
            problem_type="Conversion between bases of which one is a power of the other",
            approach="Each digit of the larger base stands for a fixed group of digits of the smaller one.",
            steps=(
                f"{'Expand every digit into' if expand else 'Cut the number into'} groups of {size} binary digits.",
                "Convert group by group, keeping the order.",
            ),
        ),
    )
