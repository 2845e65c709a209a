"""The commands that make runs and that read them: `sgpo quickstart`, `train`, `merge`, `compare` and `report`.

Heavy imports are inside them.
"""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgpo.cli.common import KIND_HELP, AsJson, one_line_errors, print_json, work_on_stderr
from sgpo.cli.plan import show_plan
from sgpo.io import counted

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from sgpo.evaluation.compare import EvaluationComparison, RunComparison
    from sgpo.evaluation.scores import PairedDifference, ScoreEstimate


class Stage(StrEnum):
    warmup = "warmup"
    rl = "rl"
    all = "all"


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


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
    kind: Annotated[str | None, typer.Option(help=KIND_HELP, rich_help_panel=DATA)] = None,
    bank: Annotated[Path | None, typer.Option(help="The strategy bank.", rich_help_panel=DATA)] = None,
    model: Annotated[str | None, typer.Option(help="The model's path or hub id.", rich_help_panel=DATA)] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory.", rich_help_panel=DATA)] = None,
    stage: Annotated[
        Stage, typer.Option(help="Run the warm-up, reinforcement, or both.", rich_help_panel=RUN)
    ] = Stage.all,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run from its last checkpoint.", rich_help_panel=RUN)
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what the run would do; load no weights, write nothing.", rich_help_panel=RUN
        ),
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
      engine                 hf, or vllm (pip install -e '.\\[vllm]')
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
        from sgpo.training.launch import plan_recipe, run_recipe
        from sgpo.training.recipe import load_recipe

        given = {"bank": bank, "model": model, "out": out}
        replaced = [f"{key}={json.dumps(str(value))}" for key, value in given.items() if value is not None]
        loaded = load_recipe(recipe, [*replaced, *(settings or [])], problems=problems, kind=kind)
        how: Any = {"stage": stage.value, "resume": resume, "model_given": model is not None}
        plan = plan_recipe(loaded, **how) if dry_run else None
        trained = run_recipe(loaded, **how) if plan is None else None
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes (torchrun, accelerate launch) the first speaks
    if plan is not None:
        print_json(plan, output) if as_json else show_plan(plan)
    elif as_json:
        print_json({"run": loaded.out, "stage": stage.value, "model": str(trained)}, output)
    elif stage is Stage.warmup:
        print(f"{trained}: the warmed-up model; the same command with --stage rl trains it further")
    else:
        print(f"{trained}: the trained model; sgpo report {loaded.out} shows the run")


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that does not exist."""
    candidates = chain([path], (path.with_name(f"{path.name}-{number}") for number in count(2)))
    return next(candidate for candidate in candidates if not candidate.exists())


@one_line_errors
def merge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or a checkpoint with adapters.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The directory to make.")],
    dtype: Annotated[Dtype, typer.Option(help="The type of the saved weights.")] = Dtype.float32,
    as_json: AsJson = False,
) -> None:
    """Merge a run's adapters (LoRA) into the weights below them, for whatever serves whole models.

    \b
    Example:
    sgpo merge runs/mine --out runs/mine-merged --dtype bfloat16
    """
    with work_on_stderr() as output:
        from sgpo.training.merge import merge_adapters

        merge_adapters(run, out, dtype=dtype.value)
    if as_json:
        print_json({"run": str(run), "model": str(out), "dtype": dtype.value}, output)
    else:
        print(f"{out}: the merged model, with its tokenizer and chat template")


@one_line_errors
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Run directories; the first is the baseline.")
    ],
    as_json: AsJson = False,
) -> None:
    """Compare runs on the evaluations that they share, paired over problems.

    \b
    Example:
    sgpo compare runs/quickstart/grpo runs/quickstart/sgpo
    """
    from rich.console import Console

    from sgpo.evaluation.compare import compare_runs

    comparison = compare_runs(runs)
    print_json(comparison.to_json()) if as_json else Console().print(comparison_table(comparison))
    if comparison.caution:  # for a reader of the terminal who looks at no table, and of a pipe
        print(f"warning: {comparison.caution}", file=sys.stderr)


@one_line_errors
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the page to this file; report.html in the first run if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML page about one or several runs.

    \b
    Example:
    sgpo report runs/quickstart/grpo runs/quickstart/sgpo --out report.html
    """
    from sgpo.report import write_report

    path = write_report(runs, out or runs[0] / "report.html")
    print_json({"report": str(path)}) if as_json else print(path)


def comparison_table(comparison: RunComparison) -> Group:
    """The comparison for a terminal of 80 columns: a table per problem set, runs first, then their differences; below
    each what is not alike in the evaluations."""
    from rich.console import Group

    return Group(*(_evaluation_table(evaluation, comparison.caution) for evaluation in comparison.evaluations))


def _evaluation_table(evaluation: EvaluationComparison, caution: str | None) -> Table:
    from rich.table import Table

    budget = f", curves up to {evaluation.budget:,} completions" if evaluation.budget else ""
    ks = "/".join(str(k) for k in sorted({run.k for run in evaluation.runs}))
    problems = counted(evaluation.problems, "problem")
    if evaluation.problems < evaluation.total:
        problems = f"the {evaluation.problems:,} of {counted(evaluation.total, 'problem')} that every run has answered"
    table = Table(title=f"{_escaped(evaluation.name)}: {problems}{budget}; 95 % over problems")
    if caution:
        table.caption, table.caption_justify = f"[bold]{_escaped(caution)}[/bold]", "left"
    table.add_column("run", overflow="fold")
    for head in ("step", f"last avg@{ks}", "over the curve"):
        table.add_column(head, no_wrap=True)
    for run in evaluation.runs:
        incomplete = f" ({run.missing} missing)" if run.missing else ""
        table.add_row(_escaped(run.run) + incomplete, str(run.step), _cell(run.final), _cell(run.curve))
    table.add_section()
    for difference in evaluation.differences:
        label = f"{_escaped(difference.run)} - {_escaped(difference.baseline)}"
        table.add_row(label, "", _cell(difference.final), _cell(difference.curve))
    return table


def _cell(estimate: ScoreEstimate | PairedDifference | None) -> str:
    from sgpo.evaluation.scores import PairedDifference

    if estimate is None:
        return "-"
    if isinstance(estimate, PairedDifference):
        interval = _escaped(f"[{estimate.low:+.3f}, {estimate.high:+.3f}]")
        return f"{estimate.mean:+.3f} [dim]{interval}[/dim]\np {estimate.p_value:.2g}"
    return f"{estimate.mean:.3f} [dim]{_escaped(f'[{estimate.low:.3f}, {estimate.high:.3f}]')}[/dim]"


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
