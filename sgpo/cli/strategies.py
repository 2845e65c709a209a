"""`sgpo strategies ...`: fill a bank, read it, edit it."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgpo.cli.common import AsJson, Bank, check_new, one_line_errors, print_json
from sgpo.cli.extract import extract
from sgpo.cli.measure import measure
from sgpo.errors import InputError, SGPOError
from sgpo.io import counted, printable

if TYPE_CHECKING:
    from sgpo.strategies.bank import StrategyBank
    from sgpo.strategies.strategy import Strategy


app = typer.Typer(
    no_args_is_help=True,
    help="""Extract strategies into a bank, read them, edit them.

    \b
    Examples:
    sgpo strategies list --bank runs/quickstart/bank.db
    sgpo strategies stats --bank runs/quickstart/bank.db
    """,
)

Id = Annotated[str, typer.Argument(metavar="ID", help="A strategy's id, or its problem's.")]
ProblemFile = Annotated[Path, typer.Option("--problems", metavar="FILE", help="The problems that they are for.")]

app.command()(extract)
app.command()(measure)


@app.command("import")
@one_line_errors
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Strategies, one JSON object per line.")],
    bank: Bank,
    as_json: AsJson = False,
) -> None:
    """Read strategies from a JSON Lines file into a bank, which is made if it does not exist.

    Where one row is bad, nothing is imported.

    \b
    Examples:
    sgpo strategies import examples/gsm8k_strategies.jsonl --bank bank.db
    """
    from sgpo.strategies.bank import StrategyBank
    from sgpo.strategies.strategy import read_strategy_file

    read_strategy_file(file)  # so that a bad file leaves no empty bank behind
    with StrategyBank(bank) as opened:
        count = opened.import_(file)
        total = len(opened)
    line = f"{bank}: {count} imported; in all it has strategies for {counted(total, 'problem')}"
    _say({"imported": count, "strategies": total}, as_json, line)


@app.command()
@one_line_errors
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file, one JSON object per line.")],
    bank: Bank,
    as_json: AsJson = False,
) -> None:
    """Write all strategies of a bank, candidates and measured effects too, as JSON Lines.

    \b
    Examples:
    sgpo strategies export strategies.jsonl --bank bank.db
    """
    check_new(file, "FILE")
    with _open(bank, read_only=True) as opened:
        count = opened.export(file)
    _say({"exported": count}, as_json, f"{file}: {counted(count, 'strategy', 'strategies')}")


@app.command("list")
@one_line_errors
def list_(
    bank: Bank,
    everything: Annotated[bool, typer.Option("--all", help="List candidates too, not only active strategies.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the strategies of a bank.

    \b
    Examples:
    sgpo strategies list --bank bank.db
    """
    with _open(bank, read_only=True) as opened:
        rows = opened.rows(candidates=everything)
        if as_json:
            print_json(list(rows))
            return
        from rich.table import Column, Table
        from rich.text import Text

        table = Table(*(Column(name, overflow="fold") for name in ("id", "problem")))  # whole: to copy, to tell apart
        for name in ("type", "steps", "score", "leaks", "uplift"):
            table.add_column(name)
        for row in rows:
            score = str(sum(row["scores"].values())) if "scores" in row else "-"
            leaks = str(len(row["leaks"])) if "leaks" in row else "?"
            cells = [row["id"] + ("" if row["active"] else " (candidate)"), row["problem_id"], row["problem_type"]]
            cells += [str(len(row["steps"])), score, leaks, _uplift(opened, row["id"])]
            table.add_row(*(Text(printable(cell)) for cell in cells))
        _print(table)


@app.command()
@one_line_errors
def show(id_: Id, bank: Bank, as_json: AsJson = False) -> None:
    """Show one strategy in full.

    \b
    Examples:
    sgpo strategies show gsm8k-train-0 --bank bank.db
    """
    with _open(bank, read_only=True) as opened:
        strategy = _find(opened, id_)
        effect = opened.effect(strategy.id)
        if as_json:
            print_json(next(row for row in opened.rows() if row["id"] == strategy.id))
            return
        _print(_panel(opened, strategy))
        if effect.guided_total:
            passes = f"guided {effect.guided_passes} of {effect.guided_total}"
            _print(f"in training: {passes}, autonomous {effect.autonomous_passes} of {effect.autonomous_total}")


@app.command()
@one_line_errors
def stats(bank: Bank, as_json: AsJson = False) -> None:
    """Count what a bank holds, what it cost, and what it did in training.

    \b
    Examples:
    sgpo strategies stats --bank bank.db --json
    """
    with _open(bank, read_only=True) as opened:
        counts = opened.stats()
    if as_json:
        print_json(counts)
        return
    from rich.table import Table

    table = Table("what", "count", title=str(bank))
    for name, value in counts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number}" for key, number in value.items()) or "-"
        if isinstance(value, int | float):
            value = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
        table.add_row(name, "-" if value is None else value)
    _print(table)


