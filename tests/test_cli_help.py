"""Every command explains itself, with examples that run after `sgpo quickstart`."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sgpo.cli import app
from tests.report.synthetic_runs import make_run, write_lines

ROOT = Path(__file__).resolve().parents[1]

# The others need minutes, a server, or a person; their words are parsed only.
QUICK = ("compare", "report", "score", "problems check", "problems import", "strategies import", "strategies list")
QUICK += ("strategies show", "strategies stats", "strategies export", "strategies drop")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def examples(command: Any) -> list[list[str]]:
    """The words of each example in a command's help, without `sgpo`."""
    found = re.search(r"Examples?:(.*?)(\n\n|$)", command.help or "", flags=re.DOTALL)
    lines = re.split(r";\s*|\n(?=\s*sgpo )", found[1].strip()) if found else []
    words = [[word for word in shlex.split(line) if not word.startswith("EDITOR=")] for line in lines]
    assert all(line[0] == "sgpo" for line in words)
    return [line[1:] for line in words]


def called(words: list[str]) -> tuple[str, ...]:
    return max((path for path in COMMANDS if path == tuple(words[: len(path)])), key=len)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after a quickstart, as far as the examples name it."""
    home = tmp_path_factory.mktemp("home")
    for name in ("examples", "recipes"):
        shutil.copytree(ROOT / name, home / name)
    quickstart = home / "runs" / "quickstart"
    for name in ("grpo", "sgpo"):
        run = make_run(quickstart / name, algorithm=name, steps=120, problems=8, batch=2)
    ids = {json.loads(line)["problem_id"] for line in (run / "eval" / "fresh-step-000120.jsonl").open()}
    problems = [{"id": id_, "problem": f"what is {id_}?", "answer": "3 1 4 2"} for id_ in sorted(ids)]
    write_lines(quickstart / "fresh.jsonl", problems)
    write_lines(quickstart / "problems.jsonl", [problem | {"id": f"t-{problem['id']}"} for problem in problems])
    return home


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_of_the_command_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0
    assert "Example" in result.stdout
    for words in examples(COMMANDS[path]):
        assert tuple(words[: len(path)]) == path


def test_the_words_of_every_example_are_understood() -> None:
    every = [words for command in COMMANDS.values() for words in examples(command)]
    assert len(every) >= len(COMMANDS)
    for words in every:
        path = called(words)
        COMMANDS[path].make_context("sgpo", words[len(path) :])  # raises on an option that is none


def test_the_recipes_of_examples_load() -> None:
    from sgpo.training.recipe import load_recipe

    for words in examples(COMMANDS["train",]):
        settings = [words[index + 1] for index, word in enumerate(words) if word == "--set"]
        load_recipe(ROOT / words[1], settings)


def test_examples_run_in_the_order_of_a_life(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    for name in QUICK:
        for words in examples(COMMANDS[tuple(name.split())]):
            if "math500,aime24" in words:
                continue  # benchmarks that the clone does not hold
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, f"{' '.join(words)}: {result.stderr}"


def test_without_a_command_the_help_is_shown() -> None:
    for path, command in COMMANDS.items():
        if hasattr(command, "commands"):
            assert "Usage" in CliRunner().invoke(app, list(path)).output
