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
    seed: Annotated[int, typer.Option(help="Of puzzles, warm-up and training.")] = 0,
    families: Annotated[
        str, typer.Option(help="Of the puzzles, separated by commas: clues, rewriting, ordering, clock.")
    ] = "clues,rewriting",
    as_json: AsJson = False,
) -> None:
    """See the method at work in five minutes on a CPU: puzzles, a tiny model, GRPO against SGPO, a report.

    Examples: sgpo quickstart --steps 120 --seed 0;
    sgpo quickstart --families clues,ordering --steps 60
    """
    with work_on_stderr() as output:
        from sgpo.puzzles.quickstart import run_quickstart, show_quickstart

        names = [name.strip() for name in families.split(",") if name.strip()]
        result = run_quickstart(out or _free(Path("runs/quickstart")), steps=steps, seed=seed, families=names)
    print_json(result, output) if as_json else show_quickstart(result)


@one_line_errors
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML or TOML file; see recipes/.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable.")
    ] = None,
    problems: Annotated[Path | None, typer.Option(help="A problem file in place of the recipe's.")] = None,
    bank: Annotated[Path | None, typer.Option(help="A strategy bank in place of the recipe's.")] = None,
    model: Annotated[str | None, typer.Option(help="A model's path or hub id in place of the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory in place of the recipe's.")] = None,
    stage: Annotated[Stage, typer.Option(help="The warm-up, reinforcement, or both.")] = Stage.all,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run from its last checkpoint.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model by a recipe.

    Examples: sgpo train recipes/quickstart.yaml --set max_steps=20 --out runs/again;
    sgpo train recipes/qwen2.5-1.5b.yaml --problems train.jsonl --bank bank.db --set learning_rate=2e-6
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
        print(f"{trained}: the warmed-up model; the same command with --stage rl goes on from it")
    else:
        print(f"{trained}: the trained model; sgpo report {loaded.out} shows the run")


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist."""
    candidates = chain([path], (path.with_name(f"{path.name}-{number}") for number in count(2)))
    return next(candidate for candidate in candidates if not candidate.exists())
