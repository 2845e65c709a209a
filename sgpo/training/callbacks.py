"""Callbacks that show a run as it goes: the rows of metrics.jsonl and a progress bar."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sgpo.training.run_directory import RunDirectory


class MetricsWriter(TrainerCallback):
    """Writes every logged row to `metrics.jsonl`; keys of evaluations read `eval/...`, as in the loggers."""

    def __init__(self, run: RunDirectory, file: str = "metrics.jsonl") -> None:
        self.run, self.file = run, file

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            row = {key.replace("eval_", "eval/", 1) if key.startswith("eval_") else key: logs[key] for key in logs}
            self.run.append_metrics({"step": state.global_step, **row}, file=self.file)


class ProgressBar(TrainerCallback):
    """One line on standard error: steps, rate, time left, both pass rates and the latest score."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: tqdm[Any] | None = None
        self.shown: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(
                desc=self.name,
                initial=state.global_step,
                total=state.max_steps,
                unit="step",
                file=sys.stderr,
                dynamic_ncols=True,
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is None or not logs:
            return
        for key, value in logs.items():
            if key.startswith("pass_rate/"):
                self.shown[key.removeprefix("pass_rate/")] = f"{value:.2f}"
            elif key.startswith("eval_") and "avg@" in key:
                self.shown[key.removeprefix("eval_")] = f"{value:.3f}"
        self.bar.set_postfix(self.shown, refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
