"""The verdict on one completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VerdictKind = Literal["correct", "wrong", "unparsed", "timeout"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the verifier says of a completion.

    `unparsed`: no answer was found in it. `timeout`: judging it took too long, too much memory, or crashed.
    Example: `Verdict("correct", extracted="3 1 4 2")`.
    """

    kind: VerdictKind
    extracted: str | None = None

    @property
    def correct(self) -> bool:
        return self.kind == "correct"
