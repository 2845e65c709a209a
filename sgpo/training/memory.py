"""The memory of training, computed from a model's config and the options, part by part (docs/training.md).

It is an estimate: what is left out is the allocator's waste, tiles of logits, and whatever a model does in its own way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sgpo.algorithms import algorithm_class
from sgpo.errors import InputError
from sgpo.rollouts.models import check_adapters
from sgpo.training.config import SGPOConfig
from sgpo.training.options import installed_name

SCALE_BYTES = 4 / 64  # of a quantized weight: a block of 64 shares a number


def memory_needed(config: Any, args: SGPOConfig, peft_config: Any, *, longest: int) -> dict[str, int]:
    """Compute what one process of a training holds whose weights are not sharded.

    Args:
        config: The model's config.
        args: The options.
        peft_config: Adapters that are trained instead of the whole model.
        longest: Tokens of the longest prompt.

    Returns:
        Counts: `parameters` of the model without adapters, `trained`. Bytes that stay: `weights`, `gradients`,
        `optimizer`, `reference` (a frozen copy of the weights). Bytes of `generation`: the keys and values of the
        engine hf, or a colocated vLLM. Bytes of a forward and backward: `copies` (16-bit weights), `activations`. And
        the largest `total`: generation and training take turns, unless vLLM keeps its part.

    Raises:
        InputError: The adapters cannot be merged, or the model needs a package that is missing.
    """
    model = _without_weights(config, args)
    parameters, weights = _parameters(model), _weight_bytes(model, args, peft_config)
    if peft_config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, peft_config)
        check_adapters(model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    copied = args.beta or algorithm_class(args.algorithm).needs.frozen_guided_model
    stays = {
        "weights": weights + (4 * trained if peft_config is not None else 0),
        "gradients": 4 * trained,
        "optimizer": 8 * trained,  # the two moments of AdamW
        "reference": 4 * parameters if copied and peft_config is None else 0,
    }
    room = longest + args.max_completion_length
    in_float32 = weights >= 4 * parameters
    step = {
        "copies": 2 * parameters if (args.bf16 or args.fp16) and in_float32 else 0,
        "activations": _activations(config, args, tokens=max(room, args.max_tokens_per_batch)),
    }
    generation = _generation(config, args, parameters, room=room)
    keeps_its_part = args.engine == "vllm" and not args.vllm_enable_sleep_mode
    turns = sum(step.values()) + generation if keeps_its_part else max(sum(step.values()), generation)
    return {
        "parameters": parameters,
        "trained": trained,
        **stays,
        "generation": generation,
        **step,
        "total": sum(stays.values()) + turns,
    }


def free_memory(args: SGPOConfig) -> int | None:
    """The bytes that are free where training would run, on its GPU or in main memory; None where that is not known."""
    if args.device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text(encoding="utf-8").splitlines() if meminfo.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _without_weights(config: Any, args: SGPOConfig) -> Any:
    """A model of this config whose tensors have shapes alone."""
    code = {key: value for key, value in (args.model_init_kwargs or {}).items() if key == "trust_remote_code"}
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32, **code)
    except ImportError as error:  # of what an option asks for: flash-attn
        raise InputError(f"{config._name_or_path}: {' '.join(str(error).split())}") from error


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _weight_bytes(model: Any, args: SGPOConfig, peft_config: Any) -> int:
    """Weights that are trained are float32; those below adapters as `model_init_kwargs` says."""
    options = args.model_init_kwargs or {}
    quantization = options.get("quantization_config") or getattr(model.config, "quantization_config", None)
    if peft_config is None:
        return 4 * _parameters(model)
    if quantization:
        # Quantized are the matrices of the layers; the embeddings, the head and the norms are float32.
        head = model.get_output_embeddings()
        matrices = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        quantized = sum(matrix.numel() for matrix in matrices)
        in_8_bits = dict(quantization).get("load_in_8bit", False) if isinstance(quantization, dict) else False
        return round((1 if in_8_bits else 0.5 + SCALE_BYTES) * quantized) + 4 * (_parameters(model) - quantized)
    dtype = options.get("dtype", "float32")
    dtype = model.config.dtype if dtype == "auto" else dtype
    return (2 if "16" in str(dtype) else 4) * _parameters(model)


def _activations(config: Any, args: SGPOConfig, *, tokens: int) -> int:
    """What a forward of so many tokens keeps for its backward, in float32.

    A layer keeps about 8 vectors of the hidden size and 4 of the feed-forward size for each token. With checkpointing
    all layers but the one at work keep their input alone.
    """
    text = config.get_text_config()
    layers, hidden = _largest(text, "num_hidden_layers"), _largest(text, "hidden_size")
    layer = 8 * hidden + 4 * (_largest(text, "intermediate_size") or 4 * hidden)
    checkpointed = getattr(args, installed_name(SGPOConfig, "activation_checkpointing"))
    return 4 * tokens * (layers * hidden + layer if checkpointed else layers * layer)


def _generation(config: Any, args: SGPOConfig, parameters: int, *, room: int) -> int:
    """The keys and values of as many completions as are generated at a time; or what vLLM takes on this GPU."""
    if args.engine == "vllm" and args.vllm_mode == "server":
        return 0
    if args.engine == "vllm":
        on_gpu = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
        return max(2 * parameters, round(args.vllm_gpu_memory_utilization * on_gpu))
    text = config.get_text_config()
    heads = _largest(text, "num_attention_heads")
    size = _largest(text, "head_dim") or _largest(text, "hidden_size") // max(1, heads)
    width = (_largest(text, "num_key_value_heads") or heads) * size
    return 4 * args.generation_batch_size * room * _largest(text, "num_hidden_layers") * 2 * width


def _largest(config: Any, name: str) -> int:
    """A number of a config, or the largest where it has one for each layer; 0 where it has none."""
    value = getattr(config, name, None)
    numbers = value if isinstance(value, list | tuple) else [value]
    return max((number for number in numbers if isinstance(number, int)), default=0)
