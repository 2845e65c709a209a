"""What a run will do, said before it starts: `sgpo train --dry-run`. No weights are loaded, and nothing is written.

Numbers come from the same prepared problems that training would use. Memory is computed (docs/training.md), from the
model's config alone; where a run needs more than is said here, it is the activations inside of a layer and what the
allocator wastes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from sgpo.algorithms import Algorithm
from sgpo.training.config import SGPOConfig
from sgpo.training.data import Prepared

BYTES_PER_TOKEN = 5  # of a completion in `rollouts/`
TRAINED_BYTES = 16  # per parameter: weight, gradient, two moments of AdamW, in float32


def describe_plan(
    prepared: Prepared,
    tokenizer: PreTrainedTokenizerBase,
    config: Any,
    args: SGPOConfig,
    algorithm: Algorithm,
    *,
    peft_config: Any = None,
    warmup: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Say what a run will do.

    Args:
        prepared: The problems of reinforcement.
        tokenizer: The policy's.
        config: The policy's config.
        args: The options.
        algorithm: The algorithm.
        peft_config: Adapters that are trained instead of the whole model.
        warmup: The counts of the warm-up's problems; None without a warm-up.

    Returns:
        The object of `sgpo train --dry-run --json`: counts, tokens, and bytes.
    """
    problems = len(prepared.problems)
    batches = problems // args.global_batch_size
    updates = batches * args.num_iterations
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * updates)
    each = algorithm.num_autonomous + algorithm.num_guided
    completions = math.ceil(steps / args.num_iterations) * args.global_batch_size * each
    guided = [group.guided_prompt for group in prepared.groups.values() if group.guided_prompt is not None]
    longest = max((len(group.prompt.ids) for group in prepared.groups.values()), default=0)
    tokens = completions * args.max_completion_length
    return {
        "algorithm": args.algorithm,
        "problems": {"train": problems, "global_batch": args.global_batch_size, **prepared.counts},
        "warmup": dict(warmup) if warmup is not None else None,
        "guided_fraction": prepared.guided_fraction if algorithm.guides else None,
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
        "free_memory": free_memory(),
        "prompts": rendered_prompts(prepared, tokenizer),
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


def memory_needed(config: Any, args: SGPOConfig, peft_config: Any, *, longest: int) -> dict[str, int]:
    """Compute the bytes that training holds, part by part, from a model's config.

    Args:
        config: The model's config.
        args: The options.
        peft_config: Adapters that are trained instead of the whole model.
        longest: Tokens of the longest prompt.

    Returns:
        `parameters` and `trained` (counts), then bytes: `weights` (with gradients and AdamW's moments), `copies`
        (16-bit weights of a step), `activations` (between layers, or more where they are not checkpointed), `cache`
        (keys and values of a generation by the engine hf), and `total`.
    """
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    text = config.get_text_config()
    layers, hidden = text.num_hidden_layers, text.hidden_size
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
    dtype = str((args.model_init_kwargs or {}).get("dtype", "float32"))
    frozen_bytes = 2 if "16" in dtype else 4
    parts = {
        "weights": trained * TRAINED_BYTES + (parameters * frozen_bytes if peft_config is not None else 0),
        "copies": 2 * parameters if args.bf16 or args.fp16 else 0,
        "activations": 4 * args.max_tokens_per_batch * hidden * layers,
        "cache": 0,
    }
    if args.engine == "hf":
        room = longest + args.max_completion_length
        parts["cache"] = 4 * args.generation_batch_size * room * layers * 2 * heads * head_size
    return {"parameters": parameters, "trained": trained, **parts, "total": sum(parts.values())}


def free_memory() -> int:
    """The bytes that are free: of the GPU that training would use, or of main memory where there is none."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
