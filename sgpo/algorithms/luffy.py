"""LUFFY: the strong model's solution as one more member of the policy's own group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.algorithms.base import Algorithm, Needs, TrainingRow, padded_advantages, policy_gradient_row
from sgpo.rollouts.groups import RolloutGroup

SOLUTION_REWARD = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LUFFY(Algorithm):
    """Learning to reason Under oFF-policY guidance (arXiv 2504.14945).

    Sample: `num_autonomous` completions from the autonomous prompt (7 in the paper); the solution joins their group
    with reward 1. Loss: the policy gradient with `A = r - mean` over the union. On-policy tokens as in GRPO; the
    solution's tokens without a ratio to what sampled them (its probability is taken as 1), without a clip, and shaped:
    `-A f(pi)`, `f(pi) = pi / (pi + shaping)`, whose gradient is large where the policy finds the token unlikely.

    Differences: the sum over tokens is divided by the policy gradient's tokens of the global batch, where the paper
    divides by a constant (its `loss_remove_token_mean`); a solution is taken as correct without being judged; there is
    no entropy bonus (their runs have one of 0.001) and no KL penalty. A group without a solution is one of GRPO.
    """

    needs = Needs(solutions=True)
    parts = frozenset({"policy gradient"})

    num_autonomous: int = 7
    mask_truncated_completions: bool = False
    off_policy_shaping: float = 0.1

    def rows(self, groups: Sequence[RolloutGroup]) -> list[TrainingRow]:
        rewards = [
            [*(r.total_reward for r in group.autonomous), *([] if group.solution_ids is None else [SOLUTION_REWARD])]
            for group in groups
        ]
        advantages_PG = padded_advantages(rewards, scale=False)
        rows = []
        for p, group in enumerate(groups):
            rows += [
                policy_gradient_row(
                    p, group, g, advantages_PG[p][g], mask_truncated_completions=self.mask_truncated_completions
                )
                for g in range(len(group.autonomous))
            ]
            if group.solution_ids is not None:
                rows.append(
                    TrainingRow(
                        problem_index=p,
                        prompt=group.prompt,
                        completion_ids=group.solution_ids,
                        advantage=advantages_PG[p][len(group.autonomous)],
                        shaping=self.off_policy_shaping,
                    )
                )
        return rows
