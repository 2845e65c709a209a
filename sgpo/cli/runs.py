"""The commands `sgpo compare` and `sgpo report`, which only read run directories. Heavy imports are inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sgpo.cli.common import AsJson, one_line_errors, print_json


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

    from sgpo.evaluation.compare import compare_runs, comparison_table, unlike_settings

    comparison = compare_runs(runs)
    print_json(comparison.to_json()) if as_json else Console().print(comparison_table(comparison))
    if caution := unlike_settings(runs):
        print(f"warning: {caution}", file=sys.stderr)


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
