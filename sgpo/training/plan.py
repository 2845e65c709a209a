"""What a run will do, said before it starts: `sgpo train --dry-run`. No weights are loaded, and nothing is written.

Numbers come from the same prepared problems and rows that training would use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from sgpo.algorithms import Algorithm
from sgpo.training.config import SGPOConfig
from sgpo.training.data import Prepared
from sgpo.training.memory import free_memory, memory_needed

BYTES_PER_TOKEN = 5  # of a completion in `rollouts/`


def describe_plan(
    prepared: Prepared,
    tokenizer: PreTrainedTokenizerBase,
    config: Any,
    args: SGPOConfig,
    algorithm: Algorithm,
    *,
    peft_config: Any = None,
) -> dict[str, Any]:
    """Say what reinforcement will do.

    Args:
        prepared: The problems of reinforcement.
        tokenizer: The policy's.
        config: The policy's config.
        args: The options.
        algorithm: The algorithm.
        peft_config: Adapters that are trained instead of the whole model.

    Returns:
        Counts, tokens and bytes. `completions`, `max_completion_tokens` and `rollout_bytes` are upper bounds: all
        problems guided, every completion as long as may be.

    Raises:
        InputError: as `memory_needed`.
    """
    problems = len(prepared.problems)
    batches = problems // args.global_batch_size
    updates = batches * args.num_iterations
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * updates)
    each = algorithm.num_autonomous + algorithm.num_guided
    groups = math.ceil(steps / args.num_iterations) * args.global_batch_size * (1 + args.dynamic_sampling)
    completions = groups * each
    guided = [group.guided_prompt for group in prepared.groups.values() if group.guided_prompt is not None]
    longest = max((len(group.prompt.ids) for group in prepared.groups.values()), default=0)
    tokens = completions * args.max_completion_length
    return {
        "algorithm": args.algorithm,
        "problems": {"train": problems, "global_batch": args.global_batch_size, **prepared.counts},
        "guided_fraction": prepared.guided_fraction if algorithm.guides else None,
        "strategies": _coverage(prepared) if algorithm.guides else None,
        "prompt_tokens": {
            "limit": args.max_prompt_length,
            "autonomous": percentiles([len(group.prompt.ids) for group in prepared.groups.values()]),
            "guided": percentiles([len(prompt.ids) for prompt in guided]),
        },
        "steps": steps,
        "epochs": round(steps / updates, 2) if updates else None,
        "completions": completions,
        "max_completion_tokens": tokens,
        "rollout_bytes": round(tokens * BYTES_PER_TOKEN * args.rollout_fraction),
        "memory": memory_needed(config, args, peft_config, longest=longest),
        "free_memory": free_memory(args),
        "prompts": rendered_prompts(prepared, tokenizer),
    }


def describe_warmup(
    rows: Sequence[Mapping[str, Sequence[int]]], counts: Mapping[str, int], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Say what the warm-up will do, from its rows, the counts of its problems and its options of SFTConfig."""
    return {
        **counts,
        "rows": len(rows),
        "epochs": options["num_train_epochs"],
        "row_tokens": percentiles([len(row["input_ids"]) for row in rows]),
    }


def _coverage(prepared: Prepared) -> dict[str, int]:
    """How many problems are guided by their own strategy, by one of another problem, or by no strategy of the bank
    (`other_guidance`: a solution, a kind of problem alone); how many are not, by reason."""
    counts = prepared.counts
    guided = [group for group in prepared.groups.values() if group.guided_prompt is not None]
    shown = sum(group.strategy_id is not None for group in guided)
    return {
        "own": shown - counts["retrieved"],
        "retrieved": counts["retrieved"],
        "other_guidance": len(guided) - shown,
        **{name: counts[name] for name in ("leaking", "guided_prompt_too_long", "without_strategy")},
    }


def rendered_prompts(prepared: Prepared, tokenizer: PreTrainedTokenizerBase) -> dict[str, str | None]:
    """The first problem's prompts exactly as the model gets them, special tokens and all; the first guided one's."""
    groups = list(prepared.groups.values())
    group = next((group for group in groups if group.guided_prompt is not None), groups[0] if groups else None)
    if group is None:
        return {"problem_id": None, "autonomous": None, "guided": None}
    guided = group.guided_prompt
    return {
        "problem_id": group.problem.id,
        "autonomous": str(tokenizer.decode(group.prompt.ids)),
        "guided": str(tokenizer.decode(guided.ids)) if guided is not None else None,
    }


def percentiles(lengths: Sequence[int]) -> dict[str, int] | None:
    """The median, the 95th percentile and the longest of some lengths; None without any."""
    if not lengths:
        return None
    ordered = sorted(lengths)
    at = {name: ordered[math.ceil(fraction * len(ordered)) - 1] for name, fraction in (("p50", 0.5), ("p95", 0.95))}
    return {**at, "max": ordered[-1]}
