"""The commands `sgpo compare` and `sgpo report`, which only read run directories. Heavy imports are inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sgpo.cli.common import AsJson, one_line_errors, print_json
from sgpo.io import counted

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from sgpo.evaluation.compare import EvaluationComparison, RunComparison
    from sgpo.evaluation.scores import PairedDifference, ScoreEstimate


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

    from sgpo.evaluation.compare import compare_runs, unlike_settings

    comparison = compare_runs(runs)
    print_json(comparison.to_json()) if as_json else Console().print(comparison_table(comparison))
    if caution := unlike_settings(runs):
        print(f"warning: {caution}", file=sys.stderr)


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
    """The comparison for a terminal of 80 columns: a table per problem set, runs first, then their differences."""
    from rich.console import Group

    return Group(*map(_evaluation_table, comparison.evaluations))


def _evaluation_table(evaluation: EvaluationComparison) -> Table:
    from rich.table import Table

    budget = f", curves up to {evaluation.budget:,} completions" if evaluation.budget else ""
    ks = "/".join(str(k) for k in sorted({run.k for run in evaluation.runs}))
    problems = counted(evaluation.problems, "problem")
    if evaluation.problems < evaluation.total:
        problems = f"the {evaluation.problems:,} of {counted(evaluation.total, 'problem')} that every run has answered"
    table = Table(title=f"{_escaped(evaluation.name)}: {problems}{budget}; 95 % over problems")
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
