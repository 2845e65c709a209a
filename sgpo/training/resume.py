"""What a resumed run starts from: which options may change, and the pending state of a checkpoint.

A resumed run may change how it is computed and recorded, not what is learnt. Model, optimizer, schedule and random
states are the Trainer's part of a checkpoint; `PendingState` is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sgpo.algorithms import Target, TrainingRow
from sgpo.errors import RunDirectoryError
from sgpo.io import RENAMED_METRICS, write_json
from sgpo.rollouts.groups import PromptIds
from sgpo.training.loss import Totals
from sgpo.training.metrics import Averages
from sgpo.training.run_directory import RunDirectory, provenance

Changes = dict[str, tuple[Any, Any]]  # name of an option: its value until now, and from now on

# Options that say how a run is recorded.
_RECORDING = """
output_dir run_name project report_to trackio_space_id trackio_bucket_id trackio_static_space_id strategies.path
push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
logging_strategy logging_steps logging_first_step log_on_each_node log_level log_level_replica disable_tqdm
save_strategy save_steps save_total_limit save_only_model save_on_each_node enable_jit_checkpoint
load_best_model_at_end metric_for_best_model greater_is_better eval_strategy eval_steps eval_delay eval_on_start
do_train do_eval do_predict resume_from_checkpoint debug skip_memory_metrics rollout_fraction
"""
# Options that say how a run is computed. The global batch must stay, however it is divided.
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
TEXTS = {"prompts", "prompts.texts"}  # of which `prompts.version` is the hash
MAY_CHANGE = LENGTH.union(TEXTS, _RECORDING.split(), _RUNNING.split())
SCHEDULES_OF_NO_LENGTH = ("constant", "constant_with_warmup")
NESTED = {"args": "", "problems": "problems.", "strategies": "strategies.", "prompts": "prompts."}
# Options of 0.1 that are gone, with their defaults.
GONE = {"distill_token_share": 1.0, "target_candidates": "guided", "num_distill_targets": 1, "guide_decay": 0.0}

# A process's pending state in a checkpoint, and its name in 0.1.
_PENDING_FILE, _PENDING_FILE_OF_0_1 = "pending-{}.pt", "in-hand-{}.pt"


# -- which options may change


def check_continuation(run: RunDirectory, now: Mapping[str, Any]) -> Changes:
    """Compare a description of the run, or parts of one, with the run's `config.json`.

    Returns:
        The options that change.

    Raises:
        RunDirectoryError: an option changes what is learnt; so does the number of steps if the learning rate depends on
            it.
    """
    if not run.config_file.exists():
        return {}
    begun = run.read_config()
    # Options of 0.1 that this version cannot honour.
    gone = {name: begun.get("args", {}).get(name, default) for name, default in GONE.items()}
    if used := {name: value for name, value in gone.items() if value != GONE[name]}:
        what = ", ".join(f"{name}={value!r}" for name, value in used.items())
        raise RunDirectoryError(f"{run.path}: the run began with {what}, which is gone; resume it with sgpo 0.1")
    # Options that differ: some may, the length only under a schedule that does not depend on it.
    changes = changed_options(begun, now)
    schedule = str(now.get("args", {}).get("lr_scheduler_type", "constant"))
    allowed = MAY_CHANGE if schedule in SCHEDULES_OF_NO_LENGTH else MAY_CHANGE - LENGTH
    refuse_changes(run, {name: values for name, values in changes.items() if name not in allowed})
    return changes


def refuse_changes(run: RunDirectory, changes: Changes) -> None:
    """Raise RunDirectoryError if there are any changes."""
    if changes:
        what = ", ".join(f"{name}={old!r} (now {new!r})" for name, (old, new) in changes.items())
        raise RunDirectoryError(
            f"{run.path}: the run began with {what}, and another value would change what is learnt; resume it with the "
            "old one, or start a run in another directory"
        )


def changed_options(begun: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Compare two descriptions of a run, as far as both name an option.

    Models are compared by the last part of their path: a run on its own warm-up may have been moved.
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
    """Update the options in `config.json`, and add to its `changes` what differs after `step`."""
    if not changes:
        return
    config = run.read_config()
    since = provenance()
    entry = {
        "step": step,
        "options": {name: {"before": old, "now": new} for name, (old, new) in changes.items()},
        "command": since["command"],
        "started": since["started"],
    }
    history = [*config.get("changes", []), entry]
    write_json(run.config_file, {**config, **{key: now[key] for key in NESTED}, "changes": history})


# -- the pending state


@dataclass(slots=True)
class PendingState:
    """What a process holds between two optimizer steps: pending rollouts, and sums for the next row of metrics.

    `rows` are the training rows in use. They are of the batch `problem_ids`, in which the groups `group_ids` were
    sampled (other problems if dynamic sampling replaced some); `problem_index` of a row points into both. `totals` are
    the divisors of their loss. `averages` are the metrics since the last row.

    `loss` is the sum of the losses since step `logged_step`, `total_loss` that of the steps before, both as the Trainer
    has them; `completions` counts what training has sampled so far, all processes together.
    """

    problem_ids: list[str] = field(default_factory=list)
    group_ids: list[str] = field(default_factory=list)
    rows: list[TrainingRow] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    averages: Averages = field(default_factory=Averages)
    completions: int = 0
    loss: float = 0.0
    total_loss: float = 0.0
    logged_step: int = 0

    def narrow_to(self, problem_ids: list[str]) -> bool:
        """Keep the rows of this part of the batch, and point them there; False if a problem of it is not pending."""
        if not set(problem_ids) <= set(self.problem_ids):
            return False
        places = [self.problem_ids.index(id_) for id_ in problem_ids]
        new = {place: i for i, place in enumerate(places)}
        self.rows = [
            replace(row, problem_index=new[row.problem_index]) for row in self.rows if row.problem_index in new
        ]
        self.problem_ids, self.group_ids = problem_ids, [self.group_ids[place] for place in places]
        return True


def save_pending(checkpoint: Path, pending: PendingState, *, rank: int) -> None:
    """Write a process's pending state into a checkpoint."""
    fields = {name: getattr(pending, name) for name in PendingState.__slots__}
    rows = [asdict(row) for row in pending.rows]
    fields |= {"rows": rows, "totals": asdict(pending.totals), "averages": vars(pending.averages)}
    checkpoint.mkdir(parents=True, exist_ok=True)
    torch.save(fields, checkpoint / _PENDING_FILE.format(rank))


