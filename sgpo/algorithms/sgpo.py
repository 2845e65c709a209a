"""SGPO: GRPO on the autonomous group, and a pull toward what the strategy makes the policy do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sgpo.algorithms.base import Algorithm, Scorer, Target, TrainingRow, correct_guided, policy_gradient_rows
from sgpo.objective import distill_weight, select_target
from sgpo.rollouts.groups import Rollout, RolloutGroup, pass_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class SGPO(Algorithm):
    """Strategy-Guided Policy Optimization (arXiv 2606.24064).

    Sample: `num_autonomous` completions from the autonomous prompt and `num_guided` from the prompt with the strategy.
    Loss: GRPO on the autonomous group, plus one distillation target per problem. The target is the *correct* guided
    completion that the unguided policy finds likeliest; along it, token by token, the unguided distribution is pulled
    toward the guided one, `min(KL(guided || unguided), kl_clip)`, weighed by `alpha(q)`: strongly where the
    autonomous group fails and the guided one succeeds, not at all where guidance adds nothing. A problem without a
    strategy or without a correct guided completion is trained by GRPO alone; a truncated completion is never a target.
    """

    parts = frozenset({"policy gradient", "divergence", "guided prompts"})

    num_autonomous: int = 8
    num_guided: int = 4
    scale_advantages: bool = True
    mask_truncated_completions: bool = False
    target_selection: Literal["likelihood", "random"] = "likelihood"
    distill_weight: Literal["adaptive", "constant"] = "adaptive"
    distill_weight_base: float = 0.5
    distill_weight_smoothing: float = 0.1
    distill_weight_max: float = 0.8

    def training_rows(
        self, groups: Sequence[RolloutGroup], score: Scorer, *, generator: torch.Generator
    ) -> list[TrainingRow]:
        rows = policy_gradient_rows(
            groups,
            scale_advantages=self.scale_advantages,
            mask_truncated_completions=self.mask_truncated_completions,
        )
        return rows + self._target_rows(groups, score, generator)

    def _target_rows(
        self, groups: Sequence[RolloutGroup], score: Scorer, generator: torch.Generator
    ) -> list[TrainingRow]:
        candidates = {p: correct_guided(group) for p, group in enumerate(groups)}
        weights = {p: self.weight(groups[p]) for p in candidates if candidates[p]}
        weights = {p: weight for p, weight in weights.items() if weight > 0}
        # With one candidate there is no choice, and a random one needs no likelihood.
        by_likelihood = self.target_selection == "likelihood"
        scored = [p for p in weights if by_likelihood and len(candidates[p]) > 1]
        logprobs = iter(score([(groups[p].prompt, rollout) for p in scored for rollout in candidates[p]]))
        rows = []
        for p, weight in weights.items():
            logprobs_G = [next(logprobs) if p in scored else torch.zeros(1) for _ in candidates[p]]
            correct_G = [True] * len(logprobs_G)
            chosen = select_target(logprobs_G, correct_G, rule=self.target_selection, generator=generator)
            assert chosen is not None
            rows.append(self._target_row(p, groups[p], candidates[p][chosen], weight))
        return rows

    def weight(self, group: RolloutGroup) -> float:
        """The distillation weight of a problem from its two pass rates."""
        if self.distill_weight == "constant":
            return self.distill_weight_base
        return distill_weight(
            pass_rate(group.guided),
            pass_rate(group.autonomous),
            base=self.distill_weight_base,
            smoothing=self.distill_weight_smoothing,
            maximum=self.distill_weight_max,
        )

    def _target_row(self, p: int, group: RolloutGroup, rollout: Rollout, weight: float) -> TrainingRow:
        assert group.guided_prompt is not None
        return TrainingRow(
            problem_index=p,
            prompt=group.prompt,
            completion_ids=rollout.completion_ids,
            target=Target(
                guided_prompt=group.guided_prompt,
                strategy_id=group.strategy_id,
                weight=weight,
                guided_pass_rate=pass_rate(group.guided),
                autonomous_pass_rate=pass_rate(group.autonomous),
            ),
        )
