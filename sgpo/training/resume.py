"""A `transformers.Trainer` that keeps its checkpoints in a run directory and goes on from them exactly.

With which options a run may go on: other ones for how it is run and recorded, the same for what is learnt.

What a process has in hand between two optimizer steps, as a checkpoint keeps it.

Model, optimizer, schedule and random states are the Trainer's part of a checkpoint; this is ours: the rollouts that
more updates will use, and what was measured since the last row of metrics.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from sgpo.algorithms import Target, TrainingRow
from sgpo.errors import RunDirectoryError
from sgpo.io import read_json, write_json
from sgpo.rollouts.groups import PromptIds
from sgpo.training.loss import Totals
from sgpo.training.metrics import Averages
from sgpo.training.run_directory import RunDirectory, check_checkpoint, checkpoint_step, provenance

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

    Raises RunDirectoryError for what changes what is learnt; the number of steps does where the learning rate depends
    on it.
    """
    if not run.config_file.exists():
        return {}
    changes = changed_options(read_json(run.config_file), now)
    schedule = str(now.get("args", {}).get("lr_scheduler_type", "constant"))
    allowed = MAY_CHANGE if schedule in SCHEDULES_OF_NO_LENGTH else MAY_CHANGE - LENGTH
    refuse_changes(run, {name: values for name, values in changes.items() if name not in allowed})
    return changes


