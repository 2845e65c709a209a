"""What the trainer is fed: problems from lists and datasets, and their order."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import Sampler

from sgpo.problems import Problem, problem_from_row
from sgpo.rollouts.groups import seed_of


class WindowSampler(Sampler[int]):
    """The order of problems: whole windows of one optimizer step's problems, each as often as it is trained on.

    The order of an epoch follows from the seed and the epoch alone, so a resumed run goes on where it was. Problems
    that do not fill a last window wait for the next epoch's order.
    """

    def __init__(
        self, problems: int, window: int, *, repeats: int, seed: int, epoch: Callable[[], float | None]
    ) -> None:
        self.problems, self.window, self.repeats, self.seed, self.epoch = problems, window, repeats, seed, epoch

    def __len__(self) -> int:
        return self.problems // self.window * self.window * self.repeats

    def __iter__(self) -> Iterator[int]:
        epoch = math.floor((self.epoch() or 0.0) + 1e-6)
        order = list(range(self.problems))
        random.Random(seed_of(self.seed, "order", epoch)).shuffle(order)
        for start in range(0, len(order) - self.window + 1, self.window):
            for _ in range(self.repeats):
                yield from order[start : start + self.window]


def as_problems(dataset: Any, name: str) -> list[Problem]:
    """The problems of a list or datasets.Dataset. Raises ValueError for a bad row or an id that occurs twice."""
    if dataset is None:
        return []
    problems = [
        item if isinstance(item, Problem) else problem_from_row(item, {}, where=f"{name}, row {number}")
        for number, item in enumerate(dataset)
    ]
    ids = Counter(problem.id for problem in problems)
    repeated = [id_ for id_, count in ids.items() if count > 1]
    if repeated:
        raise ValueError(f"{name}: the id {repeated[0]!r} occurs {ids[repeated[0]]} times; ids must be unique")
    return problems


def evaluation_sets(dataset: Any) -> dict[str, list[Problem]]:
    """Evaluation sets by name; a single one is called `eval`. Raises ValueError for an empty one."""
    if dataset is None:
        return {}
    named = dataset if isinstance(dataset, Mapping) else {"eval": dataset}
    sets = {name: as_problems(problems, f"eval_dataset {name!r}") for name, problems in named.items()}
    if empty := [name for name, problems in sets.items() if not problems]:
        raise ValueError(f"eval_dataset {empty[0]!r} holds no problems")
    return sets
