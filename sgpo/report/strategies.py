"""The uplift of a strategy: its guided pass rate minus the autonomous one, on the same problems at the same steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sgpo.report.completions import Tally
from sgpo.report.read import Measurement

_Z = 1.959964  # 95 %
_MIN_PROBLEMS = 10  # a normal interval over fewer would be too narrow


class Uplift(NamedTuple):
    """One row of the strategy table: counts of completions, pass rates from 0 to 1, and their difference."""

    key: str
    problems: int
    guided: int
    autonomous: int
    guided_pass_rate: float
    autonomous_pass_rate: float
    uplift: Measurement


def measure_uplift(tallies: Mapping[str, Mapping[str, Tally]]) -> list[Uplift]:
    """Measure the uplift of each strategy (or family) that has completions in both groups, largest first.

    Args:
        tallies: for each strategy a tally of each of its problems.

    Returns:
        Pass rates and uplift as means over problems. The 95 % interval is over completions where there is one problem,
        over problems from ten on, and NaN between.
    """
    rows = []
    for key, by_problem in tallies.items():
        both = [tally for tally in by_problem.values() if tally.guided and tally.autonomous]
        if both:
            rows.append(_measure_one(key, both))
    return sorted(rows, key=lambda row: (-row.uplift.mean, row.key))


def _measure_one(key: str, tallies: Sequence[Tally]) -> Uplift:
    guided = [tally.guided_passed / tally.guided for tally in tallies]
    autonomous = [tally.autonomous_passed / tally.autonomous for tally in tallies]
    if len(tallies) == 1:
        one = tallies[0]
        interval = difference_interval(one.guided_passed, one.guided, one.autonomous_passed, one.autonomous)
    else:
        differences = [a - b for a, b in zip(guided, autonomous, strict=True)]
        mean = statistics.fmean(differences)
        enough = len(differences) >= _MIN_PROBLEMS
        spread = _Z * statistics.stdev(differences) / math.sqrt(len(differences)) if enough else math.nan
        interval = Measurement(mean, mean - spread, mean + spread)
    return Uplift(
        key=key,
        problems=len(tallies),
        guided=sum(tally.guided for tally in tallies),
        autonomous=sum(tally.autonomous for tally in tallies),
        guided_pass_rate=statistics.fmean(guided),
        autonomous_pass_rate=statistics.fmean(autonomous),
        uplift=interval,
    )


def difference_interval(passed_a: int, count_a: int, passed_b: int, count_b: int) -> Measurement:
    """The difference of two independent fractions with its 95 % interval.

    Newcombe's hybrid score method (Statistics in Medicine 17, 873-890, 1998, method 10).
    """
    fraction_a, fraction_b = passed_a / count_a, passed_b / count_b
    low_a, high_a = _wilson(passed_a, count_a)
    low_b, high_b = _wilson(passed_b, count_b)
    difference = fraction_a - fraction_b
    return Measurement(
        difference,
        difference - math.hypot(fraction_a - low_a, high_b - fraction_b),
        difference + math.hypot(high_a - fraction_a, fraction_b - low_b),
    )


def _wilson(passed: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a fraction."""
    fraction = passed / count
    centre = fraction + _Z * _Z / (2 * count)
    spread = _Z * math.sqrt(fraction * (1 - fraction) / count + _Z * _Z / (4 * count * count))
    scale = 1 + _Z * _Z / count
    return (centre - spread) / scale, (centre + spread) / scale
