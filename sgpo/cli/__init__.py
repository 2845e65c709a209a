"""The `sgpo` command: one file per group of commands. Heavy imports are inside them, so that `sgpo --help` is quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import sgpo
from sgpo.cli import evaluate, problems, runs, strategies, train

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Threads that spin while they wait make a small model 20 times slower as soon as anything else uses the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SIGPIPE_STATUS = 141  # 128 and the number of the signal

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


app.command()(train.quickstart)
app.command()(train.train)
app.command("eval")(evaluate.eval_)
app.command()(evaluate.score)
app.command()(runs.compare)
app.command()(runs.report)
app.add_typer(problems.app, name="problems")
app.add_typer(strategies.app, name="strategies")


def main() -> None:
    """Run the command line.

    Where the reader of the output has gone (`sgpo ... | head`), it ends quietly, with the exit code that shells report
    for a tool that SIGPIPE ended.
    """
    stream = sys.stdout
    status: str | int | None = 0
    try:
        try:
            app()
        except SystemExit as end:
            # Typer swallows a broken pipe, puts a stream that hides it in place of standard output, and exits with 1.
            status = end.code if sys.stdout is stream else SIGPIPE_STATUS
        stream.flush()  # here, and not when Python ends, where nothing can catch what goes wrong
    except BrokenPipeError:
        status = SIGPIPE_STATUS
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that Python's own flush at the end finds no broken pipe
    sys.exit(status)
