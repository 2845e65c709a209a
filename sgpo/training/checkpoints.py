"""A `transformers.Trainer` whose checkpoints are whole or absent, and which resumes from them exactly.

Exact resume needs private attributes of transformers: the losses since the last row of metrics, and where a checkpoint
is written. So whatever leans on private attributes of transformers or accelerate stands in this module, and nowhere
else; tests/training/test_private_attributes.py names each of them.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from sgpo.errors import RunDirectoryError
from sgpo.io import holding
from sgpo.progress import listen
from sgpo.prompts import SAVED_OPTIONS, SavedPrompts
from sgpo.training.config import SGPOConfig
from sgpo.training.distributed import max_over_processes, sum_over_processes
from sgpo.training.metrics import Averages
from sgpo.training.model_card import hub_errors, upload_model
from sgpo.training.resume import PendingState, check_continuation, load_pending, record_changes, save_pending
from sgpo.training.run_directory import (
    RunDirectory,
    check_checkpoint,
    checkpoint_step,
    list_checkpoints,
    write_manifest,
)

logger = logging.getLogger("sgpo")


def saved_prompts(args: SGPOConfig) -> SavedPrompts:
    """The prompts of a training run, as they lie beside its weights."""
    return SavedPrompts(style=args.style, **{name: getattr(args, name) for name in SAVED_OPTIONS})


class ResumableTrainer(Trainer):
    """A Trainer with atomic checkpoints that hold everything the next step needs.

    A subclass has its `run`, keeps in `pending` what it holds between two steps, and says how a run begins and in which
    order it takes its problems.
    """

    run: RunDirectory
    _saving = False

    def __init__(self, *, model: Any, **kwargs: Any) -> None:
        use_cache = getattr(model.config, "use_cache", None)
        super().__init__(model=model, **kwargs)
        if use_cache is not None:
            self.model.config.use_cache = use_cache  # the Trainer has set it to its own, which would be saved
        self.pending = PendingState()
        self.add_callback(_RestoreLosses(self))
        self._stop = StopOnSignal(self)
        self.add_callback(self._stop)

    @property
    def averages(self) -> Averages:
        """What was measured since the last row of metrics."""
        return self.pending.averages

    def has_pending(self, problem_ids: list[str]) -> bool:
        """Whether all processes have pending rows of their problems: not so after a resume with other problems."""
        known = self.pending.narrow_to(problem_ids)
        return sum_over_processes(self.accelerator, int(known)) == self.args.world_size

    @abstractmethod
    def begin_run(self) -> None:
        """Write the first files of a run directory; called in process 0."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What `config.json` says of the run."""

    @abstractmethod
    def train_sampler(self) -> Sampler[int]:
        """The order of the training problems."""

    # -- train and resume

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, and leave the model in the run directory's `checkpoints/final`.

        Args:
            resume_from_checkpoint: A checkpoint, or True for the run's last one. What the run did after it, later
                checkpoints included, is removed and done again.
            kwargs: More of `Trainer.train`'s.

        Raises:
            RunDirectoryError: the run directory holds another run or is in use by another process, the checkpoint is
                not whole, or an option would change what is learnt.
            OSError: the disk is full or refuses.
        """
        with holding(self.run.path) if self.is_world_process_zero() else nullcontext():
            try:
                return self._train(resume_from_checkpoint, **kwargs)
            finally:
                listen(None)  # a progress bar of a run that failed

    def _train(self, resume_from_checkpoint: str | bool | None, **kwargs: Any) -> Any:
        checkpoint: Path | None = None
        if resume_from_checkpoint:
            # A run that was killed before its first checkpoint starts again from the beginning.
            checkpoint = self._checkpoint_to_resume(resume_from_checkpoint)
            description, step = self.describe(), -1
            # Refuse before anything is changed.
            changes = check_continuation(self.run, description)
            if checkpoint is not None:
                step = checkpoint_step(checkpoint)
                self.pending = load_pending(checkpoint, rank=self.args.process_index, world_size=self.args.world_size)
                self.args.eval_on_start = False  # it was done when the run started
            self.accelerator.wait_for_everyone()  # no process looks for a checkpoint that another removes
            if self.is_world_process_zero():
                self.run.cut_after(step)
                record_changes(self.run, changes, description, step=max(step, 0))
        else:
            self.run.check_unused()
            self.accelerator.wait_for_everyone()  # no process finds what another has begun
            if self.is_world_process_zero():
                self.run.clear_failed()
        # A new run, or one that a kill left without its config, writes its first files.
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            self.run.drop_half_written()
            if not self.run.config_file.exists():
                self.begin_run()
        self.accelerator.wait_for_everyone()
        with self._stop.listening():
            output = super().train(resume_from_checkpoint=str(checkpoint) if checkpoint else None, **kwargs)
        self.save_model()
        return output

    def _checkpoint_to_resume(self, asked: Any) -> Path | None:
        """The checkpoint that was asked for, or the run's last whole one, as the first process finds it: each file is
        read once. None where the run has none. Raises RunDirectoryError where none can be resumed."""
        found: list[tuple[Path | None, str]] = [(None, "")]
        if self.is_world_process_zero():
            try:
                if asked is True:
                    checkpoint = self.run.last_checkpoint()
                    if checkpoint is None and (damaged := list_checkpoints(self.run.checkpoints)):
                        check_checkpoint(max(damaged, key=checkpoint_step))
                else:
                    check_checkpoint(checkpoint := Path(str(asked)))
                found = [(checkpoint, "")]
            except RunDirectoryError as error:
                found = [(None, str(error))]
        broadcast_object_list(found)
        checkpoint, error_message = found[0]
        if error_message:
            raise RunDirectoryError(error_message)
        return checkpoint

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs:  # of the whole run, not of the steps since it was resumed
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.train_sampler()

    # -- what is saved

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model, tokenizer, chat template and prompts, by default as the run's `checkpoints/final`."""
        if output_dir is not None:
            super().save_model(output_dir, _internal_call=True)
            if self.is_world_process_zero():
                saved_prompts(self.args).save(Path(output_dir))
            return
        with self._whole(self.run.final_model) as staging:
            super().save_model(str(staging), _internal_call=True)
            if self.is_world_process_zero():
                saved_prompts(self.args).save(staging)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = self.run.checkpoints / f"checkpoint-{self.state.global_step}"
        with self._whole(checkpoint, manifest=True) as staging:
            pending = replace(
                self.pending,
                loss=self._tr_loss.item(),
                total_loss=self._total_loss_scalar,
                logged_step=self._globalstep_last_logged,
            )
            save_pending(staging, pending, rank=self.args.process_index)
            super()._save_checkpoint(model, trial)
            # The Trainer has named the best checkpoint by its place in staging.
            if self.args.should_save and self.state.best_model_checkpoint == str(staging):
                self.state.best_model_checkpoint = str(checkpoint)
                self.state.save_to_json(str(staging / TRAINER_STATE_NAME))
        if self.args.should_save:
            rotate_checkpoints(str(self.run.checkpoints), self.args.save_total_limit, self.state.best_model_checkpoint)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.run.staging if self._saving else self.run.checkpoints)

    @contextmanager
    def _whole(self, path: Path, *, manifest: bool = False) -> Iterator[Path]:
        """Yield where all processes write; what they wrote appears at `path` once it is whole.

        Args:
            path: The checkpoint or model.
            manifest: Write a manifest, as the last of its files.

        Raises:
            OSError: writing failed; nothing has changed at `path`.
        """
        self._saving = True
        try:
            yield self.run.staging / path.name
            self.accelerator.wait_for_everyone()
            if manifest and self.args.should_save:
                write_manifest(self.run.staging / path.name, resumable=not self.args.save_only_model)
        except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises the last, of no type of its own
            self.run.drop_staging()
            raise OSError(
                f"{path}: cannot be written ({error}); the run is as it was, make room and resume it"
            ) from error
        finally:
            self._saving = False
        # All processes have written their part: what is in staging is whole.
        if self.args.should_save:
            self.run.publish(path)
        self.accelerator.wait_for_everyone()

    # -- what is uploaded

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:  # releases of transformers differ in its arguments
        """Make the repository of `push_to_hub`.

        Raises:
            OSError: the hub refuses or cannot be reached.
        """
        with hub_errors(
            "push_to_hub: no repository could be made", fix="log in with `hf auth login`, or train without it"
        ):
            super().init_hf_repo(*args, **kwargs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Upload the final model and its card to the repository `hub_model_id`, and no other file of the run.

        The Trainer's own method would copy each checkpoint's files over those of the run directory, and upload all.

        Raises:
            OSError: the hub refuses or cannot be reached.
        """
        if not self.is_world_process_zero():
            return None
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, **({} if private is None else {"private": private}))
        return upload_model(
            self.run.final_model,
            self.hub_model_id,
            commit_message=commit_message,
            token=token,
            revision=revision or self.args.hub_revision,
            run_as_future=not blocking,
        )

    # -- other private attributes

    @contextmanager
    def gradients_stay_local(self, model: Any) -> Iterator[None]:
        """Keep gradients in this process, as the Trainer does around every micro-batch but the last."""
        state = self.accelerator.gradient_state
        sync = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            with nullcontext() if self.is_deepspeed_enabled else self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(sync)


def use_one_device(args: TrainingArguments) -> None:
    """Train on one device per process, without DataParallel; `accelerate launch` starts several processes."""
    args._n_gpu = min(args.n_gpu, 1)


class StopOnSignal(TrainerCallback):
    """Ends a run that is told to stop, by SIGTERM or Ctrl-C, after the step under way: with a checkpoint and a line.

    It ends in the middle of the Trainer's loop, which would otherwise write the summary of a run that has ended. A
    second signal acts at once. Exit code 143 or 130.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.received = 0  # the signal, in this process or in any
        self.stopping = False
        self._before: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Wait for signals; outside of the main thread Python cannot."""
        if threading.current_thread() is threading.main_thread():
            heard = [one for one in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(one) != signal.SIG_IGN]
            self._before = {one: signal.signal(one, self._hear) or signal.SIG_DFL for one in heard}
        try:
            yield
        finally:
            self._stop_listening()

    def _stop_listening(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _hear(self, number: int, frame: Any) -> None:
        self.received = number
        self._stop_listening()
        if self.trainer.is_world_process_zero():
            name = signal.Signals(number).name
            # Not by print: a signal may come in the middle of one.
            os.write(2, f"\n{name}: the run saves a checkpoint after this step; another ends it at once\n".encode())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.received = max_over_processes(self.trainer.accelerator, self.received)
        if self.received:
            self.stopping = control.should_save = True
            args.save_only_model = False  # to be resumed, it needs the optimizer

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self.stopping:
            return
        if state.is_world_process_zero:
            name, step = signal.Signals(self.received).name, state.global_step
            logger.warning("stopped by %s after step %d, which is saved; resume it with --resume", name, step)
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.received)


class _RestoreLosses(TrainerCallback):
    """Gives a resumed Trainer its losses since the last row of metrics, which it forgets.

    And has it log, save and evaluate as often as the options say now: by itself it takes that from the checkpoint.
    """

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            state.compute_steps(args, state.max_steps)
            pending = self.trainer.pending
            self.trainer._tr_loss = torch.tensor(pending.loss, device=args.device)
            self.trainer._total_loss_scalar = pending.total_loss
            self.trainer._globalstep_last_logged = pending.logged_step
