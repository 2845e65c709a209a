"""HPT: imitation where the policy fails, reinforcement where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.algorithms.base import Algorithm, Needs, TrainingRow, policy_gradient_rows, solution_row
from sgpo.rollouts.groups import RolloutGroup, pass_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class HPT(Algorithm):
    """Hybrid Post-Training (arXiv 2509.04419).

    Sample: `num_autonomous` completions from the autonomous prompt. Loss, per problem: with a pass rate above
    `imitation_threshold` GRPO with `A = r - mean`; otherwise the cross-entropy of the solution. With the paper's
    threshold of 0 on Qwen, the solution is imitated only where every completion failed.

    Differences: each of the two components is divided by its own tokens in the global batch, where the paper adds
    the losses per problem; there is no entropy bonus. A problem that is to be imitated but has no solution stays with
    GRPO, as does one of which nothing was judged.
    """

    needs = Needs(solutions=True)
    parts = frozenset({"policy gradient"})

    num_autonomous: int = 8
    mask_truncated_completions: bool = False
    imitation_threshold: float = 0.0

    def rows(self, groups: Sequence[RolloutGroup]) -> list[TrainingRow]:
        rows = policy_gradient_rows(
            groups, scale_advantages=False, mask_truncated_completions=self.mask_truncated_completions
        )
        imitated = {
            p
            for p, group in enumerate(groups)
            if group.solution_ids is not None and pass_rate(group.autonomous) <= self.imitation_threshold
        }
        return [row for row in rows if row.problem_index not in imitated] + [
            solution_row(p, groups[p]) for p in sorted(imitated)
        ]
