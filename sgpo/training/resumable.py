"""A `transformers.Trainer` that keeps its checkpoints in a run directory and goes on from them exactly."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from sgpo.training.continuing import check_continuation, record_changes
from sgpo.training.in_hand import InHand, load_in_hand, save_in_hand
from sgpo.training.run_directory import RunDirectory, check_checkpoint, checkpoint_step


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
        later checkpoints included, and done again. Raises ValueError where the run directory holds another run, the
        checkpoint is none, or an option would change what is learnt; OSError where the disk is full or refuses.
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
    except (OSError, httpx2.HTTPError) as error:
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
