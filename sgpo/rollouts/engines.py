"""The engine of a policy in training, by name."""

from __future__ import annotations

from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from sgpo.rollouts.engine import Engine, end_token_ids
from sgpo.rollouts.hf import HFEngine
from sgpo.rollouts.vllm import VLLMOptions, build_vllm_engine

EngineName = Literal["hf", "vllm"]


def build_engine(
    name: EngineName,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int,
    accelerator: Any,
    vllm: VLLMOptions,
) -> Engine:
    """The engine of that name; it samples at most `batch_size` completions at a time.

    Raises ValueError where it is not installed, or the model has no end token.
    """
    eos_ids = end_token_ids(model, tokenizer)
    if name == "vllm":
        return build_vllm_engine(model, tokenizer, accelerator, vllm, eos_ids=eos_ids, max_sequences=batch_size)
    return HFEngine(model, pad_id=tokenizer.pad_token_id, eos_ids=eos_ids, batch_size=batch_size)
