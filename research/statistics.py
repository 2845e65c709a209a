"""Differences between two arms of a study, paired over replicates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ahead", "level", "behind", "open"]

# Student's t, 97.5 % quantiles for 1, 2, ... degrees of freedom.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean difference over `replicates` pairs and its 95 % interval (infinite for a single pair)."""

    mean: float
    low: float
    high: float
    replicates: int

    @property
    def verdict(self) -> Verdict:
        """`ahead` or `behind` where the interval leaves out 0, `level` where it does not, `open` for fewer than three
        pairs: an interval over two says nothing."""
        if self.replicates < 3:
            return "open"
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "level"


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """`ours - theirs` over the replicates that both have (paired t-test); None where there is none."""
    pairs = [ours[replicate] - theirs[replicate] for replicate in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        return None
    mean = statistics.fmean(pairs)
    half = _t(len(pairs) - 1) * statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.inf
    return Difference(mean, mean - half, mean + half, len(pairs))


def _t(degrees: int) -> float:
    # Beyond the table the first correction of the normal quantile is right within 0.01.
    return _T[degrees - 1] if degrees <= len(_T) else 1.95996 + 2.3722 / degrees
