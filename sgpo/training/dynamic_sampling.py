"""Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2): groups without a gradient give way to other problems.

A group that all fails or all passes has no advantage, so a batch with many of them has a small and noisy gradient. DAPO
samples on until the batch is full; here that has a limit, and what was sampled in vain counts as completions too. A
group has a signal where any of its training rows has a gradient: with SGPO a target is one, also where all fail alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from sgpo.algorithms import TrainingRow
from sgpo.problems import Problem
from sgpo.rollouts.groups import RolloutGroup, seed_of

Collect = Callable[[Sequence[Problem]], tuple[list[RolloutGroup], list[TrainingRow]]]


def reserve_problems(problems: Sequence[Problem], batch_ids: set[str], *, seed: int, step: int) -> Iterator[Problem]:
    """All problems that are not in the batch, in an order that follows from seed and step: a resumed run, and every
    process of a run, draws the same."""
    others = [problem for problem in problems if problem.id not in batch_ids]
    random.Random(seed_of(seed, "reserve", step)).shuffle(others)
    return iter(others)


def replace_without_signal(
    groups: list[RolloutGroup],
    rows: list[TrainingRow],
    reserve: Iterator[Problem],
    collect: Collect,
    *,
    rounds: int,
    share: Callable[[int], tuple[int, int]],
) -> tuple[list[RolloutGroup], list[TrainingRow], list[RolloutGroup]]:
    """Replace groups without a signal, in at most `rounds` rounds; what is left over stays.

    `collect` samples problems and returns their groups and training rows. `share` turns the number of groups that this
    process wants to replace into those that the processes before it want, and all of them: each draws its own part of
    the reserve, and all run as many rounds as the one that needs most. The problems that are sampled do not depend on
    the number of processes; which of the groups without a signal stay does.

    Returns the batch's groups and rows, and every group that was sampled beyond the first ones.
    """
    groups, extra = list(groups), []
    for _ in range(rounds):
        silent = sorted(set(range(len(groups))) - _with_signal(rows))
        before, everyone = share(len(silent))
        drawn = list(islice(reserve, everyone))
        if not drawn:
            break
        fresh, fresh_rows = collect(drawn[before : before + len(silent)])
        extra += fresh
        for place, number in zip(silent, sorted(_with_signal(fresh_rows)), strict=False):
            groups[place] = fresh[number]
            rows = [row for row in rows if row.problem_index != place]
            rows += [replace(row, problem_index=place) for row in fresh_rows if row.problem_index == number]
    return groups, rows, extra


def _with_signal(rows: Sequence[TrainingRow]) -> set[int]:
    return {row.problem_index for row in rows if row.pulls}
