"""The embedded default: procedurally made, exactly verifiable puzzles in which knowing how matters.

Its import registers the benchmark `strategies`.
"""

from __future__ import annotations

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
from sgpo.puzzles.families import DEFAULT_FAMILIES, FAMILIES, RETENTION_FAMILY, select_families

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
