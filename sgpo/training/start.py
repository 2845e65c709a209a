"""A first recipe for a machine: `sgpo init`. Each line that matters says why it is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sgpo.training.config import SGPOConfig
from sgpo.training.memory import memory_needed

SMALL_MODEL, LARGER_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"
USABLE = 0.85  # of a GPU's memory; the rest goes to one layer's activations and to what the allocator wastes
PROMPT_TOKENS = 1024


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


def first_recipe(
    machine: Machine, *, model: str | None, problems: str, bank: str, config: Any = None, out: str = "runs/mine"
) -> str:
    """Write a recipe for a machine.

    Args:
        machine: Where it will run.
        model: The model's path or hub id; one that suits the machine if not given.
        problems: The problem file.
        bank: The strategy bank.
        config: The model's config, to choose between full fine-tuning and adapters; adapters where it is not known.
        out: The run directory.

    Returns:
        The YAML text.
    """
    if machine.gpu_bytes is None:
        return _TEXT.format(
            model=model or SMALL_MODEL, problems=problems, bank=bank, out=out, where="a CPU", lora=_LORA.format(r=16),
            learning_rate="1.0e-5", why="with adapters, ten times that of full fine-tuning", batch=4, completion=512,
            precision="  use_cpu: true\n", generation=32, engine=_HF, steps=50,
        )  # fmt: skip
    gib = machine.gpu_bytes / 2**30
    full = config is not None and _fits_in_full(config, machine)
    return _TEXT.format(
        model=model or LARGER_MODEL, problems=problems, bank=bank, out=out, where=f"a GPU of {gib:.0f} GiB",
        lora="" if full else _LORA.format(r=32), learning_rate="1.0e-6" if full else "1.0e-5",
        why="of full fine-tuning" if full else "with adapters, ten times that of full fine-tuning", batch=16,
        completion=2048, precision="  bf16: true\n  activation_checkpointing: true # memory for time\n", generation=64,
        engine=_VLLM, steps=200,
    )  # fmt: skip


def _fits_in_full(config: Any, machine: Machine) -> bool:
    """Whether full fine-tuning is computed to fit; without the engine's keys and values, which can be made smaller."""
    assert machine.gpu_bytes is not None
    args = SGPOConfig(output_dir="", use_cpu=True, engine="vllm")
    need = memory_needed(config, args, None, longest=PROMPT_TOKENS)
    return need["total"] + 2 * need["parameters"] < USABLE * machine.gpu_bytes


_LORA = """\
# Adapters: they fit where all weights, their gradients and AdamW's moments (16 bytes a parameter) do not.
lora: {{r: {r}, lora_alpha: 64}}

"""
_HF = "  engine: hf # the model generates itself; on a GPU vllm is far faster\n"
_VLLM = """\
  engine: hf # far faster on a GPU: vllm, with pip install 'sgpo[vllm]' and vllm_enable_sleep_mode=true
"""
_TEXT = """\
# A first recipe for {where}. Look before you start:
#   sgpo strategies measure --recipe THIS --limit 100   (do the strategies help this model?)
#   sgpo train THIS --dry-run                           (coverage, lengths, memory, the prompts)
model: {model}
problems: {problems} # JSON Lines with id, problem, answer; sgpo problems import makes it from other files
bank: {bank} # strategies for these ids; sgpo strategies import or extract makes it
out: {out}

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
{engine}  generation_batch_size: {generation} # completions at a time: memory of generation
  max_tokens_per_batch: 8192 # tokens of one forward and backward: memory of training
{precision}  save_steps: 20
"""
