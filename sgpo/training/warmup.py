"""The warm-up: supervised fine-tuning on solutions, by TRL's own SFTTrainer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback

from sgpo.problems import Problem
from sgpo.prompts import autonomous_prompt
from sgpo.rollouts.engine import encode_prompt
from sgpo.training.callbacks import MetricsWriter, ProgressBar
from sgpo.training.run_directory import RunDirectory, checkpoint_step, last_checkpoint
from sgpo.wording import counted

Row = dict[str, list[int]]


def solution_rows(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, *, style: str, max_length: int | None
) -> tuple[list[Row], dict[str, int]]:
    """The rows of the warm-up, and what was left out: problems without a solution, or longer than `max_length` tokens.

    Raises ValueError where nothing is left.
    """
    counts = {"problems": len(problems), "without_solution": 0, "too_long": 0}
    rows = []
    for problem in problems:
        if problem.solution is None:
            counts["without_solution"] += 1
            continue
        row = tokenized_row(autonomous_prompt(problem.problem, style=style), problem.solution, tokenizer)
        if max_length is not None and len(row["input_ids"]) > max_length:
            counts["too_long"] += 1
            continue
        rows.append(row)
    if not rows:
        raise ValueError(
            f"nothing to warm up on: of {counted(len(problems), 'problem')} {counts['without_solution']} without a "
            f"solution, {counts['too_long']} longer than warmup.max_length={max_length} tokens"
        )
    return rows, counts


def tokenized_row(prompt: str, completion: str, tokenizer: PreTrainedTokenizerBase) -> Row:
    """A row for SFTTrainer with the very prompt tokens that rollouts will see; only the completion is learnt."""
    prompt_ids = encode_prompt(tokenizer, prompt)
    completion_ids = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return {"input_ids": prompt_ids + completion_ids, "labels": [-100] * len(prompt_ids) + completion_ids}


def run_warmup(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    options: dict[str, Any],
    run: RunDirectory,
) -> Path:
    """Fine-tune `model` in place on the rows; `options` are SFTConfig's. Returns where the model was saved.

    An interrupted warm-up continues from its last checkpoint. Its metrics go to the run's `warmup.jsonl`.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    working = run.path / "warmup"
    # SFTConfig's defaults are for large models on a GPU: they refuse to start on a CPU.
    defaults: dict[str, Any] = {
        "report_to": "none",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "max_length": None,
    }
    if options.get("use_cpu"):
        defaults |= {"bf16": False, "activation_checkpointing": False, "dataloader_pin_memory": False}
    config = SFTConfig(**{**defaults, **options, "output_dir": str(working)})
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        callbacks=[MetricsWriter(run, "warmup.jsonl"), *([] if config.disable_tqdm else [ProgressBar("warm-up")])],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    checkpoint = last_checkpoint(working)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        run.cut_metrics(checkpoint_step(checkpoint) if checkpoint else -1, file="warmup.jsonl")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    beside = run.checkpoints / ".warmup"
    trainer.save_model(str(beside))  # together: each process may hold a part of the weights alone
    if trainer.is_world_process_zero():
        (beside / "training_args.bin").unlink(missing_ok=True)
        os.replace(beside, run.warm_model)
        shutil.rmtree(working, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return run.warm_model
