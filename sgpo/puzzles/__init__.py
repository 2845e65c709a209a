"""The embedded default: procedurally made, exactly verifiable puzzles in which knowing how matters.

Its import registers the benchmark `strategies`.
"""

from __future__ import annotations

from collections.abc import Sequence

from sgpo.errors import InputError
from sgpo.puzzles.base import (
    SPLITS,
    Family,
    Form,
    Puzzle,
    SolutionStyle,
    Wording,
    Words,
    draw_puzzles,
    mix_puzzles,
)
from sgpo.puzzles.benchmark import natural_benchmark
from sgpo.puzzles.clock import Clock
from sgpo.puzzles.clues import Clues
from sgpo.puzzles.ordering import Ordering
from sgpo.puzzles.rewriting import Rewriting

__all__ = [
    "DEFAULT_FAMILIES",
    "FAMILIES",
    "RETENTION_FAMILY",
    "SPLITS",
    "Family",
    "Form",
    "Puzzle",
    "SolutionStyle",
    "Wording",
    "Words",
    "draw_puzzles",
    "mix_puzzles",
    "natural_benchmark",
    "select_families",
]

FAMILIES: dict[str, Family] = {family.name: family for family in (Clues(), Rewriting(), Ordering(), Clock())}

DEFAULT_FAMILIES = ("clues", "rewriting")

# Its skill is taught in the warm-up and never trained on, so its scores measure retention.
RETENTION_FAMILY = "clock"


def select_families(names: Sequence[str] = DEFAULT_FAMILIES) -> list[Family]:
    """The families of those names.

    Raises:
        InputError: A name is unknown or repeated, or there is no name.
    """
    for name in names:
        if name not in FAMILIES:
            raise InputError(f"unknown family of puzzles {name!r}; there are: {', '.join(FAMILIES)}")
    if not names or len(set(names)) < len(names):
        raise InputError(f"name one or more different families of puzzles out of: {', '.join(FAMILIES)}")
    return [FAMILIES[name] for name in names]
