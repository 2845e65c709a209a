"""The `sgpo` command. Heavy imports are inside the commands, so that `sgpo --help` is quick."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from itertools import chain, count
from pathlib import Path
from typing import Annotated

import typer

from sgpo.console import AsJson, one_line_errors, print_json, work_on_stderr
from sgpo.evaluation.cli import eval_, score
from sgpo.evaluation.problems_cli import app as problems_app
from sgpo.strategies.cli import app as strategies_app

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Threads that spin while they wait make a small model 20 times slower as soon as anything else uses the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Strategy-Guided Policy Optimization: train a language model to reason with strategies it is not shown.

    Examples: sgpo quickstart;
    sgpo report runs/quickstart/grpo runs/quickstart/sgpo
    """,
)
app.add_typer(problems_app, name="problems")
app.add_typer(strategies_app, name="strategies")


class Stage(StrEnum):
    warmup = "warmup"
    rl = "rl"
    all = "all"


@app.command()
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


@app.command()
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


app.command("eval")(eval_)
app.command("score")(score)


@app.command()
@one_line_errors
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Run directories; the first is the baseline.")
    ],
    as_json: AsJson = False,
) -> None:
    """Compare runs on their common evaluations, paired over problems.

    Example: sgpo compare runs/quickstart/grpo runs/quickstart/sgpo
    """
    from rich.console import Console

    from sgpo.evaluation.comparison import compare_runs, comparison_table
    from sgpo.evaluation.settings import unlike_settings

    comparison = compare_runs(runs)
    print_json(comparison.to_json()) if as_json else Console().print(comparison_table(comparison))
    if caution := unlike_settings(runs):
        print(f"warning: {caution}", file=sys.stderr)


@app.command()
@one_line_errors
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; report.html in the first run, if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page about one or several runs.

    Example: sgpo report runs/quickstart/grpo runs/quickstart/sgpo --out report.html
    """
    from sgpo.report import write_report

    path = write_report(runs, out or runs[0] / "report.html")
    print_json({"report": str(path)}) if as_json else print(path)


@app.command()
@one_line_errors
def study(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="A YAML file; see recipes/study/.")],
    table: Annotated[str | None, typer.Option(help="One table of the study; all of them, if not given.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small version, to see that everything runs.")] = False,
    page_only: Annotated[bool, typer.Option("--page-only", help="Run nothing; write the page anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a grid of methods and seeds, two runs at a time, and write the page about it. A later start goes on.

    Examples: sgpo study recipes/study/study.yaml --quick;
    sgpo study recipes/study/study.yaml --table main
    """
    with work_on_stderr() as output:
        from sgpo.study.command import study_command

        result = study_command(study_file, table=table, quick=quick, page_only=page_only)
    print_json(result, output) if as_json else print(result["page"])


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist."""
    candidates = chain([path], (path.with_name(f"{path.name}-{number}") for number in count(2)))
    return next(candidate for candidate in candidates if not candidate.exists())


def main() -> None:
    """The console script."""
    app()
