"""What an algorithm is: it says what to sample, and how the loss weighs it. The trainer knows none by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sgpo.objective import group_advantages
from sgpo.rollouts.groups import PromptIds, Rollout, RolloutGroup

# The log-probabilities of rollouts' completion tokens after the *unguided* prompt of their problem, under the current
# policy and at the sampling temperature: one tensor T_g per rollout.
Scorer = Callable[[Sequence[tuple[PromptIds, Rollout]]], list[Tensor]]


@dataclass(slots=True, kw_only=True)
class Target:
    """The distillation target of a problem: a correct guided completion, the weight alpha(q), and why it weighs so."""

    guided_prompt: PromptIds
    strategy_id: str | None
    weight: float
    guided_pass_rate: float | None  # None: nothing was sampled from the guided prompt
    autonomous_pass_rate: float  # NaN: nothing was judged
    divergences: list[float] | None = None  # KL_t of each token before the clip, once the loss has computed them


@dataclass(slots=True, kw_only=True)
class TrainingRow:
    """One unguided prompt + completion of the training forward, and its part in each component of the loss.

    `advantage`: the policy gradient (None: not in it). `cross_entropy`: the weight in the cross-entropy (0: not in it).
    `shaping`: the completion is off-policy; its policy gradient takes `shaped_policy_loss` with this constant.
    `target`: the divergence from the guided branch (None: not in it). `old_logprobs`: its tokens' log-probabilities
    at the time of sampling, where several updates follow one sampling; `sampling_logprobs`: those that the engine
    gave, for a row of the policy gradient; `reference_logprobs`: those of the reference, where a KL is taken to it.
    """

    problem_index: int
    prompt: PromptIds
    completion_ids: list[int]
    advantage: float | None = None
    cross_entropy: float = 0.0
    shaping: float | None = None
    target: Target | None = None
    old_logprobs: Tensor | None = None
    sampling_logprobs: list[float] | None = None
    reference_logprobs: Tensor | None = None

    @property
    def has_gradient(self) -> bool:
        """Whether the row moves the policy at all: groups that all fail or all pass do so by the KL alone."""
        return bool(self.advantage or self.cross_entropy or self.target) or self.reference_logprobs is not None

    @property
    def length(self) -> int:
        """Its tokens in the longer of its forwards: the guided prompt of a target counts."""
        prompts = [self.prompt] if self.target is None else [self.prompt, self.target.guided_prompt]
        return max(len(prompt.ids) for prompt in prompts) + len(self.completion_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What an algorithm needs beside its rollouts.

    `solutions`: the strong model's solutions as tokens. `guided_prompts`: guided prompts though it samples nothing from
    them. `frozen_guided_model`: the guided branch of the divergence at the initial weights instead of the current ones.
    """

    solutions: bool = False
    guided_prompts: bool = False
    frozen_guided_model: bool = False


# A component of the loss, or the guided prompts: each has options of its own in `SGPOConfig`.
Part = Literal["policy gradient", "divergence", "guided prompts"]


class Algorithm:
    """A row of the paper's tables: what to sample, and how the loss weighs it.

    A subclass is a frozen dataclass that defines `rows` (or `training_rows`, if it needs likelihoods or chance). It
    reads the options of `SGPOConfig` that bear its fields' names, and those of its `parts`; any other is refused. A new
    one is a file here and a line in `ALGORITHMS`.
    """

    needs: ClassVar[Needs] = Needs()
    parts: ClassVar[frozenset[Part]] = frozenset()

    # Completions per problem of each group; a subclass that samples any makes them fields.
    num_autonomous: int = 0
    num_guided: int = 0

    @property
    def guides(self) -> bool:
        """Whether it reads guided prompts."""
        return self.num_guided > 0 or self.needs.guided_prompts

    def training_rows(
        self, groups: Sequence[RolloutGroup], score: Scorer, *, generator: torch.Generator
    ) -> list[TrainingRow]:
        """Choose the rows of the training forward.

        Args:
            groups: The judged rollouts of the problems; a row's `problem_index` is a group's place here.
            score: Gives log-probabilities of rollouts after the unguided prompt.
            generator: Decides what is left to chance.
        """
        return self.rows(groups)

    def rows(self, groups: Sequence[RolloutGroup]) -> list[TrainingRow]:
        """The training rows of an algorithm that the rollouts alone decide."""
        raise NotImplementedError


def policy_gradient_rows(
    groups: Sequence[RolloutGroup], *, scale_advantages: bool, mask_truncated_completions: bool
) -> list[TrainingRow]:
    """The autonomous completions with their group-relative advantages.

    `mask_truncated_completions` leaves those that were cut off out of the loss, though not out of their group: their
    reward says nothing of a reasoning that had not ended (overlong filtering, DAPO, arXiv 2503.14476, section 3.4).
    `scale_advantages=False` is Dr. GRPO's choice (arXiv 2503.20783).
    """
    advantages_PG = padded_advantages(
        [[rollout.total_reward for rollout in group.autonomous] for group in groups], scale=scale_advantages
    )
    return [
        policy_gradient_row(p, group, g, advantages_PG[p][g], mask_truncated_completions=mask_truncated_completions)
        for p, group in enumerate(groups)
        for g in range(len(group.autonomous))
    ]


def policy_gradient_row(
    p: int, group: RolloutGroup, g: int, advantage: float, *, mask_truncated_completions: bool
) -> TrainingRow:
    """The autonomous completion `g` of problem `p` with its advantage."""
    rollout = group.autonomous[g]
    return TrainingRow(
        problem_index=p,
        prompt=group.prompt,
        completion_ids=rollout.completion_ids,
        advantage=None if rollout.truncated and mask_truncated_completions else advantage,
        sampling_logprobs=rollout.logprobs or None,
    )


def padded_advantages(rewards: Sequence[Sequence[float]], *, scale: bool) -> list[list[float]]:
    """Group-relative advantages of groups of unequal size: `advantages[p][g]` for `rewards[p][g]`."""
    rewards_PG = torch.full((len(rewards), max(map(len, rewards), default=0)), torch.nan)
    for p, group in enumerate(rewards):
        rewards_PG[p, : len(group)] = torch.tensor(group)
    return group_advantages(rewards_PG, scale=scale).tolist()


def solution_row(p: int, group: RolloutGroup) -> TrainingRow:
    """The strong model's solution, imitated."""
    assert group.solution_ids is not None
    return TrainingRow(problem_index=p, prompt=group.prompt, completion_ids=group.solution_ids, cross_entropy=1.0)


def correct_guided(group: RolloutGroup) -> list[Rollout]:
    """The guided completions that may be learned from: correct, and not cut off."""
    return [rollout for rollout in group.guided if rollout.correct and not rollout.truncated]
