"""The families of puzzles, by name."""

from __future__ import annotations

from collections.abc import Sequence

from sgpo.errors import InputError
from sgpo.puzzles.base import Family
from sgpo.puzzles.clock import Clock
from sgpo.puzzles.clues import Clues
from sgpo.puzzles.ordering import Ordering
from sgpo.puzzles.rewriting import Rewriting

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
