from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sgpo.cli.strategies import app
from sgpo.problems import load_problems
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.leak.gate import find_leaking
from sgpo.strategies.strategy import Leak, Scores, Strategy, strategy_from_json

ROWS = [
    {"problem_id": "p1", "problem_type": "Sums", "approach": "Add", "steps": ["Name [them]", "Add them"]},
    {"problem_id": "p2", "problem_type": "Products", "approach": "Multiply", "steps": "1. Name them\n2. Multiply"},
]


def sgpo(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def sgpo_json(*arguments: object) -> Any:
    result = sgpo(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert sgpo_json("import", file, "--bank", tmp_path / "bank.db") == {"imported": 2, "strategies": 2}
    return tmp_path / "bank.db"


def test_list_and_show(bank: Path) -> None:
    rows = sgpo_json("list", "--bank", bank)
    assert [row["problem_id"] for row in rows] == ["p1", "p2"]
    assert rows[1]["steps"] == ["Name them", "Multiply"]
    by_problem = sgpo_json("show", "p1", "--bank", bank)
    assert by_problem == sgpo_json("show", rows[0]["id"], "--bank", bank) == rows[0]
    assert "Sums" in sgpo("list", "--bank", bank).stdout
    assert "Name [them]" in sgpo("show", "p1", "--bank", bank).stdout


def test_a_narrow_list_cuts_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    problem = "openr1-" + "0123456789" * 4
    with StrategyBank(tmp_path / "bank.db") as opened:
        opened.add(Strategy(problem_id=problem, problem_type="Sums of parts", approach="Add", steps=("Add",)))
    lines = sgpo("list", "--bank", tmp_path / "bank.db").stdout.splitlines()
    cells = [line.split("│")[2].strip() for line in lines if line.startswith("│")]
    assert "".join(cells) == problem


def test_candidates_are_listed_on_demand(bank: Path) -> None:
    with StrategyBank(bank) as opened:
        opened.add(Strategy(problem_id="p1", problem_type="Sums", approach="Guess", steps=("Guess",)), active=False)
    assert len(sgpo_json("list", "--bank", bank)) == 2
    assert [row["active"] for row in sgpo_json("list", "--all", "--bank", bank)] == [True, True, False]


def test_stats(bank: Path) -> None:
    leaking = Strategy(
        problem_id="p3",
        problem_type="Sums",
        approach="Say 72",
        steps=("72",),
        leaks=(Leak(kind="answer", text="72", where="approach"),),
        scores=Scores(faithful=1, general=1, actionable=1, leak_free=1),
    )
    with StrategyBank(bank) as opened:
        opened.add(leaking, active=False)
        id_ = sgpo_json("show", "p1", "--bank", bank)["id"]
        opened.record_run("one", {id_: [3, 4, 2, 8]})
        opened.record_run("two", {id_: [4, 4, 2, 8]})
    counts = sgpo_json("stats", "--bank", bank)
    assert counts["problems"] == 3
    assert counts["strategies"] == 2
    assert counts["candidates"] == 3
    assert counts["leaking"] == 1
    assert counts["unchecked"] == 2
    assert (counts["failed"], counts["requests"], counts["tokens"]) == (0, 0, 0)
    assert (counts["measured"], counts["uplift"]) == (1, 0.625)
    assert sgpo_json("list", "--bank", bank)[0]["effect"]["guided_passes"] == 7
    assert "guided 7 of 8, autonomous 4 of 16" in sgpo("show", "p1", "--bank", bank).stdout
    assert "candidates" in sgpo("stats", "--bank", bank).stdout


def test_export_gives_back_what_was_imported(bank: Path, tmp_path: Path) -> None:
    assert sgpo_json("export", tmp_path / "out.jsonl", "--bank", bank) == {"exported": 2}
    assert sgpo_json("import", tmp_path / "out.jsonl", "--bank", tmp_path / "again.db")["imported"] == 2
    assert sgpo_json("list", "--bank", bank) == sgpo_json("list", "--bank", tmp_path / "again.db")


def test_export_writes_over_nothing(bank: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("kept")
    refused = sgpo("export", tmp_path / "mine.jsonl", "--bank", bank)
    assert refused.exit_code == 2
    assert f"{tmp_path / 'mine.jsonl'}: exists already, and nothing is written over; choose" in refused.stderr
    assert (tmp_path / "mine.jsonl").read_text() == "kept"


def test_drop(bank: Path) -> None:
    dropped = sgpo_json("drop", "p1", "--bank", bank)["dropped"]
    assert dropped.startswith("s-")
    assert [row["problem_id"] for row in sgpo_json("list", "--bank", bank)] == ["p2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "p9", "--bank", "BANK"], "no strategy and no problem with id 'p9'"),
        (["drop", "p9", "--bank", "BANK"], "no strategy and no problem with id 'p9'"),
        (["list", "--bank", "none.db"], "none.db: no such strategy bank"),
        (["import", "none.jsonl", "--bank", "new.db"], "none.jsonl: no such file"),
    ],
)
def test_errors_are_one_line_on_standard_error(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = sgpo(*(str(bank) if argument == "BANK" else argument for argument in arguments), "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "new.db").exists()


def test_the_commands_start_without_the_heavy_libraries() -> None:
    code = "import sys, sgpo.cli.strategies; print({'torch', 'openai', 'pydantic', 'sympy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


# ---------------------------------------------------------------------------------------------------- check and review

LEAKING = {"problem_id": "p1", "problem_type": "Sums", "approach": "The answer is 72.", "steps": ["Add"]}
PROBLEMS = [
    {"id": "p1", "problem": "What is 40 plus 32?", "answer": "72"},
    {"id": "p2", "problem": "What is 4 times 8?", "answer": "32"},
]


@pytest.fixture
def leaking(tmp_path: Path) -> tuple[Path, Path]:
    """A bank with a leaking, a clean and an unknown problem's strategy, and a leaking candidate; the problem file."""
    other = {**ROWS[1], "problem_id": "p3"}
    candidate = {**ROWS[1], "approach": "It comes to thirty-two.", "active": False}
    file, problems = tmp_path / "leaking.jsonl", tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [LEAKING, ROWS[1], other, candidate]))
    problems.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    assert sgpo("import", file, "--bank", tmp_path / "bank.db").exit_code == 0
    return tmp_path / "bank.db", problems


def test_check_runs_the_gate_over_a_bank(leaking: tuple[Path, Path]) -> None:
    bank, problems = leaking
    result = sgpo("check", "--bank", bank, "--problems", problems, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    (row,) = found.pop("leaking")
    assert found == {"strategies": 3, "leaks": 1, "accepted": 0, "without_problem": 1}
    assert (row["problem_id"], row["active"], row["accepted"]) == ("p1", True, False)
    assert row["leaks"] == [{"kind": "answer", "text": "72", "where": "approach"}]
    shown = sgpo("check", "--bank", bank, "--problems", problems, "--all").stdout
    assert "(problem p1): answer in approach: '72'" in shown
    assert "(problem p2), candidate: answer in approach: 'thirty-two'" in shown
    assert shown.endswith("2 of 4 strategies leak, 0 of them accepted; 1 without a problem\n")


def test_what_a_person_accepted_in_review_is_shown_for_all_its_leaks(leaking: tuple[Path, Path]) -> None:
    bank, problems = leaking
    words = ["review", "--bank", str(bank), "--problems", str(problems)]
    result = CliRunner().invoke(app, words, input="a\nq\n")
    assert "What is 40 plus 32?\nAnswer: 72" in result.stderr
    assert "answer in approach: '72'" in result.stderr
    result = sgpo("check", "--bank", bank, "--problems", problems, "--json")
    assert result.exit_code == 0
    assert (json.loads(result.stdout)["leaks"], json.loads(result.stdout)["accepted"]) == (1, 1)
    loaded = load_problems(problems)
    with StrategyBank(bank) as opened:
        assert find_leaking(opened, loaded) == {}
        opened.add(strategy_from_json(LEAKING))  # as extraction or another import would bring it
        (leaks,) = find_leaking(opened, loaded).values()
        assert leaks == [Leak(kind="answer", text="72", where="approach")]
        shown_for_another = [replace(strategy, problem_id="p2") for strategy in opened]
        assert find_leaking(shown_for_another, loaded) == {}


def test_review_without_the_problem_says_how_to_see_it(leaking: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(app, ["review", "--bank", str(leaking[0])], input="q\n")
    assert "no problem 'p1': --problems FILE shows it and its leaks" in result.stderr
