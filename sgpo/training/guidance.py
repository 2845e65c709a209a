"""What a policy is shown when it is guided: a problem's strategy, or what an ablation puts in its place."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sgpo.problems import Problem
from sgpo.prompts import guided_prompt, solution_guided_prompt
from sgpo.rollouts.groups import seed_of
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.strategy import Strategy

Content = Literal["own", "other", "empty", "solution"]


@dataclass(frozen=True, slots=True)
class Guidance:
    """A guided prompt, and the strategy in it (None: it holds none)."""

    prompt: str
    strategy: Strategy | None


@dataclass(frozen=True, slots=True)
class _KindAlone:
    """A strategy that says no more than what kind of problem it is for."""

    problem_type: str
    approach: str = ""
    steps: tuple[str, ...] = ()


def guidance_for(
    problems: Sequence[Problem],
    bank: StrategyBank | None,
    *,
    use: Literal["own", "retrieved", "both"],
    content: Content,
    wrong_share: float,
    style: str,
    seed: int,
) -> dict[str, Guidance]:
    """The guidance of every problem that has one, by id.

    `content`: the problem's `own` strategy; that of some `other` problem; its own with the kind of problem alone in it
    (`empty`); or the `solution` in the strategy's place. With `own`, a `wrong_share` of the problems, chosen at random,
    is given another problem's strategy for the whole run.

    Raises ValueError where another problem's strategy is asked for and all of them say the same.
    """
    if content == "solution":
        return {
            problem.id: Guidance(solution_guided_prompt(problem.problem, problem.solution, style=style), None)
            for problem in problems
            if problem.solution is not None
        }
    found = {problem.id: bank.for_problem(problem, use=use) for problem in problems} if bank is not None else {}
    strategies = {id_: strategy for id_, strategy in found.items() if strategy is not None}
    if content == "empty":
        return {
            problem.id: Guidance(
                guided_prompt(problem.problem, _KindAlone(strategies[problem.id].problem_type), style=style), None
            )
            for problem in problems
            if problem.id in strategies
        }
    wrong = set(strategies) if content == "other" else _wrong_ids(strategies, wrong_share, seed)
    shown = {id_: _other(id_, strategies, seed) if id_ in wrong else s for id_, s in strategies.items()}
    return {
        problem.id: Guidance(guided_prompt(problem.problem, shown[problem.id], style=style), shown[problem.id])
        for problem in problems
        if problem.id in shown
    }


def _wrong_ids(strategies: Mapping[str, Strategy], share: float, seed: int) -> set[str]:
    """Those with the smallest random numbers: a larger share contains a smaller one."""
    order = sorted(strategies, key=lambda id_: seed_of(seed, "wrong strategy", id_))
    return set(order[: round(share * len(order))])


def _other(id_: str, strategies: Mapping[str, Strategy], seed: int) -> Strategy:
    """Another problem's strategy, one that does not say the same."""
    rng = random.Random(seed_of(seed, "other strategy", id_))
    candidates = list(strategies.values())
    rng.shuffle(candidates)
    for candidate in candidates:
        if candidate.text != strategies[id_].text:
            return candidate
    raise ValueError(
        f"no other strategy for problem {id_!r}: all {len(candidates)} say the same; leave strategy_content at 'own' "
        "and wrong_strategy_share at 0"
    )
