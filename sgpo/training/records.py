"""The rows of a run directory's `rollouts/` and `targets/` (docs/run-directory.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from sgpo.algorithms import TrainingRow
from sgpo.rollouts.groups import RolloutGroup


def rollout_records(step: int, groups: Sequence[RolloutGroup]) -> list[dict[str, Any]]:
    """One object per sampled completion."""
    return [
        {
            "step": step,
            "problem_id": group.problem.id,
            "subject": group.problem.subject,
            "group": name,
            "prompt": rollout.prompt,
            "completion": rollout.completion,
            "tokens": len(rollout.completion_ids),
            "truncated": rollout.truncated,
            "verdict": rollout.verdict.kind if rollout.verdict is not None else None,
            "extracted": rollout.verdict.extracted if rollout.verdict is not None else None,
            "reward": _or_null(rollout.reward),
            "strategy_id": group.strategy_id if name == "guided" else None,
        }
        for group in groups
        for name, rollouts in (("autonomous", group.autonomous), ("guided", group.guided))
        for rollout in rollouts
    ]


def target_records(
    step: int,
    problem_ids: Sequence[str],
    rows: Sequence[TrainingRow],
    tokenizer: PreTrainedTokenizerBase,
    *,
    kl_clip: float | None,
) -> list[dict[str, Any]]:
    """One object per distillation target, with the divergence of each of its tokens."""
    return [
        {
            "step": step,
            "problem_id": problem_ids[row.problem_index],
            "strategy_id": row.target.strategy_id,
            "weight": row.target.weight,
            "guided_pass_rate": _or_null(row.target.guided_pass_rate),
            "autonomous_pass_rate": _or_null(row.target.autonomous_pass_rate),
            "prompt": row.prompt.text,
            "tokens": tokenizer.batch_decode([[token] for token in row.completion_ids]),
            "divergences": row.target.divergences,
            "kl_clip": kl_clip,
        }
        for row in rows
        if row.target is not None
    ]


def _or_null(value: float | None) -> float | None:
    """JSON has no NaN, which stands for what was not judged."""
    return None if value is None or math.isnan(value) else value
