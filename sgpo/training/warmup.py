"""The warm-up: supervised fine-tuning on solutions, by TRL's own SFTTrainer."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, set_seed

from sgpo.errors import InputError
from sgpo.io import counted
from sgpo.problems import Problem
from sgpo.prompts import PromptStyle, SavedPrompts, autonomous_prompt
from sgpo.rollouts.engine import encode_prompt, encode_solution
from sgpo.rollouts.groups import RewardFunction, judge_completions
from sgpo.rollouts.models import check_adapters, is_quantized, load_policy, train_in_float32
from sgpo.training.alarms import DivergenceStop
from sgpo.training.metrics import MetricsWriter, ProgressBar
from sgpo.training.options import installed_name
from sgpo.training.run_directory import RunDirectory, checkpoint_step, last_checkpoint
from sgpo.verifier import Verdict, Verifier

logger = logging.getLogger("sgpo")

Row = dict[str, list[int]]


def wrong_solutions(problems: Sequence[Problem], verifier: Verifier | RewardFunction) -> set[str]:
    """Find the problems whose solution comes to another answer than theirs.

    A solution without an answer, or one whose judgement ran out of time, is not known to be wrong.

    Returns:
        Their ids.
    """
    solved = [(problem.solution, problem) for problem in problems if problem.solution is not None]
    judged = zip(solved, judge_completions(solved, verifier), strict=True)
    return {
        problem.id
        for (_, problem), verdict in judged
        if (verdict.kind == "wrong" if isinstance(verdict, Verdict) else verdict <= 0.5)
    }


def solution_rows(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    *,
    style: str | PromptStyle,
    max_length: int | None,
    wrong: Collection[str] = (),
    guided: Mapping[str, str] | None = None,
) -> tuple[list[Row], dict[str, int]]:
    """Make the rows of the warm-up from the problems' solutions.

    Args:
        problems: The problems.
        tokenizer: The policy's.
        style: The prompt style.
        max_length: The most tokens of a row; None is no limit.
        wrong: The ids of problems whose solution is wrong.
        guided: The prompts of the problems that are shown with their strategy, by problem id.

    Returns:
        The rows, and how many problems there are, are guided, and were left out, by reason.

    Raises:
        InputError: nothing is left.
    """
    guided = guided or {}
    counts = {"problems": len(problems), "guided": 0, "without_solution": 0, "wrong_solution": 0, "too_long": 0}
    rows = []
    for problem in problems:
        if problem.solution is None:
            counts["without_solution"] += 1
            continue
        if problem.id in wrong:
            counts["wrong_solution"] += 1
            continue
        prompt = guided.get(problem.id) or autonomous_prompt(problem.problem, style=style)
        row = tokenized_row(prompt, problem.solution, tokenizer)
        if max_length is not None and len(row["input_ids"]) > max_length:
            counts["too_long"] += 1
            continue
        counts["guided"] += problem.id in guided
        rows.append(row)
    left_out = (
        f"of {counted(len(problems), 'problem')} {counts['without_solution']} without a solution, "
        f"{counts['wrong_solution']} with a wrong one, {counts['too_long']} longer than {max_length} tokens "
        "(warmup.max_length, or the model's context)"
    )
    if not rows:
        raise InputError(f"nothing to warm up on: {left_out}")
    if len(rows) < len(problems):
        logger.warning("left out of the warm-up: %s", left_out)
    return rows, counts


def tokenized_row(prompt: str, completion: str, tokenizer: PreTrainedTokenizerBase) -> Row:
    """Make a row for SFTTrainer, with the prompt tokens that rollouts will see; only the completion is learnt."""
    prompt_ids = encode_prompt(tokenizer, prompt)
    completion_ids = encode_solution(tokenizer, completion)
    return {"input_ids": prompt_ids + completion_ids, "labels": [-100] * len(prompt_ids) + completion_ids}


def warmup_config(options: Mapping[str, Any], run: RunDirectory) -> Any:
    """The `SFTConfig` of the options, with defaults that work on a CPU too."""
    from trl import SFTConfig

    # SFTConfig's own defaults are for large models on a GPU: with them nothing starts on a CPU.
    defaults: dict[str, Any] = {
        "report_to": "none",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "max_length": None,
        "logging_nan_inf_filter": False,
    }
    if options.get("use_cpu"):
        checkpointing = installed_name(SFTConfig, "activation_checkpointing")
        defaults |= {"bf16": False, checkpointing: False, "dataloader_pin_memory": False}
    return SFTConfig(**{**defaults, **options, "output_dir": str(run.path / "warmup")})


def run_warmup(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    options: dict[str, Any],
    run: RunDirectory,
    *,
    peft_config: Any = None,
    prompts: SavedPrompts | None = None,
) -> Path:
    """Fine-tune `model` in place on the rows, or resume an interrupted warm-up from its last checkpoint.

    Args:
        model: The policy.
        tokenizer: Its tokenizer, which is saved with it.
        rows: As `tokenized_row` makes them.
        options: Options of `SFTConfig`.
        run: Gets the metrics, in `warmup.jsonl`, and the model.
        peft_config: Adapters to train; they are merged into the saved model.
        prompts: What the rows were made with; saved beside the weights.

    Returns:
        Where the model was saved.

    Raises:
        InputError: adapters that cannot be merged: with sharded weights, or as `check_adapters`.
        DivergedError: loss, gradient or weights are not finite any more.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from datasets import Dataset
    from trl import SFTTrainer

    working, config = run.path / "warmup", warmup_config(options, run)
    if peft_config is None:
        train_in_float32(model)
    set_seed(config.seed)  # before the adapters are drawn
    use_cache = getattr(model.config, "use_cache", None)
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=[
            DivergenceStop(working, "warmup.learning_rate"),
            MetricsWriter(run, "warmup.jsonl"),
            *([] if config.disable_tqdm else [ProgressBar("warm-up")]),
        ],
    )
    if peft_config is not None and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise InputError("a warm-up with lora needs whole copies of the model (DDP), not FSDP or DeepSpeed")
    check_adapters(trainer.model)
    if is_quantized(trainer.model):
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:  # the adapters: TRL has cast them to bfloat16, where small updates vanish
                parameter.data = parameter.data.float()
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    # Resume from the last checkpoint, if there is one, and drop the rows of metrics that come again.
    checkpoint = last_checkpoint(working)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        run.cut_metrics(checkpoint_step(checkpoint) if checkpoint else -1, file="warmup.jsonl")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if use_cache is not None:
        trainer.model.config.use_cache = use_cache  # the Trainer has set it to its own, which would be saved
    # Save the model whole, with its adapters merged, and let it appear under its name at once.
    staging = run.staging / run.warm_model.name
    if peft_config is None:
        trainer.save_model(str(staging))  # all processes together: each may hold only a part of the weights
    elif trainer.is_world_process_zero():
        _merged(trainer.accelerator.unwrap_model(trainer.model), working / "adapter").save_pretrained(staging)
        tokenizer.save_pretrained(staging)
    if trainer.is_world_process_zero():
        (staging / "training_args.bin").unlink(missing_ok=True)
        if prompts is not None:
            prompts.save(staging)
        run.publish(run.warm_model)
        shutil.rmtree(working, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return run.warm_model


def _merged(model: Any, staging: Path) -> Any:
    """The model whole, its adapters merged; where it is quantized, into its weights as they were before that.

    The adapters lie in `staging` meanwhile.
    """
    if not is_quantized(model):
        return model.merge_and_unload()
    model.save_pretrained(staging)
    return load_policy(staging)
