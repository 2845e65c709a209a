"""OPSD: the policy's own completions, corrected by the policy that has read the solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sgpo.algorithms.base import Algorithm, Needs, Target, TrainingRow
from sgpo.errors import InputError
from sgpo.rollouts.groups import RolloutGroup, pass_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class OPSD(Algorithm):
    """On-Policy Self-Distillation (arXiv 2601.18734).

    Sample: `num_autonomous` completions `y` from the autonomous prompt. Loss: for each, right or wrong,
    `mean_t KL(pi_0(. | q, solution, y_<t) || pi(. | q, y_<t))` over the full vocabulary, the guided branch without
    gradient and at the initial weights; the mean over a problem's completions, then over problems. No reward.

    Differences: its authors clip each vocabulary entry's part of the divergence (0.05); our clip is per token, and
    the recipe sets none (`kl_clip: null`). They sample one completion per problem and step.

    Raises InputError unless `strategy_content` is `solution`: that is what its guided branch reads.
    """

    needs = Needs(guided_prompts=True, frozen_guided_model=True)
    parts = frozenset({"divergence", "guided prompts"})

    num_autonomous: int = 8
    mask_truncated_completions: bool = False
    strategy_content: Literal["own", "other", "empty", "solution"] = "solution"

    def __post_init__(self) -> None:
        if self.strategy_content != "solution":
            raise InputError(
                f"algorithm opsd shows its guided branch the solution: set strategy_content to 'solution', not "
                f"{self.strategy_content!r}"
            )

    def rows(self, groups: Sequence[RolloutGroup]) -> list[TrainingRow]:
        rows = []
        for p, group in enumerate(groups):
            if group.guided_prompt is None:
                continue
            for rollout in group.autonomous:
                if rollout.truncated and self.mask_truncated_completions:
                    continue
                target = Target(
                    guided_prompt=group.guided_prompt,
                    strategy_id=group.strategy_id,
                    weight=1 / len(group.autonomous),
                    guided_pass_rate=None,
                    autonomous_pass_rate=pass_rate(group.autonomous),
                )
                rows.append(
                    TrainingRow(
                        problem_index=p, prompt=group.prompt, completion_ids=rollout.completion_ids, target=target
                    )
                )
        return rows
