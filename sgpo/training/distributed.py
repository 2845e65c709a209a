"""Several processes: which launches are refused, how counts are combined, how processes end (docs/distributed.md)."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Mapping

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import gather_object

from sgpo.algorithms import algorithm_class
from sgpo.errors import InputError
from sgpo.training.config import SGPOConfig

# What `accelerate launch` sets for every process. Processes that know of each other have WORLD_SIZE too.
_LAUNCHED_FOR_SEVERAL = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"}


def check_launch(args: SGPOConfig, environment: Mapping[str, str] = os.environ) -> None:
    """Check that the launch does what it says.

    Args:
        args: The options of training.
        environment: What the launcher has set.

    Raises:
        InputError: accelerate would start one process, or train whole copies, or the engine or algorithm cannot run on
            sharded weights; the message names the fix.
    """
    if args.world_size == 1 and environment.keys() >= _LAUNCHED_FOR_SEVERAL and "WORLD_SIZE" not in environment:
        raise InputError(
            "started for several processes, but this is the only one (accelerate launch starts one on a CPU, whatever "
            "num_processes says); use torchrun --nproc_per_node, or unset MASTER_ADDR to train in one"
        )
    fsdp, deepspeed = (
        bool(option) or environment.get(f"ACCELERATE_USE_{name}", "").lower() == "true"
        for name, option in (("FSDP", args.fsdp), ("DEEPSPEED", args.deepspeed))
    )
    if not fsdp and not deepspeed:
        return
    if args.device.type == "cpu":
        raise InputError(
            "sharded training (FSDP, DeepSpeed) needs GPUs: on a CPU accelerate would train whole copies and not say "
            "so; start without it"
        )
    if args.engine == "hf":
        raise InputError("sharded training (FSDP, DeepSpeed) cannot generate by itself; set engine=vllm")
    if args.beta or algorithm_class(args.algorithm).needs.frozen_guided_model:
        reader = f"beta={args.beta} measures the KL to" if args.beta else f"algorithm {args.algorithm} is guided by"
        raise InputError(
            f"sharded training (FSDP, DeepSpeed) has no whole copy of the initial weights, which {reader}; train in "
            "whole copies (DDP)"
        )
    version = args.fsdp_plugin_args["fsdp_version"] if args.fsdp else int(environment.get("FSDP_VERSION", "1"))
    if fsdp and version != 2:
        raise InputError(f"fsdp_version must be 2, got {version}: FSDP1 hides the head's weights from the loss")


def compute_dtype(accelerator: Accelerator) -> torch.dtype | None:
    """The type of the arithmetic in mixed precision; None if it is that of the weights."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)


def sum_over_processes(accelerator: Accelerator, count: int) -> int:
    """Add up the counts of all processes."""
    return int(accelerator.reduce(torch.tensor(int(count), device=accelerator.device)))


def max_over_processes(accelerator: Accelerator, count: int) -> int:
    """Find the largest count of any process."""
    return int(accelerator.gather(torch.tensor([count], device=accelerator.device)).max())


def offset_and_total(accelerator: Accelerator, count: int) -> tuple[int, int]:
    """Add up the counts of the processes before this one, and those of all processes."""
    counts = gather_object([count])
    return sum(counts[: accelerator.process_index]), sum(counts)


def part_quietly() -> None:
    """Leave the process group at the interpreter's exit, once its threads have come to rest.

    Threads of gloo drop the tensors of a collective only after its caller has continued, and need the interpreter for
    that. A thread that asks for it while the interpreter shuts down aborts a process that has done its work.
    """
    atexit.unregister(_leave)
    atexit.register(_leave)


def _leave() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        time.sleep(0.1)  # without the interpreter's lock, for threads that need microseconds of it
