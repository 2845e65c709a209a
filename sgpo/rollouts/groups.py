"""The two rollout groups of a problem: sampled in one generation call, then judged."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from sgpo.errors import InputError
from sgpo.objective import soft_overlong_punishment
from sgpo.problems import Problem
from sgpo.progress import told
from sgpo.rollouts.engine import Completion, Engine, Sampling, decode_completions
from sgpo.verifier import Verdict, Verifier

RewardFunction = Callable[[str, Problem], "Verdict | float"]


@dataclass(frozen=True, slots=True)
class PromptIds:
    """A prompt as text and as token ids (through the chat template, if there is one)."""

    text: str
    ids: list[int]


@dataclass(slots=True)
class Rollout:
    """One sampled and judged completion.

    `reward` is 1 for a correct completion and 0 for a wrong or unparsed one; it is NaN, and left out of its group, if
    the verifier ran out of time. `verdict` is None if a user's own function gave a number as the reward. Where a run
    has rewards of its own, `rewards` are theirs by name (NaN: none), and `weighted_reward` takes the place of `reward`
    in advantages. `punishment` is what its length adds to that, at most 0; None if lengths are not punished.
    """

    prompt: str
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: str
    logprobs: list[float]
    truncated: bool
    verdict: Verdict | None = None
    reward: float = math.nan
    rewards: dict[str, float] = field(default_factory=dict)
    weighted_reward: float | None = None
    punishment: float | None = None

    @property
    def total_reward(self) -> float:
        """What its advantage is computed from; NaN: its group leaves it out."""
        return (self.reward if self.weighted_reward is None else self.weighted_reward) + (self.punishment or 0.0)

    @property
    def correct(self) -> bool:
        """Whether it passes: a verdict `correct`, or a user's reward above one half."""
        return self.reward > 0.5


@dataclass(slots=True)
class RolloutGroup:
    """A problem's rollouts: `autonomous ~ pi(. | q)` and `guided ~ pi(. | q, s)`.

    `solution_ids` is the strong model's solution as tokens, the end token included, if the algorithm needs it.
    """

    problem: Problem
    prompt: PromptIds
    strategy_id: str | None = None
    guided_prompt: PromptIds | None = None
    solution_ids: list[int] | None = None
    autonomous: list[Rollout] = field(default_factory=list)
    guided: list[Rollout] = field(default_factory=list)


def pass_rate(rollouts: Sequence[Rollout]) -> float:
    """The fraction of correct completions among the judged ones; NaN if nothing was judged, which is no failure."""
    judged = [rollout.correct for rollout in rollouts if not math.isnan(rollout.reward)]
    return sum(judged) / len(judged) if judged else math.nan


def seed_of(*parts: object) -> int:
    """Make a seed of its purpose, such as (run seed, step, problem id, group, index): no state to save or restore."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def sample_groups(
    groups: Sequence[RolloutGroup],
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    *,
    num_autonomous: int,
    num_guided: int,
    seed: tuple[object, ...],
    soft_punish_cache: int = 0,
) -> None:
    """Fill both groups of every problem from ONE generation call: one long tail instead of two.

    Args:
        groups: Their `autonomous` and `guided` lists get the new rollouts, which are not judged yet.
        engine: What samples.
        tokenizer: Turns completions into text.
        sampling: The options of sampling.
        num_autonomous: Completions per problem from its autonomous prompt.
        num_guided: Completions per problem from its guided prompt, if it has one.
        seed: What the seeds are made of, together with problem, group and number of a completion.
        soft_punish_cache: The last tokens before the limit over which `punish_overlong` punishes.
    """
    requests: list[tuple[list[Rollout], PromptIds]] = []
    seeds: list[int] = []
    for group in groups:
        for name, prompt, rollouts, count in (
            ("autonomous", group.prompt, group.autonomous, num_autonomous),
            ("guided", group.guided_prompt, group.guided, num_guided),
        ):
            if prompt is not None:
                requests += [(rollouts, prompt)] * count
                seeds += [seed_of(*seed, group.problem.id, name, index) for index in range(count)]
    # Call the engine even without a request: processes that share an engine wait for each other.
    prompts = [prompt.ids for _, prompt in requests]
    completions = engine.generate(prompts, sampling, seeds=seeds)
    texts = decode_completions(tokenizer, prompts, completions)
    for (rollouts, prompt), completion, text in zip(requests, completions, texts, strict=True):
        rollouts.append(_rollout(prompt, completion, text))
    punish_overlong(groups, limit=sampling.max_tokens, cache=soft_punish_cache)


def punish_overlong(groups: Sequence[RolloutGroup], *, limit: int, cache: int) -> None:
    """Give autonomous completions their `punishment`, by `soft_overlong_punishment`; a `cache` of 0 punishes none."""
    for rollout in (rollout for group in groups for rollout in group.autonomous if cache):
        rollout.punishment = soft_overlong_punishment(len(rollout.completion_ids), limit=limit, cache=cache)


def _rollout(prompt: PromptIds, completion: Completion, text: str) -> Rollout:
    return Rollout(
        prompt=prompt.text,
        prompt_ids=prompt.ids,
        completion_ids=completion.token_ids,
        completion=text,
        logprobs=completion.logprobs,
        truncated=not completion.finished,
    )


def judge_completions(
    pairs: Sequence[tuple[str, Problem]],
    verifier: Verifier | RewardFunction,
    *,
    finished: Sequence[bool] | None = None,
) -> Sequence[Verdict | float]:
    """Judge completions by the verifier, or by a user's function `(completion, problem)`, which may return a number.

    `finished` tells the verifier which of them were cut off (`Verifier.verify_many`).

    Raises:
        InputError: The function raised, or returned neither a Verdict nor a finite number (or NaN: no reward).
    """
    if isinstance(verifier, Verifier):
        return verifier.verify_many(pairs, finished=finished)
    return [_judged(verifier, completion, problem) for completion, problem in told("judging", pairs)]


def function_name(function: Any) -> str:
    """A user's function as metrics and messages call it, also where `functools.partial` wraps it."""
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__name__", type(inner).__name__))


def judge(items: Iterable[tuple[Rollout, Problem]], verifier: Verifier | RewardFunction) -> None:
    """Give every rollout its verdict and reward. Raises InputError as `judge_completions`."""
    pairs = list(items)
    verdicts = judge_completions(
        [(rollout.completion, problem) for rollout, problem in pairs],
        verifier,
        finished=[not rollout.truncated for rollout, _ in pairs],
    )
    for (rollout, _), verdict in zip(pairs, verdicts, strict=True):
        if isinstance(verdict, Verdict):
            rollout.verdict = verdict
            rollout.reward = math.nan if verdict.kind == "timeout" else float(verdict.kind == "correct")
        else:
            rollout.reward = verdict


def _judged(function: RewardFunction, completion: str, problem: Problem) -> Verdict | float:
    name = function_name(function)
    try:
        reward = function(completion, problem)
    except Exception as error:
        what = (str(error).splitlines() or [""])[0]
        raise InputError(f"{name} raised {type(error).__name__} for problem {problem.id!r}: {what:.200}") from error
    if isinstance(reward, Verdict):
        return reward
    try:
        number = float(reward)
    except (TypeError, ValueError):
        number = math.inf
    # One infinite reward would make every advantage of its group, and then every weight, NaN.
    if math.isinf(number):
        raise InputError(
            f"{name} returned {reward!r:.80} for problem {problem.id!r}; it must return a Verdict or a finite number "
            "(NaN for no reward)"
        )
    return number
