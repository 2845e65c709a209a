"""Problems made ready for training: every prompt encoded once, what is too long left out and counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from sgpo.algorithms import Algorithm
from sgpo.problems import Problem
from sgpo.prompts import autonomous_prompt
from sgpo.rollouts.engine import encode_prompt
from sgpo.rollouts.groups import PromptIds, RolloutGroup
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.strategy import Strategy
from sgpo.training.config import SGPOConfig
from sgpo.training.guidance import guidance_for
from sgpo.wording import counted

logger = logging.getLogger("sgpo")


@dataclass(slots=True)
class Prepared:
    """The problems to train on, the prompts of each by its id, the strategies in them by theirs, and counts."""

    problems: list[Problem] = field(default_factory=list)
    groups: dict[str, RolloutGroup] = field(default_factory=dict)
    strategies: dict[str, Strategy] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def prepare_problems(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    args: SGPOConfig,
    *,
    bank: StrategyBank | None,
    algorithm: Algorithm,
) -> Prepared:
    """Encode every prompt, and the solutions where `algorithm` needs them; leave out what is too long, and count it.

    Raises ValueError where nothing is left.
    """

    def encode(text: str) -> PromptIds:
        return PromptIds(text, encode_prompt(tokenizer, text))

    names = ("too_long", "without_strategy", "guided_prompt_too_long", "retrieved")
    counts = {"problems": len(problems), **dict.fromkeys(names, 0)}
    prepared = Prepared(counts=counts)
    guides = algorithm.num_guided > 0 or algorithm.needs.guided_prompts
    guidance = (
        guidance_for(
            problems,
            bank,
            use=args.strategies,
            content=args.strategy_content,
            wrong_share=args.wrong_strategy_share,
            style=args.prompt_style,
            seed=args.seed,
        )
        if guides
        else {}
    )
    if algorithm.needs.solutions:
        counts["without_solution"] = 0
    for problem in problems:
        prompt = encode(autonomous_prompt(problem.problem, style=args.prompt_style))
        if len(prompt.ids) > args.max_prompt_length:
            counts["too_long"] += 1
            continue
        group = RolloutGroup(problem, prompt)
        prepared.problems.append(problem)
        prepared.groups[problem.id] = group
        if algorithm.needs.solutions:
            group.solution_ids = _solution_ids(problem, tokenizer, args.max_completion_length)
            counts["without_solution"] += group.solution_ids is None
        if not guides:
            continue
        shown = guidance.get(problem.id)
        if shown is None:
            counts["without_strategy"] += 1
            continue
        guided = encode(shown.prompt)
        if len(guided.ids) > args.max_prompt_length:
            counts["guided_prompt_too_long"] += 1
            continue
        group.guided_prompt = guided
        if shown.strategy is not None:
            counts["retrieved"] += shown.strategy.problem_id != problem.id
            group.strategy_id = shown.strategy.id
            prepared.strategies[shown.strategy.id] = shown.strategy
    if problems and not prepared.problems:
        raise ValueError(
            f"the prompts of all {counted(len(problems), 'problem')} are longer than "
            f"max_prompt_length={args.max_prompt_length}; raise it"
        )
    if prepared.problems and counts.get("without_solution") == len(prepared.problems):
        raise ValueError(
            f"algorithm {args.algorithm} learns from solutions, and none of "
            f"{counted(len(prepared.problems), 'problem')} has one of at most "
            f"max_completion_length={args.max_completion_length} tokens"
        )
    if counts["too_long"] or counts["without_strategy"] or counts["guided_prompt_too_long"]:
        logger.warning(
            "of %s %d are left out (prompt longer than max_prompt_length=%d); trained without guidance: "
            "%d that have no strategy, %d with a guided prompt that is too long",
            *(counted(counts["problems"], "problem"), counts["too_long"], args.max_prompt_length),
            *(counts["without_strategy"], counts["guided_prompt_too_long"]),
        )
    unguided = counts["without_strategy"] == len(prepared.problems) > 0
    if bank is not None and unguided and args.strategy_content != "solution":
        its = next((f"{strategy.problem_id!r}" for strategy in bank), "none")
        logger.warning(
            "%s holds no strategy for any of these problems, so nothing is guided: its problem ids (such as %s) must "
            "be those of the problem file (such as %r)",
            *(bank.path, its, prepared.problems[0].id),
        )
    return prepared


def longest_sequence(
    args: SGPOConfig, evaluation_sets: Mapping[str, Sequence[Problem]], tokenizer: PreTrainedTokenizerBase
) -> int:
    """The tokens of the longest prompt and completion together that a run may ask its engine for."""
    assert args.eval_max_tokens is not None
    evaluated = [
        len(encode_prompt(tokenizer, autonomous_prompt(problem.problem, style=args.prompt_style)))
        for problems in evaluation_sets.values()
        for problem in problems
    ]
    return max([args.max_prompt_length + args.max_completion_length, *(n + args.eval_max_tokens for n in evaluated)])


def _solution_ids(problem: Problem, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[int] | None:
    """The strong model's solution with the end token; None where there is none, or it is longer than a completion."""
    if problem.solution is None:
        return None
    ids = tokenizer(problem.solution, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id] if len(ids) < max_length else None