def refuse_changes(run: RunDirectory, changes: Changes) -> None:
    """Raises RunDirectoryError where there is any."""
    if changes:
        what = ", ".join(f"{name}={old!r} (now {new!r})" for name, (old, new) in changes.items())
        raise RunDirectoryError(
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


@dataclass(slots=True)
class InHand:
    """`rows` are the training rows in use: those of the batch `problem_ids`, in which `group_ids` are sampled (others
    where dynamic sampling replaced some); their `problem_index` points into both.

    `loss` is the sum of the losses since step `logged_step`, `total_loss` that of the steps before, both as the Trainer
    has them; `completions` how many training has sampled so far, all processes together. `average`: the moving average
    of the weights, where the guided branch is taken from one.
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
    average: dict[str, torch.Tensor] = field(default_factory=dict)

    def narrow_to(self, problem_ids: list[str]) -> bool:
        """Keep the rows of this part of the batch, and point them there; False where one of these is not in hand."""
        if not set(problem_ids) <= set(self.problem_ids):
            return False
        places = [self.problem_ids.index(id_) for id_ in problem_ids]
        new = {place: i for i, place in enumerate(places)}
        self.rows = [
            replace(row, problem_index=new[row.problem_index]) for row in self.rows if row.problem_index in new
        ]
        self.problem_ids, self.group_ids = problem_ids, [self.group_ids[place] for place in places]
        return True


def save_in_hand(checkpoint: Path, in_hand: InHand, *, process: int) -> None:
    """Write what a process has in hand into a checkpoint."""
    fields = {name: getattr(in_hand, name) for name in InHand.__slots__}
    rows = [asdict(row) for row in in_hand.rows]
    fields |= {"rows": rows, "totals": asdict(in_hand.totals), "averages": vars(in_hand.averages)}
    checkpoint.mkdir(parents=True, exist_ok=True)
    torch.save(fields, _file(checkpoint, process))


def load_in_hand(checkpoint: Path, *, process: int, processes: int) -> InHand:
    """What a process takes up from a checkpoint: its own, or where other processes wrote it, everyone's.

    Raises RunDirectoryError for a checkpoint without any.
    """
    saved = len(list(checkpoint.glob("in-hand-*.pt")))
    if not saved:
        raise RunDirectoryError(f"{checkpoint}: nothing in it says how the run stood (no in-hand-0.pt)")
    if saved == processes:
        return _read(_file(checkpoint, process))
    everyone = [_read(_file(checkpoint, other)) for other in range(saved)]
    # Means and sums are added up over processes when they are logged: the first takes them all, the others none.
    return _together(everyone, with_averages=process == 0)


def _file(checkpoint: Path, process: int) -> Path:
    return checkpoint / f"in-hand-{process}.pt"


def _read(file: Path) -> InHand:
    fields: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    averages = Averages()
    vars(averages).update(fields["averages"])
    rows = [_row(row) for row in fields["rows"]]
    return InHand(**fields | {"rows": rows, "totals": Totals(**fields["totals"]), "averages": averages})


def _row(fields: dict[str, Any]) -> TrainingRow:
    target = fields["target"]
    if target is not None:
        target = Target(**{**target, "guided_prompt": PromptIds(**target["guided_prompt"])})
    return TrainingRow(**{**fields, "prompt": PromptIds(**fields["prompt"]), "target": target})


def _together(parts: Sequence[InHand], *, with_averages: bool) -> InHand:
    first = parts[0]
    together = InHand(
        totals=first.totals, completions=first.completions, logged_step=first.logged_step, average=first.average
    )
    together.averages.steps = parts[0].averages.steps
    for part in parts:
        start = len(together.problem_ids)
        together.rows += [replace(row, problem_index=start + row.problem_index) for row in part.rows]
        together.problem_ids += part.problem_ids
        together.group_ids += part.group_ids
        together.loss += part.loss / len(parts)  # the Trainer logs the mean over processes
        together.total_loss += part.total_loss / len(parts)
        if with_averages:
            together.averages.take_in(part.averages)
    return together


class ResumableTrainer(Trainer):
    """What of a run outlives a process: checkpoints that are whole or absent, and all that the next step depends on.

    A subclass has its `run`, keeps what it has in hand between two steps in `in_hand`, and says how a run begins.
    """

    run: RunDirectory
    _saving = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.in_hand = InHand()
        self.add_callback(_GoOn(self))

    @abstractmethod
    def _begin_run(self) -> None:
        """Write what a run directory starts with; called in process 0."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What `config.json` says of the run."""

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, and leave the model in the run directory's `checkpoints/final`.

        `resume_from_checkpoint`: a checkpoint, or True for the run's last one. What the run did after it is removed,
        later checkpoints included, and done again. Raises RunDirectoryError where the run directory holds another run,
        the checkpoint is none, or an option would change what is learnt; OSError where the disk is full or refuses.
        """
        checkpoint: Path | None = None
        if resume_from_checkpoint:
            # A run that was killed before its first checkpoint starts again from the beginning.
            checkpoint = self.run.last_checkpoint() if resume_from_checkpoint is True else Path(resume_from_checkpoint)
            description, step = self.describe(), -1
            changes = check_continuation(self.run, description)
            if checkpoint is not None:
                check_checkpoint(checkpoint)
                step = checkpoint_step(checkpoint)
                self.in_hand = load_in_hand(checkpoint, process=self.args.process_index, processes=self.args.world_size)
                self.args.eval_on_start = False  # it was done when the run started
            self.accelerator.wait_for_everyone()  # no process looks for a checkpoint that another removes
            if self.is_world_process_zero():
                self.run.cut_after(step)
                record_changes(self.run, changes, description, step=max(step, 0))
        else:
            self.run.check_unused()
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero() and not self.run.config_file.exists():
            self._begin_run()
        self.accelerator.wait_for_everyone()
        output = super().train(resume_from_checkpoint=str(checkpoint) if checkpoint else None, **kwargs)
        self.save_model()
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs:  # of the whole run, not of the steps since it was resumed
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model, tokenizer and chat template; by default as the run's `checkpoints/final`. Uploads nothing."""
        if output_dir is not None:
            super().save_model(output_dir, _internal_call=True)
            return
        with self._whole(self.run.final_model) as beside:
            super().save_model(str(beside), _internal_call=True)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository of `push_to_hub`. Raises OSError where the hub refuses or cannot be reached."""
        with _hub("push_to_hub: no repository could be made", "log in with `hf auth login`, or train without it"):
            super().init_hf_repo(token, private)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Upload the final model and its card to the repository `hub_model_id`, and nothing else of the run.

        The Trainer's own would copy each checkpoint's files over those of the run directory, and upload all of it.
        Raises OSError where the hub refuses or cannot be reached.
        """
        if not self.is_world_process_zero():
            return None
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        final = self.run.final_model
        with _hub(f"{final}: trained and saved, but not uploaded", f"hf upload {self.hub_model_id} {final}"):
            api: Any = HfApi()  # its overloads want `run_as_future` as a literal
            return api.upload_folder(
                repo_id=self.hub_model_id,
                folder_path=final,
                commit_message=commit_message,
                token=token,
                revision=revision or self.args.hub_revision,
                run_as_future=not blocking,
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = self.run.checkpoints / f"checkpoint-{self.state.global_step}"
        with self._whole(checkpoint) as beside:
            in_hand = replace(
                self.in_hand,
                loss=self._tr_loss.item(),
                total_loss=self._total_loss_scalar,
                logged_step=self._globalstep_last_logged,
            )
            save_in_hand(beside, in_hand, process=self.args.process_index)
            super()._save_checkpoint(model, trial)
            if self.args.should_save and self.state.best_model_checkpoint == str(beside):
                self.state.best_model_checkpoint = str(checkpoint)
                self.state.save_to_json(str(beside / TRAINER_STATE_NAME))
        if self.args.should_save:
            rotate_checkpoints(str(self.run.checkpoints), self.args.save_total_limit, self.state.best_model_checkpoint)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.run.unfinished if self._saving else self.run.checkpoints)

    @contextmanager
    def _whole(self, path: Path) -> Iterator[Path]:
        """Where all processes write what appears at `path` once it is whole. Raises OSError where that fails."""
        self._saving = True
        try:
            yield self.run.unfinished / path.name
        except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises the last, of no type of its own
            self.run.drop_unfinished()
            raise OSError(
                f"{path}: cannot be written ({error}); the run is as it was, make room and resume it"
            ) from error
        finally:
            self._saving = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.run.finish(path)
        self.accelerator.wait_for_everyone()


@contextmanager
def _hub(what: str, mend: str) -> Iterator[None]:
    """Raises OSError, in one line, for what the hub refuses or the network does."""
    try:
        yield
    except (OSError, HTTPError) as error:
        raise OSError(f"{what} ({error}); {mend}") from error


class _GoOn(TrainerCallback):
    """The Trainer forgets the losses since the last logged row; a resumed run takes them from its checkpoint. How often
    to log, save and evaluate it takes from the checkpoint, though, where the options may have changed."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            state.compute_steps(args, state.max_steps)
            in_hand = self.trainer.in_hand
            self.trainer._tr_loss = torch.tensor(in_hand.loss, device=args.device)
            self.trainer._total_loss_scalar = in_hand.total_loss
            self.trainer._globalstep_last_logged = in_hand.logged_step
