"""A `transformers.Trainer` that keeps its checkpoints in a run directory and goes on from them exactly."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from transformers import Trainer

from sgpo.training.run_directory import RunDirectory, check_checkpoint, checkpoint_step


class ResumableTrainer(Trainer):
    """What of a run outlives a process. A subclass has its `run`, says how a run begins, and what it has in hand."""

    run: RunDirectory

    @abstractmethod
    def _begin_run(self) -> None:
        """Write what a run directory starts with, in process 0."""

    @abstractmethod
    def _save_in_hand(self, checkpoint: Path) -> None:
        """Write what this process has in hand between two optimizer steps, beyond the Trainer's own state."""

    @abstractmethod
    def _load_in_hand(self, checkpoint: Path) -> None:
        """Take up what `_save_in_hand` wrote."""

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, and leave the model in the run directory's `checkpoints/final`.

        `resume_from_checkpoint`: a checkpoint, or True for the run's last one. Raises ValueError where the run
        directory holds another run, or the checkpoint is none.
        """
        checkpoint: Path | None = None
        if resume_from_checkpoint:
            # A run that was killed before its first checkpoint starts again from the beginning.
            checkpoint = self.run.last_checkpoint() if resume_from_checkpoint is True else Path(resume_from_checkpoint)
            if checkpoint is not None:
                check_checkpoint(checkpoint)
                self.args.eval_on_start = False  # it was done when the run started
            if self.is_world_process_zero():
                self.run.cut_after(checkpoint_step(checkpoint) if checkpoint else -1)
            self.accelerator.wait_for_everyone()
            if checkpoint is not None:
                self._load_in_hand(checkpoint)
        else:
            self.run.check_unused()
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero() and not self.run.config_file.exists():
            self._begin_run()
        self.accelerator.wait_for_everyone()
        output = super().train(resume_from_checkpoint=str(checkpoint) if checkpoint else None, **kwargs)
        self.save_model()
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model, tokenizer and chat template; by default as the run's `checkpoints/final`."""
        super().save_model(output_dir or str(self.run.final_model), _internal_call)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # First of all: a checkpoint is whole once it has its trainer_state.json, which comes last.
        self._save_in_hand(self.run.checkpoints / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.run.checkpoints)