@app.command()
@one_line_errors
def failures(bank: Bank, as_json: AsJson = False) -> None:
    """List the problems that extraction got no strategy for, and why; --json adds the last reply to each.

    \b
    Examples:
    sgpo strategies failures --bank bank.db
    """
    from collections import Counter

    with _open(bank, read_only=True) as opened:
        rows = opened.failures()
    if as_json:
        print_json(rows)
        return
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column("problem", overflow="fold"), "outcome", "reason")
    for row in rows:
        table.add_row(*(Text(printable(row[name] or "-")) for name in ("problem_id", "outcome", "message")))
    if rows:
        _print(table)
    outcomes = Counter(row["outcome"] for row in rows)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    print(f"{bank}: {counts or 'extraction failed for no problem'}")


@app.command()
@one_line_errors
def edit(id_: Id, bank: Bank, as_json: AsJson = False) -> None:
    """Edit a strategy in $EDITOR. The edited text becomes a new, active strategy; the old one stays as a candidate.

    \b
    Examples:
    EDITOR=nano sgpo strategies edit gsm8k-train-0 --bank bank.db
    """
    with _open(bank) as opened:
        strategy = _find(opened, id_)
        edited = _edit(opened, strategy)
        changed = edited.id != strategy.id
        values = {"id": edited.id, "was": strategy.id, "changed": changed}
        _say(values, as_json, f"{bank}: {edited.id} is active now" if changed else "nothing was changed")


