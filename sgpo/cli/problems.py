"""`sgpo problems`: import problem files, and check training problems against benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgpo.cli.common import KIND_HELP, AsJson, check_new, known_benchmarks, one_line_errors, print_json, work_on_stderr
from sgpo.errors import InputError
from sgpo.io import counted, printable, write_jsonl

if TYPE_CHECKING:
    from sgpo.evaluation.decontamination import ProblemMatch
    from sgpo.problems import Problem

SHOWN = 5  # ids of problems with broken LaTeX

app = typer.Typer(
    no_args_is_help=True,
    help="""Make problem files, and keep benchmarks out of training.

    \b
    Example:
    sgpo problems import examples/questions.csv --field problem=question --field answer=final --out problems.jsonl
    """,
)


@app.command()
@one_line_errors
def check(
    train: Annotated[Path, typer.Option(help="The training problems: a JSON Lines, JSON, CSV or parquet file.")],
    against: Annotated[
        str, typer.Option(help="Benchmarks by name or problem files, separated by commas, such as math500,aime24.")
    ],
    data_dir: Annotated[
        Path | None, typer.Option(help="A folder with the benchmarks' files; without it they come from the hub.")
    ] = None,
    drop: Annotated[
        Path | None, typer.Option(help="Write the training rows to this new file, without the contaminated ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List training problems that are problems of a benchmark, word for word or in another notation.

    Variants of a benchmark's problem (other numbers, or another question) are listed too, but are not contamination.
    Problems whose LaTeX has lost backslashes to JSON are named.

    \b
    Examples:
    sgpo problems check --train runs/quickstart/problems.jsonl --against runs/quickstart/fresh.jsonl
    sgpo problems check --train train.jsonl --against math500,aime24 --data-dir DIR --drop clean.jsonl
    """
    with work_on_stderr() as output:
        from sgpo.evaluation.decontamination import find_matches
        from sgpo.verifier import Verifier

        check_new(drop, "--drop")
        rows = _train_rows(train)
        problems = [_lenient_problem(row, f"{train}, row {number}") for number, row in rows]
        benchmarks = _benchmarks(against, data_dir)
        with Verifier() as verifier:
            matches = find_matches(problems, benchmarks, verifier)
        broken = [problem.id for problem in problems if _lost_backslashes(problem)]
        contaminated = {match.train_id for match in matches if match.contaminated}
        kept = [row for (_, row), problem in zip(rows, problems, strict=True) if problem.id not in contaminated]
        if drop is not None:
            write_jsonl(drop, kept, escape=False)
        summary = {
            "train": len(problems),
            "against": {name: len(loaded) for name, loaded in benchmarks.items()},
            "contaminated": len(contaminated),
            "exact": sum(match.match == "exact" for match in matches),
            "near": sum(match.match == "near" for match in matches),
            "variant": sum(match.match == "variant" for match in matches),
            "kept": len(kept),
            "dropped_to": None if drop is None else str(drop),
            "broken_latex": broken,
        }
    if as_json:
        print_json({**summary, "matches": [match.to_json() for match in matches]}, output)
        return
    if matches:
        _show_matches(matches)
    print(f"in {', '.join(benchmarks)}: {len(contaminated)} of {counted(len(problems), 'training problem')}")
    if drop is not None:
        print(f"{drop}: the other {len(kept)}")
    elif contaminated:
        print("--drop FILE writes the others to a new file")
    if broken:
        named = ", ".join(map(repr, broken[:SHOWN])) + (", ..." if len(broken) > SHOWN else "")
        print(f"lost backslashes, which JSON wants twice (\\\\boxed): {counted(len(broken), 'problem')} ({named})")


