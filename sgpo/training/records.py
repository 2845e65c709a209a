"""The rows of a run directory's `rollouts/` and `targets/` (docs/run-directory.md), and what they say of strategies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
            "reward": None if math.isnan(rollout.reward) else rollout.reward,
            "strategy_id": group.strategy_id if name == "guided" else None,
        }
        for group in groups
        for name, rollouts in (("autonomous", group.autonomous), ("guided", group.guided))
        for rollout in rollouts
    ]


def target_records(
    step: int,
    groups: Sequence[RolloutGroup],
    rows: Sequence[TrainingRow],
    tokenizer: PreTrainedTokenizerBase,
    *,
    kl_clip: float | None,
) -> list[dict[str, Any]]:
    """One object per distillation target, with the divergence of each of its tokens."""
    return [
        {
            "step": step,
            "problem_id": groups[row.problem_index].problem.id,
            "strategy_id": row.target.strategy_id,
            "weight": row.target.weight,
            "guided_pass_rate": row.target.guided_pass_rate,
            "autonomous_pass_rate": row.target.autonomous_pass_rate,
            "prompt": row.prompt.text,
            "tokens": tokenizer.batch_decode([[token] for token in row.completion_ids]),
            "divergences": row.target.divergences,
            "kl_clip": kl_clip,
        }
        for row in rows
        if row.target is not None
    ]


def strategy_effects(rows: Iterable[Mapping[str, Any]], strategy_ids: Mapping[str, str]) -> dict[str, list[int]]:
    """What each strategy did in a run: guided passes and completions, autonomous passes and completions.

    `rows` are those of `rollouts/`; `strategy_ids` says which strategy a problem had. Autonomous completions of a
    problem count for its strategy, as what it is compared with. A completion without a reward (a time-out) counts
    nowhere.
    """
    effects: dict[str, list[int]] = {}
    for row in rows:
        strategy_id = strategy_ids.get(row["problem_id"])
        if strategy_id is None or row["reward"] is None:
            continue
        counts = effects.setdefault(strategy_id, [0, 0, 0, 0])
        place = 0 if row["group"] == "guided" else 2
        counts[place] += row["reward"] > 0.5
        counts[place + 1] += 1
    return effects


def new_counts(now: Sequence[int], before: Sequence[int]) -> list[int]:
    """What came to the counts of `strategy_effects` since `before`.

    A run resumed from an early checkpoint makes steps anew that were counted already: they add nothing, so never more
    passes than completions.
    """
    guided, guided_total, autonomous, autonomous_total = (
        max(new - old, 0) for new, old in zip(now, before, strict=True)
    )
    return [min(guided, guided_total), guided_total, min(autonomous, autonomous_total), autonomous_total]
