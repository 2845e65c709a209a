"""What the guided prompt of each problem shows: its strategy, another one, none at all, or the solution."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sgpo.errors import InputError
from sgpo.problems import Problem
from sgpo.prompts import PromptStyle, guided_prompt, solution_guided_prompt
from sgpo.rollouts.groups import seed_of
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.leak.gate import find_leaking
from sgpo.strategies.strategy import Strategy

Content = Literal["own", "other", "empty", "solution"]


@dataclass(frozen=True, slots=True)
class Guidance:
    """A guided prompt, and the strategy in it (None: it shows no strategy)."""

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
    wrong_fraction: float,
    style: str | PromptStyle,
    seed: int,
) -> dict[str, Guidance]:
    """Choose what the guided prompt of each problem shows.

    Args:
        problems: The problems.
        bank: The strategies.
        use: Which strategy of the bank is a problem's: its own, a retrieved one, or its own if it has one.
        content: The guided prompt shows that strategy (`own`); that of some `other` problem; its kind of problem alone
            (`empty`); or the `solution` in its place.
        wrong_fraction: With `own`, this fraction of the problems, chosen at random, is given another problem's strategy
            for the whole run.
        style: The prompt style.
        seed: Decides which problems and which other strategies.

    Returns:
        The guidance by problem id; a problem without any is left out.

    Raises:
        InputError: another problem's strategy is asked for, and all of them say the same.
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
    wrong = set(strategies) if content == "other" else _wrong_ids(strategies, wrong_fraction, seed)
    shown = {id_: _other(id_, strategies, seed) if id_ in wrong else s for id_, s in strategies.items()}
    return {
        problem.id: Guidance(guided_prompt(problem.problem, shown[problem.id], style=style), shown[problem.id])
        for problem in problems
        if problem.id in shown
    }


def warmup_prompts(
    problems: Sequence[Problem], bank: StrategyBank | None, *, fraction: float, style: str | PromptStyle, seed: int
) -> dict[str, str]:
    """The guided prompts of a fraction of the warm-up's problems, chosen at random among those that have a strategy.

    Args:
        problems: The problems of the warm-up.
        bank: The strategies.
        fraction: Of the problems, those that are shown with their strategy.
        style: The prompts.
        seed: Decides which.

    Returns:
        The prompts by problem id: fewer than asked for where fewer problems have a strategy that gives nothing away.

    Raises:
        InputError: none has.
    """
    if not fraction:
        return {}
    guidance = guidance_for(problems, bank, use="own", content="own", wrong_fraction=0.0, style=style, seed=seed)
    usable = [p for p in problems if (g := guidance.get(p.id)) and g.strategy and not gives_away(g.strategy, p)]
    if not usable:
        raise InputError("warmup.guided_fraction: no problem of the warm-up has a strategy; give a bank, or set 0")
    order = sorted(usable, key=lambda problem: seed_of(seed, "guided warm-up", problem.id))
    return {problem.id: guidance[problem.id].prompt for problem in order[: round(fraction * len(problems))]}


def gives_away(strategy: Strategy, problem: Problem) -> bool:
    """Whether the leak gate finds something of the problem in the strategy that it is shown with.

    A person who accepted a strategy has accepted it for its own problem.
    """
    if strategy.problem_id != problem.id:
        strategy = replace(strategy, problem_id=problem.id, reviewed=None)
    return bool(find_leaking([strategy], [problem]))


def _wrong_ids(strategies: Mapping[str, Strategy], fraction: float, seed: int) -> set[str]:
    """The problems with the smallest random numbers: a larger fraction contains a smaller one."""
    order = sorted(strategies, key=lambda id_: seed_of(seed, "wrong strategy", id_))
    return set(order[: round(fraction * len(order))])


def _other(id_: str, strategies: Mapping[str, Strategy], seed: int) -> Strategy:
    """Another problem's strategy, one that does not say the same."""
    rng = random.Random(seed_of(seed, "other strategy", id_))
    candidates = list(strategies.values())
    rng.shuffle(candidates)
    for candidate in candidates:
        if candidate.text != strategies[id_].text:
            return candidate
    raise InputError(
        f"no other strategy for problem {id_!r}: all {len(candidates)} say the same; leave strategy_content at 'own' "
        "and wrong_strategy_fraction at 0"
    )