@app.command("import")
@one_line_errors
def import_(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A CSV, parquet, JSON or JSON Lines file; a dataset's folder or hub id."),
    ],
    out: Annotated[Path, typer.Option(help="The new problem file.")],
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help="Read a field from a column of another name; a.0 is the first item of the list a. Repeatable.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="The dataset's split.")] = "train",
    subset: Annotated[str | None, typer.Option(help="The dataset's subset, where it has several.")] = None,
    revision: Annotated[str | None, typer.Option(help="The commit, branch or tag of a hub dataset.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Import this many rows, the first ones; all if not given.")
    ] = None,
    kind: Annotated[str, typer.Option(help=KIND_HELP)] = "math",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows that are no problem, and list them.")
    ] = False,
    drop_repeated: Annotated[
        bool, typer.Option("--drop-repeated", help="Leave out rows whose id or text came before, and list them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a problem file from a Hugging Face dataset, a CSV or a parquet file, by naming its columns.

    The fields are id, problem, answer, solution, subject, level, source, kind and system; problem and answer are
    needed. Rows of TRL and verl (prompt, reward_model.ground_truth, ...) are read as they are.

    \b
    Example:
    sgpo problems import examples/questions.csv --field problem=question --field answer=final --out problems.jsonl
    """
    with work_on_stderr() as output:
        from sgpo.problems import load_problems, parse_fields, save_problems
        from sgpo.verifier.kinds import check_kind

        check_new(out, "--out")
        check_kind(kind)
        bad: list[str] = []
        repeated: list[str] = []
        loaded = load_problems(
            source,
            fields=parse_fields(field or []),
            split=split,
            subset=subset,
            revision=revision,
            limit=limit,
            kind=kind,
            on_bad=bad.append if skip_bad else None,
            on_repeated=repeated.append if drop_repeated else None,
        )
        save_problems(loaded, out)
    if as_json:
        left_out = {"bad": len(bad), "repeated": len(repeated), "left_out": [*bad, *repeated]}
        asked = left_out if skip_bad or drop_repeated else {}
        print_json({"problems": len(loaded), "out": str(out), **asked}, output)
        return
    for message in (*bad, *repeated):
        print(f"left out: {printable(message)}", file=sys.stderr)
    counts = "".join(f", {len(rows)} {name} left out" for name, rows in (("bad", bad), ("repeated", repeated)) if rows)
    print(f"{out}: {counted(len(loaded), 'problem')}{counts}")


def _lost_backslashes(problem: Problem) -> bool:
    from sgpo.verifier.math.latex import repaired

    return any(text != repaired(text) for text in (problem.problem, problem.answer, problem.solution or ""))


def _train_rows(train: Path) -> list[tuple[int, Mapping[str, Any]]]:
    from sgpo.problems import source_rows

    if not train.is_file():
        raise InputError(f"--train {train}: no such file")
    if not (listed := list(source_rows(str(train)))):
        raise InputError(f"--train {train}: no problems in it")
    return listed


def _lenient_problem(row: Mapping[str, Any], where: str) -> Problem:
    """A training row as a problem; a row without an answer is allowed: it can still be a benchmark's problem."""
    from sgpo.columns import columns_of, lookup
    from sgpo.problems import problem_from_row

    if str(lookup(row, columns_of(row, {}).get("answer", "answer")) or "").strip():
        return problem_from_row(row, {}, where=where)
    return replace(problem_from_row({**row, "answer": "?"}, {}, where=where), answer="")


def _benchmarks(against: str, data_dir: Path | None) -> dict[str, list[Problem]]:
    from sgpo.evaluation.benchmarks import load_benchmark
    from sgpo.problems import load_problems

    known = known_benchmarks()
    loaded: dict[str, list[Problem]] = {}
    for name in (part.strip() for part in against.split(",") if part.strip()):
        if name in known:
            loaded[name] = load_benchmark(name, data_dir)
        elif Path(name).is_file():
            loaded[Path(name).stem] = load_problems(name)
        else:
            raise InputError(f"--against {name!r}: no such file, and no benchmark; there are: {', '.join(known)}")
    if not loaded:
        raise InputError("--against: name benchmarks or problem files, separated by commas")
    return loaded


def _show_matches(matches: Sequence[ProblemMatch]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    ids = (Column(name, overflow="fold") for name in ("training problem", "benchmark", "its problem"))  # whole
    table = Table(*ids, "match", "similarity")
    for match in matches:
        row = (escape(match.train_id), escape(match.benchmark), escape(match.benchmark_id), match.match)
        table.add_row(*row, f"{match.similarity:.3f}")
    Console().print(table)
