"""GRPO: the group-relative policy gradient alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.algorithms.base import Algorithm, TrainingRow, policy_gradient_rows
from sgpo.rollouts.groups import RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPO(Algorithm):
    """Group Relative Policy Optimization (arXiv 2402.03300), with DAPO's clip range and token mean (arXiv 2503.14476).

    Sample: `num_autonomous` completions per problem from the autonomous prompt. Loss: the clipped policy gradient with
    `A = (r - mean) / (std + 1e-4)` per group; the mean over all completion tokens of the global batch (by completion
    with `loss_mean="sequence"`); no KL penalty unless `beta` is set.
    `num_guided` does not concern it: the same budget as SGPO's 8 + 4 is `num_autonomous=12`.
    """

    parts = frozenset({"policy gradient"})

    num_autonomous: int = 8
    scale_advantages: bool = True
    mask_truncated_completions: bool = False

    def rows(self, groups: Sequence[RolloutGroup]) -> list[TrainingRow]:
        return policy_gradient_rows(
            groups,
            scale_advantages=self.scale_advantages,
            mask_truncated_completions=self.mask_truncated_completions,
        )