def load_pending(checkpoint: Path, *, rank: int, world_size: int) -> PendingState:
    """Read a process's pending state: its own, or the merged state of all if their number has changed.

    Raises:
        RunDirectoryError: the checkpoint holds no pending state, or one that cannot be read.
    """
    name = _PENDING_FILE_OF_0_1 if (checkpoint / _PENDING_FILE_OF_0_1.format(0)).exists() else _PENDING_FILE
    saved = len(list(checkpoint.glob(name.format("*"))))
    if not saved:
        raise RunDirectoryError(f"{checkpoint}: nothing in it says how the run stood (no {name.format(0)})")
    if saved == world_size:
        return _read_pending(checkpoint / name.format(rank))
    everyone = [_read_pending(checkpoint / name.format(other)) for other in range(saved)]
    # Means and sums are added up over processes when they are logged: the first takes them all, the others none.
    return _merge_pending(everyone, with_averages=rank == 0)


def _read_pending(file: Path) -> PendingState:
    try:
        return _pending_of(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises whatever it stumbles over, in many lines
        raise RunDirectoryError(
            f"{file}: cannot be read ({type(error).__name__}); resume an earlier checkpoint"
        ) from None


def _pending_of(saved: Mapping[str, Any]) -> PendingState:
    fields = {name: saved[name] for name in PendingState.__slots__}
    averages = Averages()
    for name, values in fields["averages"].items():
        renamed = (
            {RENAMED_METRICS.get(key, key): v for key, v in values.items()} if isinstance(values, dict) else values
        )
        setattr(averages, name, renamed)
    rows = [_row(row) for row in fields["rows"]]
    return PendingState(**fields | {"rows": rows, "totals": Totals(**fields["totals"]), "averages": averages})


def _row(fields: dict[str, Any]) -> TrainingRow:
    target = fields["target"]
    if target is not None:
        target = Target(**{**target, "guided_prompt": PromptIds(**target["guided_prompt"])})
    return TrainingRow(**{**fields, "prompt": PromptIds(**fields["prompt"]), "target": target})


def _merge_pending(parts: Sequence[PendingState], *, with_averages: bool) -> PendingState:
    first = parts[0]
    merged = PendingState(totals=first.totals, completions=first.completions, logged_step=first.logged_step)
    merged.averages.steps = first.averages.steps
    for part in parts:
        start = len(merged.problem_ids)
        merged.rows += [replace(row, problem_index=start + row.problem_index) for row in part.rows]
        merged.problem_ids += part.problem_ids
        merged.group_ids += part.group_ids
        merged.loss += part.loss / len(parts)  # the Trainer logs the mean over processes
        merged.total_loss += part.total_loss / len(parts)
        if with_averages:
            merged.averages.merge(part.averages)
    return merged
