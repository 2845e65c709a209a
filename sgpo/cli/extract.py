"""`sgpo strategies extract`: fill a bank from a strong model."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgpo.cli.common import KIND_HELP, AsJson, Bank, one_line_errors, print_json
from sgpo.errors import InputError
from sgpo.io import counted, printable, read_json

if TYPE_CHECKING:
    from sgpo.problems import Problem


@one_line_errors
def extract(
    problems: Annotated[str, typer.Option("--problems", metavar="FILE", help="Problems, with solutions where known.")],
    bank: Bank,
    base_url: Annotated[str, typer.Option("--base-url", metavar="URL", help="The endpoint; most end in /v1.")],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="The strong model's name at the endpoint.")],
    candidates: Annotated[int, typer.Option(min=1, help="Write this many per problem; the best becomes active.")] = 5,
    concurrency: Annotated[int, typer.Option(min=1, help="The most requests under way at once.")] = 32,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N problems.")] = None,
    solve: Annotated[bool, typer.Option("--solve", help="Ask for a solution where there is no correct one.")] = False,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="The limit of one reply, thinking included; 8192, and 32768 for a solution."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Ask again for the problems that failed in an earlier run.")
    ] = False,
    split: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A run's split.json: pay for no problem that only its warm-up uses."),
    ] = None,
    from_run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Use the policy's own correct completions as solutions.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask with the texts of this YAML file: extract, rank, autonomous, strategy."),
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=COLUMN", help="Read a field from another column; repeatable."),
    ] = None,
    kind: Annotated[str, typer.Option(help=KIND_HELP)] = "math",
    max_requests: Annotated[int | None, typer.Option(min=1, help="Stop after this many requests.")] = None,
    token_budget: Annotated[int | None, typer.Option(min=1, help="Stop after this many tokens in all.")] = None,
    prices: Annotated[
        tuple[float, float] | None, typer.Option(help="Count the cost: prices of a million prompt and reply tokens.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Give up a request after this many seconds.")] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Ask a strong model for strategies: it writes them from solutions and ranks them, the leak gate checks them.

    The key comes from OPENAI_API_KEY. The same command resumes a run that was stopped; nothing is asked twice.

    \b
    Examples:
    sgpo strategies extract --problems train.jsonl --bank bank.db --base-url http://localhost:8000/v1 --model NAME
    sgpo strategies extract --problems train.jsonl --bank bank.db --base-url URL --model NAME --token-budget 2000000
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sgpo.endpoint import EndpointUsage, Prices
    from sgpo.problems import load_problems, parse_fields
    from sgpo.prompts import own_extraction, read_texts
    from sgpo.strategies.extract import Extraction, run_extraction
    from sgpo.strategies.solutions import read_own_solutions

    asked = own_extraction({} if prompts is None else read_texts(prompts, where="--prompts"))
    loaded = load_problems(problems, fields=parse_fields(field or []), limit=limit, kind=kind)
    if split:
        loaded = _of_reinforcement(loaded, split)
    if from_run:
        loaded = read_own_solutions(loaded, from_run)
    started = time.monotonic()
    console = Console(stderr=True)
    texts = [TextColumn(f"{{task.fields[{name}]}}") for name in ("rate", "paid")]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *texts, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("strategies", total=len(loaded), paid="", rate="")

        def show(report: Extraction, usage: EndpointUsage) -> None:
            rate = f"{(report.done - report.earlier) / (time.monotonic() - started):.1f}/s"
            paid = f"{usage.tokens:,} tokens" + ("" if usage.cost is None else f", cost {usage.cost:.4g}")
            progress.update(task, completed=report.done, rate=rate, paid=paid)

        def say_interrupted() -> None:
            progress.console.print("interrupted: what is under way is finished first; Ctrl-C again drops it")

        result = run_extraction(
            loaded,
            bank,
            candidates=candidates,
            solve=solve,
            max_tokens=max_tokens,
            retry_failed=retry_failed,
            prompts=asked,
            token_budget=token_budget,
            on_progress=show,
            on_interrupt=say_interrupted,
            base_url=base_url,
            model=model,
            key=os.environ.get("OPENAI_API_KEY", ""),
            concurrency=concurrency,
            timeout=timeout,
            max_requests=max_requests,
            prices=Prices(prompt=prices[0], completion=prices[1]) if prices else None,
        )
    if as_json:
        print_json(result)
    else:
        _show(result, bank, solve=solve)
    if result["interrupted"]:
        raise KeyboardInterrupt


def _of_reinforcement(problems: list[Problem], split: Path) -> list[Problem]:
    """The problems that reinforcement uses. Raises InputError for no such file, and where it has none of them."""
    found = read_json(split)
    ids = found.get("rl") if isinstance(found, dict) else None
    if not isinstance(ids, list):
        raise InputError(f"{split}: no list 'rl' of ids; --split wants the split.json of a run with a warm-up")
    kept = [problem for problem in problems if problem.id in set(map(str, ids))]
    if not kept:
        raise InputError(f"{split}: it has none of these problems; give the file that it was made from")
    print(f"{split}: {counted(len(problems) - len(kept), 'problem')} left to the warm-up", file=sys.stderr)
    return kept


def _show(result: dict[str, Any], bank: Path, *, solve: bool) -> None:
    """Print what came of it: the counts, a reason for each that is no success, and the next step."""
    names = ("active", "leaking", "failed", "unsolved", "earlier", "unfinished")
    counts = ", ".join(f"{result[name]} {name}" for name in names if result[name])
    cost = "" if result["cost"] is None else f", cost {result['cost']:.4g}"
    print(f"{bank}: {counted(result['problems'], 'problem')}: {counts}")
    asked = f"{counted(result['requests'], 'request')}, {counted(result['tokens'], 'token')}"
    print(f"{asked}{cost}, {result['seconds']:.0f} s")
    for outcome, reason in result["reasons"].items():
        print(f"{outcome}, the last one: {printable(reason)}")
    if unsolved := result["unsolved"] + result["earlier_unsolved"]:
        causes = [] if solve else ["no_solution", "wrong_solutions"]
        why = ", ".join(f"{name}={result[name]}" for name in causes if result[name])
        fix = "more --candidates are more attempts" if solve else "--solve asks the strong model for solutions"
        print(f"{counted(unsolved, 'problem')} unsolved{why and f' ({why})'}: {fix}")
    if failed := result["failed"] + result["earlier_failed"]:
        print(f"{counted(failed, 'problem')} failed: --retry-failed asks again (with --max-tokens N: with more room)")
    if result["stopped"]:
        print(f"stopped: {result['stopped']}; the same command resumes from here")
