"""A first recipe for a machine: `sgpo init`. Each line that matters says why it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import yaml
from peft import LoraConfig
from transformers import Qwen2Config

from sgpo.training.config import SGPOConfig
from sgpo.training.memory import memory_needed

SMALL_MODEL, LARGER_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"
USABLE = 0.85  # of a GPU's memory; the rest goes to what the allocator wastes
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run will use: a GPU with so many bytes of memory, or the CPU (None)."""

    gpu_bytes: int | None = None

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        if not torch.cuda.is_available():
            return cls()
        return cls(int(torch.cuda.get_device_properties(0).total_memory))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What is trained (a key of _WEIGHTS), the rank of adapters, completions generated and tokens trained at a time."""

    weights: str
    rank: int
    generation: int
    tokens: int


def first_recipe(
    machine: Machine, *, model: str | None, problems: str, bank: str, config: Any = None, out: str = "runs/mine"
) -> str:
    """Write a recipe for a machine: on a GPU the first of several that is computed to fit, from training all weights to
    adapters above 4 bits; the smallest where none fits, which its first lines say.

    Args:
        machine: Where it will run.
        model: The model's path or hub id; one that suits the machine if not given.
        problems: The problem file.
        bank: The strategy bank.
        config: The config of the model that is given.
        out: The run directory.

    Returns:
        The YAML text.
    """
    fill = partial(_fill, problems=problems, bank=bank, out=out)
    if machine.gpu_bytes is None:
        return fill("a CPU", model or SMALL_MODEL, _Sizes("lora", 16, 32, 2048), _CPU)
    model, config = (model, config) if model is not None and config is not None else (model or LARGER_MODEL, _larger())
    where = f"a GPU of {machine.gpu_bytes / GIB:.0f} GiB"
    usable = USABLE * machine.gpu_bytes
    for weights in _WEIGHTS:
        texts = [fill(where, model, _Sizes(weights, 32, *sizes), _GPU) for sizes in ((64, 8192), (16, 4096), (8, 4096))]
        smallest = _memory(texts[-1], config)
        if smallest <= usable:
            return next(text for text in texts if text is texts[-1] or _memory(text, config) <= usable)
    too_large = (
        f"# Computed to need {smallest / GIB:.0f} GiB: too much for {where}; take a smaller model, or several GPUs."
    )
    return f"{too_large}\n{texts[-1]}"


def _memory(recipe: str, config: Any) -> int:
    """The bytes that a recipe is computed to need."""
    content = yaml.safe_load(recipe)
    args = SGPOConfig(output_dir="", use_cpu=True, **content["train"])  # of a GPU that need not be here
    lora = content.get("lora")
    adapters = LoraConfig(target_modules="all-linear", **lora) if lora is not None else None
    return memory_needed(config, args, adapters, longest=args.max_prompt_length)["total"]


def _fill(where: str, model: str, sizes: _Sizes, kind: Mapping[str, Any], *, problems: str, bank: str, out: str) -> str:
    whole = sizes.weights == "all"
    return _TEXT.format(
        where=where,
        model=_scalar(model),
        problems=_scalar(problems),
        bank=_scalar(bank),
        out=_scalar(out),
        lora="" if whole else _LORA.format(rank=sizes.rank),
        learning_rate="1.0e-6" if whole else "1.0e-5",
        why="of full fine-tuning" if whole else "with adapters, ten times that of full fine-tuning",
        below=_WEIGHTS[sizes.weights],
        generation=sizes.generation,
        tokens=sizes.tokens,
        **kind,
    )


def _scalar(text: str) -> str:
    """A text as a YAML value that a comment may follow."""
    try:
        as_it_is = yaml.safe_load(f"key: {text} # why") == {"key": text}
    except yaml.YAMLError:
        as_it_is = False
    return text if as_it_is else json.dumps(text, ensure_ascii=False)


def _larger() -> Qwen2Config:
    """The config of LARGER_MODEL, where the hub is not asked."""
    return Qwen2Config(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip


# What is trained: all weights, or adapters above weights in 32, 16 and 4 bits.
_WEIGHTS = {
    "all": "",
    "lora": "",
    "lora16": "  model_init_kwargs: {dtype: bfloat16} # of the weights below the adapters: half the memory\n",
    "lora4": """\
  # The weights below the adapters in 4 bits (QLoRA): pip install -e '.[bitsandbytes]'.
  model_init_kwargs:
    quantization_config: {load_in_4bit: true, bnb_4bit_quant_type: nf4, bnb_4bit_compute_dtype: bfloat16}
""",
}
_LORA = """\
# Adapters: they fit where all weights, their gradients and AdamW's moments (16 bytes a parameter) do not.
lora: {{r: {rank}, lora_alpha: 64}}

"""
_CPU = {
    "steps": 50,
    "batch": 4,
    "completion": 512,
    "engine": "hf # the model generates itself; on a GPU vllm is far faster",
    "precision": "  use_cpu: true\n",
}
_GPU = {
    "steps": 200,
    "batch": 16,
    "completion": 2048,
    "engine": "hf # far faster on a GPU: vllm, with pip install -e '.[vllm]' and vllm_enable_sleep_mode: true",
    "precision": "  bf16: true\n  activation_checkpointing: true # memory for time\n",
}
_TEXT = """\
# A first recipe for {where}. Look before you start:
#   sgpo strategies measure --recipe THIS --limit 100   (do the strategies help this model?)
#   sgpo train THIS --dry-run                           (coverage, lengths, memory, the prompts)
model: {model}
problems: {problems} # JSON Lines with id, problem, answer; sgpo problems import makes it from other files
bank: {bank} # strategies for these ids; sgpo strategies import or extract makes it
out: {out}
# evaluation: test.jsonl # other problems to evaluate on, with eval_strategy: steps and eval_steps: 20 in train
# warmup: {{fraction: 0.3, epochs: 3}} # learn from solutions first, where the problems have them

{lora}train:
  algorithm: sgpo
  num_autonomous: 8 # completions without a strategy: their pass rate decides how strong the pull is
  num_guided: 4 # completions with it: a correct one is what the policy is pulled toward
  learning_rate: {learning_rate} # {why}
  max_steps: {steps}
  per_device_train_batch_size: {batch} # problems, so {batch} x 12 completions in a step
  max_prompt_length: 1024
  max_completion_length: {completion} # an answer that is cut off earns nothing: raise it if truncation alarms
  verifier_policy: strict # reward an answer in a box alone
  engine: {engine}
  generation_batch_size: {generation} # completions at a time: memory of generation
  max_tokens_per_batch: {tokens} # tokens of one forward and backward: memory of training
{precision}{below}  save_steps: 20
"""
