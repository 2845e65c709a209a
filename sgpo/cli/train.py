"""The commands `sgpo quickstart` and `sgpo train`. Heavy imports are inside them."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from itertools import chain, count
from pathlib import Path
from typing import Annotated

import typer

from sgpo.cli.common import AsJson, one_line_errors, print_json, work_on_stderr


class Stage(StrEnum):
    warmup = "warmup"
    rl = "rl"
    all = "all"


@one_line_errors
def quickstart(
    out: Annotated[
        Path | None,
        typer.Option(help="Where to put puzzles, bank, runs and report; runs/quickstart, or -2, -3, ... if taken."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each run.")] = 120,
    seed: Annotated[int, typer.Option(help="Seed of the puzzles, the warm-up and the training.")] = 0,
    families: Annotated[
        str, typer.Option(help="Kinds of puzzles, separated by commas: clues, rewriting, ordering, clock.")
    ] = "clues,rewriting",
    as_json: AsJson = False,
) -> None:
    """See the method at work in five minutes on a CPU: puzzles, a tiny model, GRPO against SGPO, a report.

    \b
    Examples:
    sgpo quickstart --steps 120 --seed 0
    sgpo quickstart --families clues,ordering --steps 60
    """
    with work_on_stderr() as output:
        from sgpo.puzzles.quickstart import run_quickstart, show_quickstart

        names = [name.strip() for name in families.split(",") if name.strip()]
        result = run_quickstart(out or _free(Path("runs/quickstart")), steps=steps, seed=seed, families=names)
    print_json(result, output) if as_json else show_quickstart(result)


DATA, RUN = "Data and model, in place of the recipe's", "The run"


@one_line_errors
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see recipes/.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable.", rich_help_panel=RUN),
    ] = None,
    problems: Annotated[Path | None, typer.Option(help="The problem file.", rich_help_panel=DATA)] = None,
    bank: Annotated[Path | None, typer.Option(help="The strategy bank.", rich_help_panel=DATA)] = None,
    model: Annotated[str | None, typer.Option(help="The model's path or hub id.", rich_help_panel=DATA)] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory.", rich_help_panel=DATA)] = None,
    stage: Annotated[
        Stage, typer.Option(help="Run the warm-up, reinforcement, or both.", rich_help_panel=RUN)
    ] = Stage.all,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run from its last checkpoint.", rich_help_panel=RUN)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model by a recipe.

    \b
    Examples:
    sgpo train recipes/quickstart.yaml --set max_steps=20 --out runs/again
    sgpo train recipes/quickstart.yaml --set algorithm=grpo --set num_autonomous=12
    sgpo train recipes/qwen2.5-1.5b.yaml --problems train.jsonl --bank bank.db
    sgpo train recipes/qwen2.5-1.5b.yaml --resume

    The keys of --set that matter most (docs/configuration.md has all):

    \b
    What is learnt
      algorithm              sgpo, grpo, sft, guided_sft, luffy, hpt or opsd
      num_autonomous         completions per problem from the autonomous prompt
      num_guided             completions per problem from the guided prompt
      kl_clip                clip on the divergence of a token
      learning_rate          peak learning rate; 1e-5 with adapters, 1e-6 without

    \b
    How long, and how much at a time
      max_steps              optimizer steps
      num_train_epochs       passes over the problems, where max_steps is not set
      per_device_train_batch_size, gradient_accumulation_steps
                             problems of one step: their product, on each GPU
      max_completion_length  tokens of a completion
      lora.r                 train adapters of this rank, not all weights
      warmup                 null: no supervised warm-up before reinforcement

    \b
    Speed and memory
      engine                 hf, or vllm (pip install 'sgpo\\[vllm]')
      max_tokens_per_batch   tokens of one forward and backward
      generation_batch_size  completions generated at a time

    \b
    What is measured on the way
      evaluation             a problem file to evaluate on
      eval_strategy=steps, eval_steps
                             evaluate every so many steps
      save_steps             steps between two checkpoints
    """
    with work_on_stderr() as output:
        from sgpo.training.launch import run_recipe
        from sgpo.training.recipe import load_recipe

        given = {"bank": bank, "model": model, "out": out}
        replaced = [f"{key}={json.dumps(str(value))}" for key, value in given.items() if value is not None]
        loaded = load_recipe(recipe, [*replaced, *(settings or [])], problems=problems)
        trained = run_recipe(loaded, stage=stage.value, resume=resume, model_given=model is not None)
        result = {"run": loaded.out, "stage": stage.value, "model": str(trained)}
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes (torchrun, accelerate launch) the first speaks
    if as_json:
        print_json(result, output)
    elif stage is Stage.warmup:
        print(f"{trained}: the warmed-up model; the same command with --stage rl trains it further")
    else:
        print(f"{trained}: the trained model; sgpo report {loaded.out} shows the run")


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist."""
    candidates = chain([path], (path.with_name(f"{path.name}-{number}") for number in count(2)))
    return next(candidate for candidate in candidates if not candidate.exists())
