"""Guided SFT: imitation of what the policy itself gets right when it is given the strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.algorithms.base import Algorithm, TrainingRow, correct_guided
from sgpo.rollouts.groups import RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedSFT(Algorithm):
    """Cross-entropy on the policy's own correct guided completions: rejection sampling (STaR, arXiv 2203.14465, whose
    hint is the answer) with the strategy as the hint, and context distillation by samples (arXiv 2209.15189).

    Sample: `num_guided` completions per problem from the guided prompt. Loss: the cross-entropy of the first
    `num_targets` correct ones after the autonomous prompt, the mean over all their tokens in the global batch; one that
    was cut off is left out. A problem without a correct one is not trained on.

    Differences from STaR: on-policy, the samples of every step come from the current weights and are used once; the
    weights are never set back. A problem with more correct completions, or longer ones, weighs more.
    """

    parts = frozenset({"guided prompts"})

    num_guided: int = 4
    num_targets: int = 4

    def rows(self, groups: Sequence[RolloutGroup]) -> list[TrainingRow]:
        return [
            TrainingRow(problem_index=p, prompt=group.prompt, completion_ids=rollout.completion_ids, cross_entropy=1.0)
            for p, group in enumerate(groups)
            for rollout in correct_guided(group)[: self.num_targets]
        ]
