"""The `sgpo` command: one file per group of commands. Heavy imports are inside them, so that `sgpo --help` is quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import sgpo
from sgpo.cli import evaluate, init, problems, runs, strategies

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Threads that spin while they wait make a small model 20 times slower as soon as anything else uses the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Strategy-Guided Policy Optimization: train a language model to reason with strategies it is not shown.

    \b
    Examples:
    sgpo quickstart
    sgpo report runs/quickstart/grpo runs/quickstart/sgpo
    """,
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"sgpo {sgpo.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command()(runs.quickstart)
app.command()(init.init)
app.command()(runs.train)
app.command("eval")(evaluate.eval_)
app.command()(evaluate.score)
app.command()(runs.merge)
app.command()(runs.compare)
app.command()(runs.report)
app.add_typer(problems.app, name="problems")
app.add_typer(strategies.app, name="strategies")


def main() -> None:
    """Run the command line.

    Where the reader of the output has gone (`sgpo ... | head`), it ends quietly with exit code 1, as Typer and Rich
    do for what they print.
    """
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, and not when Python ends, where nothing can catch what goes wrong
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for Python's own flush at its end
        sys.exit(1)
