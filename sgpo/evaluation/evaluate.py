"""Evaluation of a policy: plain prompts, several samples per problem, verdicts, scores."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from sgpo.errors import InputError
from sgpo.evaluation.output import completion_row, describe, merge_equal_answers
from sgpo.evaluation.scores import score_samples
from sgpo.problems import Problem
from sgpo.prompts import autonomous_prompt
from sgpo.rollouts.engine import Engine, Sampling, encode_prompt
from sgpo.rollouts.groups import PromptIds, RewardFunction, Rollout, RolloutGroup, judge, sample_groups
from sgpo.verifier import Verdict, Verifier


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`scores` is the object of the contract, `details` what stands beside it (see `describe`); `samples` the verdict
    kinds of each problem's samples; `rows` all completions, as `eval/*.jsonl` keeps them."""

    scores: dict[str, Any]
    details: dict[str, Any]
    samples: dict[str, list[str]]
    rows: list[dict[str, Any]]

    def to_json(self, **header: Any) -> dict[str, Any]:
        """The content of an `eval/*.json`."""
        return {**header, **self.scores, **self.details, "samples": self.samples}


def evaluate(
    problems: Sequence[Problem],
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    verifier: Verifier | RewardFunction,
    sampling: Sampling,
    *,
    samples: int,
    style: str,
    seed: int,
    share: tuple[int, int] = (0, 1),
    gather: Callable[[list[RolloutGroup]], list[RolloutGroup]] = list,
) -> Evaluation:
    """Sample each problem `samples` times from its plain prompt and score the verdicts.

    A completion depends on its problem, its number and `seed` alone, not on what it was batched with. Several processes
    share the problems: `share` is (this one, how many), `gather` brings what all have sampled. Raises InputError where
    there is no problem, or an id occurs twice.
    """
    if not problems:
        raise InputError("no problems to evaluate on")
    if len({problem.id for problem in problems}) < len(problems):
        raise InputError("two problems of an evaluation have the same id")
    process, processes = share
    own = []
    for problem in problems[process::processes]:
        text = autonomous_prompt(problem.problem, style=style)
        own.append(RolloutGroup(problem, PromptIds(text, encode_prompt(tokenizer, text))))
    sample_groups(own, engine, tokenizer, sampling, num_autonomous=samples, num_guided=0, seed=(seed, "evaluation"))
    judge(((rollout, group.problem) for group in own for rollout in group.autonomous), verifier)
    sampled = {group.problem.id: group for group in gather(own)}
    groups = [sampled[problem.id] for problem in problems]
    kinds: dict[str, list[str]] = defaultdict(list)
    answers: dict[str, list[str | None]] = defaultdict(list)
    rows = []
    for group in groups:
        for number, rollout in enumerate(group.autonomous):
            verdict = rollout.verdict or _verdict_of(rollout)
            kinds[group.problem.id].append(verdict.kind)
            answers[group.problem.id].append(verdict.extracted)
            rows.append(
                completion_row(
                    group.problem,
                    number,
                    verdict,
                    prompt=rollout.prompt,
                    completion=rollout.completion,
                    tokens=len(rollout.completion_ids),
                    truncated=rollout.truncated,
                )
            )
    if isinstance(verifier, Verifier):
        answers = merge_equal_answers(kinds, answers, problems, verifier)
    details = describe(problems, rows, kinds, seed=seed)
    return Evaluation(score_samples(kinds, answers, seed=seed), details, dict(kinds), rows)


def _verdict_of(rollout: Rollout) -> Verdict:
    """A user's own reward function says no more than passed or not, or with NaN that it could not say."""
    if math.isnan(rollout.reward):
        return Verdict("timeout")
    return Verdict("correct" if rollout.correct else "wrong", rollout.completion)
