"""The uplift of a strategy: its guided pass rate minus the autonomous one, on the same problems at the same steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sgpo.evaluation.scores import difference_of_fractions, normal_interval
from sgpo.report.completions import Tally
from sgpo.report.read import Measurement

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
        interval = difference_of_fractions(one.guided_passed, one.guided, one.autonomous_passed, one.autonomous)
    else:
        differences = [a - b for a, b in zip(guided, autonomous, strict=True)]
        interval = normal_interval(differences, at_least=_MIN_PROBLEMS)
    return Uplift(
        key=key,
        problems=len(tallies),
        guided=sum(tally.guided for tally in tallies),
        autonomous=sum(tally.autonomous for tally in tallies),
        guided_pass_rate=statistics.fmean(guided),
        autonomous_pass_rate=statistics.fmean(autonomous),
        uplift=Measurement(interval.mean, interval.low, interval.high),
    )
