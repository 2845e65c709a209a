"""With which options a run may go on: other ones for how it is run and recorded, the same for what is learnt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sgpo.training.run_directory import RunDirectory, provenance, read_json, write_json

Changes = dict[str, tuple[Any, Any]]  # name of an option: its value until now, and from now on

_RECORDING = """
output_dir run_name project report_to trackio_space_id trackio_bucket_id trackio_static_space_id strategies.path
push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
logging_strategy logging_steps logging_first_step log_on_each_node log_level log_level_replica disable_tqdm
save_strategy save_steps save_total_limit save_only_model save_on_each_node enable_jit_checkpoint
load_best_model_at_end metric_for_best_model greater_is_better eval_strategy eval_steps eval_delay eval_on_start
do_train do_eval do_predict resume_from_checkpoint debug skip_memory_metrics
"""
# The size of a batch is `problems.per_step`, however it is divided.
_RUNNING = """
per_device_train_batch_size gradient_accumulation_steps per_device_eval_batch_size eval_accumulation_steps
max_tokens_per_batch generation_batch_size verifier_workers use_cpu
activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
dataloader_multiprocessing_context dataloader_in_order
local_rank ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
fsdp fsdp_config deepspeed accelerator_config parallelism_config
vllm_mode vllm_server_base_url vllm_gpu_memory_utilization vllm_tensor_parallel_size vllm_enable_sleep_mode
vllm_max_model_length
"""
LENGTH = frozenset({"max_steps", "num_train_epochs"})
MAY_CHANGE = LENGTH.union(_RECORDING.split(), _RUNNING.split())
SCHEDULES_OF_NO_LENGTH = ("constant", "constant_with_warmup")
NESTED = {"args": "", "problems": "problems.", "strategies": "strategies.", "prompts": "prompts."}


def check_continuation(run: RunDirectory, now: Mapping[str, Any]) -> Changes:
    """What differs from the run's `config.json` in a description of the run, or in the parts of one.

    Raises ValueError for what changes what is learnt; the number of steps does where the learning rate depends on it.
    """
    if not run.config_file.exists():
        return {}
    changes = changed_options(read_json(run.config_file), now)
    schedule = str(now.get("args", {}).get("lr_scheduler_type", "constant"))
    allowed = MAY_CHANGE if schedule in SCHEDULES_OF_NO_LENGTH else MAY_CHANGE - LENGTH
    refuse_changes(run, {name: values for name, values in changes.items() if name not in allowed})
    return changes


def refuse_changes(run: RunDirectory, changes: Changes) -> None:
    """Raises ValueError where there is any."""
    if changes:
        what = ", ".join(f"{name}={old!r} (now {new!r})" for name, (old, new) in changes.items())
        raise ValueError(
            f"{run.path}: the run began with {what}, and another value would change what is learnt; go on with the old "
            "one, or start a run in another directory"
        )


def changed_options(begun: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """What differs between two descriptions of a run, as far as both say it.

    A model is compared by its name alone: a run on its own warm-up may have been moved.
    """
    now = json.loads(json.dumps(now, default=str))
    changes: Changes = {}
    for key in (key for key in now if key in begun):
        old, new = begun[key], now[key]
        if key in NESTED:
            names = [name for name in new if name in old and old[name] != new[name]]
            changes |= {NESTED[key] + name: (old[name], new[name]) for name in names}
        elif (Path(old).name != Path(new).name) if key == "model" else old != new:
            changes[key] = (old, new)
    return changes


def record_changes(run: RunDirectory, changes: Changes, now: Mapping[str, Any], *, step: int) -> None:
    """Bring the options in `config.json` up to date, and add to its `changes` what is other from after `step` on."""
    if not changes:
        return
    config = read_json(run.config_file)
    since = provenance()
    entry = {
        "step": step,
        "options": {name: {"before": old, "now": new} for name, (old, new) in changes.items()},
        "command": since["command"],
        "started": since["started"],
    }
    history = [*config.get("changes", []), entry]
    write_json(run.config_file, {**config, **{key: now[key] for key in NESTED}, "changes": history})
