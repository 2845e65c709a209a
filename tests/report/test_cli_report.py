"""`sgpo report` and `sgpo compare` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from synthetic_runs import make_run
from typer.testing import CliRunner

from sgpo.cli import app


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "80"})


def test_a_report_is_written_beside_the_first_run_unless_told(runs: list[Path], tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", steps=2)
    assert run("report", first).stdout.strip() == str(first / "report.html")
    assert (first / "report.html").exists()
    document = json.loads(run("report", *runs, "--out", tmp_path / "new" / "page.html", "--json").stdout)
    assert Path(document["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_four_runs_of_unequal_length_are_compared_at_80_columns(runs: list[Path], tmp_path: Path) -> None:
    more = [
        make_run(tmp_path / name, seed=steps, steps=steps) for name, steps in (("a-run-of-a-long-name", 30), ("c", 20))
    ]
    result = run("compare", *runs, *more)
    assert result.exit_code == 0
    assert "fresh: 60 problems, curves up to 1,920 completions" in result.stdout
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line for line in lines if "sgpo - grpo" in line)
    assert row.count("[+") == 2  # whole intervals, on one line with their means
    assert row.count("]") == 2


@pytest.mark.parametrize("command", ["report", "compare"])
def test_what_is_no_run_is_one_line(runs: list[Path], tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "nowhere", "no such"), (tmp_path / "empty", "not a run directory")):
        result = run(command, runs[0], path, *(["--out", tmp_path / "report.html"] if command == "report" else []))
        assert result.exit_code == 2
        assert result.stderr.startswith(f"error: {path}: {message}")
        assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_runs_that_cannot_be_compared_are_one_line(runs: list[Path], tmp_path: Path) -> None:
    bare = make_run(tmp_path / "bare", steps=1, evaluations=())
    other = make_run(tmp_path / "other", steps=10, evaluations=("retention",))
    for words, message in (
        ([runs[0]], "two or more different run directories"),
        ([runs[0], bare], f"{bare}: no evaluations in its folder eval"),
        ([runs[0], other], "the runs share no evaluation"),
    ):
        result = run("compare", *words)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_place_that_cannot_be_written_is_one_line(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out, message in ((tmp_path, "a folder; name the HTML file"), (tmp_path / "file" / "report.html", "file")):
        result = run("report", runs[0], "--out", out)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_runs_that_were_not_measured_alike_are_told(runs: list[Path], tmp_path: Path) -> None:
    warm = make_run(tmp_path / "trained", steps=10)
    other = make_run(tmp_path / "evaluated", steps=10)
    for path, change in (
        (warm, {"args": {"eval_temperature": 1.0, "eval_top_p": 1.0, "eval_max_tokens": 48}}),
        (other, {"evaluation": {"settings": {"temperature": 0.6, "top_p": 1.0, "max_tokens": 48}}}),
    ):
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        (path / "config.json").write_text(json.dumps(config | change))
    told = "different settings (temperature 1.0 against 0.6)"
    assert told in run("compare", warm, other).stderr
    assert told in " ".join(run("compare", warm, other).stdout.split())  # in the table itself
    assert told in json.loads(run("compare", warm, other, "--json").stdout)["caution"]
    run("report", warm, other, "--out", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count(told) == 2  # at the top and at the table
    alike = run("compare", *runs)
    assert alike.stderr == ""
    assert "different settings" not in alike.stdout


def test_prompts_limits_and_refused_options_are_compared_too(tmp_path: Path) -> None:
    prompt = "compact 9f86d081884c"  # that of the synthetic runs
    settings = {"temperature": 0.6, "top_p": 1.0, "max_tokens": 48, "prompt": prompt}
    paths = [make_run(tmp_path / name, steps=10) for name in ("one", "two")]

    def told(second: dict[str, object], scores: dict[str, object]) -> str:
        for path, changed in zip(paths, (settings, settings | second), strict=True):
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            (path / "config.json").write_text(json.dumps(config | {"evaluation": {"settings": changed}}))
        for file in (paths[1] / "eval").glob("*.json"):
            row = json.loads(file.read_text(encoding="utf-8"))
            row = {name: value for name, value in row.items() if name not in ("max_tokens", "left_to_server")}
            file.write_text(json.dumps(row | scores))
        return run("compare", *paths).stderr

    assert told({}, {"max_tokens": 48}) == ""
    assert f"(prompt {prompt} against math 0123)" in told({"prompt": "math 0123"}, {})
    assert "(max_tokens of fresh 48 against 20)" in told({}, {"max_tokens": 20})
    assert "(max_tokens of fresh 48 against none)" in told({}, {"max_tokens": None})
    assert "(max_tokens 48 against 96)" in told({"max_tokens": 96}, {"max_tokens": 96})
    for path, policy in zip(paths, ("strict", "lenient"), strict=True):
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        del config["evaluation"]
        config["args"] = {"verifier_policy": policy, "system_prompt": policy}
        (path / "config.json").write_text(json.dumps(config))
    both = 'system_prompt "strict" against "lenient"; verifier_policy "strict" against "lenient"'
    assert both in run("compare", *paths).stderr
    assert "(left to the server in fresh nothing against top_k)" in told({}, {"left_to_server": ["top_k"]})