@app.command()
@one_line_errors
def check(
    bank: Bank,
    problems: ProblemFile,
    everything: Annotated[
        bool, typer.Option("--all", help="Check candidates too, not only active strategies.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the leak gate over a bank: list the strategies that give away something of their problems.

    Training shows none of these until a person has accepted it (`sgpo strategies review`). The exit code is 1 where an
    active strategy leaks that nobody has accepted. Problems that the file lacks are those that extraction stored.

    \b
    Examples:
    sgpo strategies check --bank bank.db --problems train.jsonl
    """
    from sgpo.problems import load_problems
    from sgpo.strategies.leak.gate import find_leaks

    by_id = {problem.id: problem for problem in load_problems(problems)}
    counts = {"strategies": 0, "leaks": 0, "accepted": 0, "without_problem": 0}
    leaking: list[dict[str, Any]] = []
    with _open(bank, read_only=True) as opened:
        active = {strategy.id for strategy in opened}
        for strategy in opened.strategies(candidates=everything):
            counts["strategies"] += 1
            problem = by_id.get(strategy.problem_id) or opened.problem(strategy.problem_id)
            if problem is None:
                counts["without_problem"] += 1
            elif leaks := find_leaks(strategy, problem):
                counts["leaks"] += 1
                counts["accepted"] += bool(strategy.reviewed)
                row: dict[str, Any] = {"id": strategy.id, "problem_id": strategy.problem_id}
                row |= {"active": strategy.id in active, "accepted": bool(strategy.reviewed)}
                leaking.append({**row, "leaks": [asdict(leak) for leak in leaks]})
    if as_json:
        print_json({**counts, "leaking": leaking})
    else:
        for row in leaking:
            state = "accepted" if row["accepted"] else "" if row["active"] else "candidate"
            found = "; ".join(f"{leak['kind']} in {leak['where']}: {leak['text']!r}" for leak in row["leaks"])
            print(printable(f"{row['id']} (problem {row['problem_id']}){state and ', ' + state}: {found}"))
        line = f"{counts['leaks']} of {counted(counts['strategies'], 'strategy', 'strategies')} leak"
        print(f"{bank}: {line}, {counts['accepted']} of them accepted; {counts['without_problem']} without a problem")
    if any(row["active"] and not row["accepted"] for row in leaking):
        raise typer.Exit(1)


@app.command()
@one_line_errors
def review(
    bank: Bank,
    problems: Annotated[
        Path | None,
        typer.Option("--problems", metavar="FILE", help="The problems, where the bank does not have them itself."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Go through the active strategies that nobody has accepted yet: accept, edit, drop or skip each.

    Each is shown with its problem and with what the leak gate finds in it; one that is accepted is trained with.

    \b
    Examples:
    sgpo strategies review --bank bank.db --problems train.jsonl
    """
    from sgpo.problems import load_problems
    from sgpo.strategies.leak.gate import find_leaks

    done = {"accepted": 0, "edited": 0, "dropped": 0, "skipped": 0}
    by_id = {problem.id: problem for problem in load_problems(problems)} if problems else {}
    with _open(bank) as opened:
        waiting = [strategy for strategy in opened if not strategy.reviewed]
        for number, strategy in enumerate(waiting, start=1):
            problem = by_id.get(strategy.problem_id) or opened.problem(strategy.problem_id)
            _print(f"\n{number} of {len(waiting)}", err=True)
            if problem:
                _print(printable(f"{problem.problem}\nAnswer: {problem.answer}"), err=True)
                strategy = replace(strategy, leaks=tuple(find_leaks(strategy, problem)))
            else:
                _print(
                    f"no problem {printable(strategy.problem_id)!r}: --problems FILE shows it and its leaks", err=True
                )
            _print(_panel(opened, strategy), err=True)
            decision = _decide(opened, strategy)
            if decision == "quit":
                break
            done[decision] += 1
        left = sum(1 for strategy in opened if not strategy.reviewed)
    line = ", ".join(f"{count} {name}" for name, count in done.items())
    _say({**done, "left": left}, as_json, f"{bank}: {line}; {left} left")


@app.command()
@one_line_errors
def drop(id_: Id, bank: Bank, as_json: AsJson = False) -> None:
    """Delete a strategy. Its problem is then trained without guidance, until another one is added.

    \b
    Examples:
    sgpo strategies drop gsm8k-train-0 --bank bank.db
    """
    with _open(bank) as opened:
        strategy = _find(opened, id_)
        opened.drop(strategy.id)
    _say({"dropped": strategy.id}, as_json, f"{bank}: dropped {strategy.id} (problem {strategy.problem_id})")


def _open(path: Path, *, read_only: bool = False) -> StrategyBank:
    from sgpo.strategies.bank import StrategyBank

    return StrategyBank(path, create=False, read_only=read_only)


def _find(bank: StrategyBank, id_: str) -> Strategy:
    strategy = bank.by_id(id_) or bank.get(id_)
    if strategy is None:
        raise InputError(
            f"{bank.path}: no strategy and no problem with id {id_!r}; `sgpo strategies list` shows what there is"
        )
    return strategy


def _decide(bank: StrategyBank, strategy: Strategy) -> str:
    """Ask until a decision can be carried out: accepted, edited, dropped, skipped or quit."""
    while True:
        choice = _prompt("accept, edit, drop, skip or quit?").strip().lower()[:1]
        if choice == "a":
            bank.accept(strategy)
            return "accepted"
        if choice == "e":
            try:
                if _edit(bank, strategy).id != strategy.id:
                    return "edited"
                print("nothing was changed", file=sys.stderr)
            except SGPOError as error:
                print(error, file=sys.stderr)
        if choice == "d":
            bank.drop(strategy.id)
            return "dropped"
        if choice in ("s", "q"):
            return "skipped" if choice == "s" else "quit"


def _edit(bank: StrategyBank, strategy: Strategy) -> Strategy:
    """Let a person edit a strategy, store the result and say what the leak gate finds; the decision is the person's."""
    import click

    from sgpo.strategies.leak.gate import find_leaks
    from sgpo.strategies.strategy import apply_edit, editable_text

    try:
        text = click.edit(editable_text(strategy), extension=".json")
    except click.ClickException as error:
        raise InputError(f"{error.message}; set EDITOR to an editor of yours") from None
    edited = strategy if text is None else apply_edit(strategy, text)
    if edited is strategy:
        return strategy
    # The gate can only look where the bank knows the problem, which extraction stores.
    if problem := bank.problem(strategy.problem_id):
        edited = replace(edited, leaks=tuple(find_leaks(edited, problem)))
    bank.add(edited)
    for leak in edited.leaks or ():
        print(f"the leak gate finds in {leak.where}: {leak.text!r} ({leak.kind})", file=sys.stderr)
    return edited


def _uplift(bank: StrategyBank, strategy_id: str) -> str:
    uplift = bank.effect(strategy_id).uplift
    return "-" if uplift is None else f"{uplift:+.2f}"


def _panel(bank: StrategyBank, strategy: Strategy) -> Any:
    from rich.panel import Panel
    from rich.text import Text

    lines = [("Problem type", strategy.problem_type), ("Approach", strategy.approach)]
    lines += [("When to use", strategy.when_to_use)]
    lines += [(f"{number}.", step) for number, step in enumerate(strategy.steps, start=1)]
    if strategy.scores:
        scores = {name: getattr(strategy.scores, name) for name in strategy.scores.__slots__}
        lines += [("Scores", ", ".join(f"{name} {score}" for name, score in scores.items()))]
    lines += [("Leak", f"{leak.kind} in {leak.where}: {leak.text!r}") for leak in strategy.leaks or ()]
    lines += [("Uplift", _uplift(bank, strategy.id))]
    text = Text("\n").join(
        Text(f"{name:>12}  ", style="bold").append(printable(value), style="not bold") for name, value in lines if value
    )
    return Panel(text, title=Text(f"{strategy.id}, problem {printable(strategy.problem_id)}"), title_align="left")


def _prompt(question: str) -> str:
    """What a person types, q at the end of input. Asked on standard error: standard output is for the result."""
    print(question, end=" ", file=sys.stderr, flush=True)
    return sys.stdin.readline() or "q"


def _say(values: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        print_json(values)
    else:
        print(printable(line))


def _print(what: Any, *, err: bool = False) -> None:
    from rich.console import Console

    Console(stderr=err).print(what, markup=False, highlight=False)
