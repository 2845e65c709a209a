from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from chat_server import STRATEGY, ChatServer, Reply, chat, error, good
from click.testing import Result
from typer.testing import CliRunner

from sgpo.cli.strategies import app
from sgpo.prompts import own_extraction
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.strategy import Strategy

# Of kind "exact": judged as text, so that no worker of the verifier has to start.
PROBLEMS = [
    {"id": "a", "problem": "What is 40 plus 32?", "answer": "72", "solution": "The answer is 72", "kind": "exact"},
    {"id": "b", "problem": "What is 50 plus 22?", "answer": "72", "solution": "The answer is 72", "kind": "exact"},
]


def sgpo(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def rows(file: Path, *values: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(value) + "\n" for value in values))
    return file


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def arguments(server: ChatServer, tmp_path: Path, *more: object, problems: object = PROBLEMS) -> list[object]:
    assert isinstance(problems, list)
    file = rows(tmp_path / "problems.jsonl", *problems)
    return [
        "extract",
        "--problems",
        file,
        "--bank",
        tmp_path / "bank.db",
        "--base-url",
        server.url,
        "--model",
        "m",
        *more,
    ]


def test_extract_from_the_command_line(server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    result = sgpo(*arguments(server, tmp_path, "--candidates", 2, "--prices", 1, 2, "--json"))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["problems"], report["active"], report["candidates"], report["requests"]) == (2, 2, 4, 6)
    assert report["tokens"] == 660
    assert report["cost"] == pytest.approx((600 + 2 * 60) / 1e6)
    assert set(server.keys) == {"Bearer sk-from-the-environment"}
    stats = json.loads(sgpo("stats", "--bank", tmp_path / "bank.db", "--json").stdout)
    assert (stats["problems"], stats["strategies"], stats["candidates"]) == (2, 2, 4)
    again = sgpo(*arguments(server, tmp_path, "--candidates", 2))
    assert "2 problems: 2 earlier" in again.stdout
    assert len(server.requests) == 6


def test_failures_are_listed_with_their_reason(server: ChatServer, tmp_path: Path) -> None:
    server.script = lambda request, number: chat("I think [so].") if number else error(400, "too long for me")
    sgpo(*arguments(server, tmp_path, "--candidates", 1, "--concurrency", 1))
    failures = json.loads(sgpo("failures", "--bank", tmp_path / "bank.db", "--json").stdout)
    assert [(row["problem_id"], row["outcome"]) for row in failures] == [("a", "failed"), ("b", "failed")]
    assert (failures[0]["message"], failures[1]["raw"]) == ("status 400: too long for me", "I think [so].")
    shown = sgpo("failures", "--bank", tmp_path / "bank.db").stdout
    assert "too long for me" in shown
    assert shown.endswith("bank.db: 2 failed\n")


def test_without_failures_the_list_says_so(server: ChatServer, tmp_path: Path) -> None:
    sgpo(*arguments(server, tmp_path, "--candidates", 1))
    assert sgpo("failures", "--bank", tmp_path / "bank.db").stdout.endswith("extraction failed for no problem\n")


def test_the_budget_of_tokens(server: ChatServer, tmp_path: Path) -> None:
    result = sgpo(*arguments(server, tmp_path, "--candidates", 1, "--token-budget", 100, "--concurrency", 1))
    assert "stopped: the budget of 100 tokens is spent" in result.stdout


def test_the_budget_is_said(server: ChatServer, tmp_path: Path) -> None:
    result = sgpo(*arguments(server, tmp_path, "--candidates", 1, "--max-requests", 2, "--concurrency", 1))
    assert result.exit_code == 0
    assert "1 active, 1 unfinished" in result.stdout
    assert "stopped: the budget of 2 requests is spent; the same command resumes from here" in result.stdout


def test_another_column_holds_the_solution(server: ChatServer, tmp_path: Path) -> None:
    problems = [{**PROBLEMS[0], "solution": None, "trace": "Hm. 40 + 32, so the answer is 72"}]
    how = arguments(server, tmp_path, "--field", "solution=trace", "--limit", 1, "--json", problems=problems)
    assert json.loads(sgpo(*how).stdout)["active"] == 1
    assert "Hm. 40 + 32" in server.requests[0]["messages"][0]["content"]
    for mistake in ("trace", "solutoin=trace"):
        assert "expected FIELD=COLUMN" in sgpo(*arguments(server, tmp_path, "--field", mistake)).stderr


def test_the_policys_own_completions_serve_as_solutions(server: ChatServer, tmp_path: Path) -> None:
    row = {"problem_id": "a", "group": "guided", "verdict": "correct", "completion": "guided, answer 72"}
    rows(tmp_path / "run" / "rollouts" / "step-000001.jsonl", row)
    rows(
        tmp_path / "run" / "rollouts" / "step-000002.jsonl",
        {**row, "group": "autonomous", "completion": "my own, answer 72"},
        {**row, "completion": "guided again, answer 72"},
        {**row, "group": "autonomous", "completion": "wrong, answer 71", "verdict": "wrong"},
        {**row, "problem_id": "elsewhere"},
    )
    how = arguments(server, tmp_path, "--from-run", tmp_path / "run", "--candidates", 1, "--json")
    report = json.loads(sgpo(*how).stdout)
    assert (report["active"], report["no_solution"]) == (1, 1)
    assert "my own" in server.requests[0]["messages"][0]["content"]

    rows(tmp_path / "run" / "rollouts" / "step-000003.jsonl", {"problem_id": "a"})
    assert "step-000003.jsonl, row 1: not a rollout (no 'group')" in sgpo(*how).stderr
    rows(tmp_path / "run" / "rollouts" / "step-000003.jsonl", {**row, "completion": "the answer is \ud800 72"})
    assert "step-000003.jsonl, row 1: 'completion' holds half a surrogate pair" in sgpo(*how).stderr
    bare = sgpo(*arguments(server, tmp_path, "--from-run", tmp_path / "nowhere"))
    assert (bare.exit_code, "no rollouts in it" in bare.stderr) == (2, True)


@pytest.mark.parametrize(
    ("script", "more", "message"),
    [
        (lambda r, n: error(401, "bad key sk-secret-123"), [], "the key was refused (status 401: bad key [key])"),
        (lambda r, n: error(404, "no model m"), [], "is there a model 'm'"),
        (None, ["--base-url", "http://127.0.0.1:9/v1"], "127.0.0.1:9/v1: the connection failed"),
        (None, ["--base-url", "localhost"], "localhost: not an address"),
        (None, ["--bank", "/nowhere/bank.db"], "its folder /nowhere does not exist"),
        (None, ["--problems", "none.jsonl"], "none.jsonl: no such problem file"),
        (None, ["--field", "solution=none"], "no problem has a solution to extract from; name the field"),
    ],
)
def test_what_goes_wrong_is_one_line(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Any, more: list[str], message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    if script:
        server.script = script
    result = sgpo(*arguments(server, tmp_path, "--json", *more))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.strip().count("\n") == 0  # rich below 15 ends its progress with an empty line
    assert "sk-secret-123" not in result.stderr


def test_standard_output_is_one_document_in_a_real_terminal_session(server: ChatServer, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from sgpo.cli.strategies import app; app()"]
    command += [str(argument) for argument in arguments(server, tmp_path, "--json", "--candidates", 1)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."})
    assert json.loads(done.stdout)["active"] == 2


def start(server: ChatServer, tmp_path: Path) -> subprocess.Popen[str]:
    # Whoever runs the tests in the background of a shell has SIGINT ignored, and every process below inherits that.
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", listening + "from sgpo.cli.strategies import app; app()"]
    command += [str(argument) for argument in arguments(server, tmp_path, "--candidates", 1, "--concurrency", 1)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupt(process: subprocess.Popen[str], asked: threading.Event) -> None:
    """Ctrl-C once the server was asked what it does not answer yet. Nobody else reads what the process says."""
    assert asked.wait(60)
    process.send_signal(signal.SIGINT)
    assert process.stderr
    assert process.stderr.readline() == ("interrupted: what is under way is finished first; Ctrl-C again drops it\n")


def test_ctrl_c_waits_for_what_is_under_way(server: ChatServer, tmp_path: Path) -> None:
    asked, answer = threading.Event(), threading.Event()

    def script(request: dict[str, Any], number: int) -> Reply:
        if number == 2:
            asked.set()
            answer.wait(60)
        return good(request)

    server.script = script
    process = start(server, tmp_path)
    interrupt(process, asked)  # it says so before its answer comes
    answer.set()
    stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr == "interrupted; what was finished is kept\n"
    assert "2 problems: 1 active, 1 unfinished" in stdout
    assert "stopped: interrupted; the same command resumes from here" in stdout
    assert len(server.requests) == 3
    with StrategyBank(tmp_path / "bank.db", create=False) as bank:
        assert bank.stats()["requests"] == 3  # the third came after the signal, and is paid for


def test_a_second_ctrl_c_drops_what_is_under_way(server: ChatServer, tmp_path: Path) -> None:
    asked = threading.Event()

    def script(request: dict[str, Any], number: int) -> Reply:
        if number < 2:
            return good(request)
        asked.set()
        return Reply(act="hang")

    server.script = script
    process = start(server, tmp_path)
    interrupt(process, asked)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr == "interrupted; what was finished is kept\n"
    with StrategyBank(tmp_path / "bank.db", create=False) as bank:
        assert (len(bank), bank.stats()["requests"]) == (1, 2)


def test_what_is_not_done_says_why_and_what_to_do(server: ChatServer, tmp_path: Path) -> None:
    without = [{"id": str(i), "problem": f"What is {i}?", "answer": str(i), "kind": "exact"} for i in range(3)]
    file = rows(tmp_path / "mixed.jsonl", *PROBLEMS[:1], *without)
    server.script = lambda request, number: error(400, "flagged\x1b[2J")
    result = sgpo(*arguments(server, tmp_path), "--problems", file)
    assert result.exit_code == 0, result.output
    assert "4 problems: 1 failed, 3 unsolved" in result.stdout
    assert "failed, the last one: problem 'a': status 400: flagged\ufffd[2J" in result.stdout
    assert "unsolved, the last one: problem '2': it has no solution" in result.stdout
    assert "3 problems unsolved (no_solution=3): --solve asks the strong model for solutions" in result.stdout
    assert "1 problem failed: --retry-failed asks again" in result.stdout
    again = sgpo(*arguments(server, tmp_path), "--problems", file)
    assert "4 problems: 4 earlier" in again.stdout
    assert "3 problems unsolved: --solve asks" in again.stdout  # the same command does not hide it


def test_a_kind_that_judges_nothing_is_refused_before_anything_is_asked(server: ChatServer, tmp_path: Path) -> None:
    nameless = [{key: value for key, value in problem.items() if key != "kind"} for problem in PROBLEMS]
    for kind, message in [("maths", "unknown kind of problem 'maths'"), ("no_module:judge", "no_module")]:
        result = sgpo(*arguments(server, tmp_path, "--kind", kind, problems=nameless))
        assert (result.exit_code, message in result.stderr, server.requests) == (2, True, [])


def test_what_stays_unsolved_though_it_was_asked_for_is_not_sent_to_ask(server: ChatServer, tmp_path: Path) -> None:
    wrong = [{**PROBLEMS[0], "solution": "The answer is 71"}]
    result = sgpo(*arguments(server, tmp_path, problems=wrong))
    assert "1 problem unsolved (wrong_solutions=1): --solve asks the strong model for solutions" in result.stdout
    server.script = lambda request, number: chat("I think that it is 70")
    result = sgpo(*arguments(server, tmp_path, "--solve", "--candidates", 2, problems=wrong))
    assert "and no solution of 2 that were asked for has the gold answer" in result.stdout
    assert "1 problem unsolved: more --candidates are more attempts" in result.stdout


# ---------------------------------------------------------------------------------------------------- edit and review


@pytest.fixture
def bank(server: ChatServer, tmp_path: Path) -> Path:
    server.script = lambda request, number: good(request)
    assert sgpo(*arguments(server, tmp_path, "--candidates", 1)).exit_code == 0
    return tmp_path / "bank.db"


def editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str) -> None:
    script = tmp_path / "editor.py"
    script.write_text(f"import json, sys\nfile = sys.argv[1]\ntext = open(file).read()\n{program}\n")
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    monkeypatch.delenv("VISUAL", raising=False)


REPLACE = "row = json.loads(text); row['approach'] = {!r}; open(file, 'w').write(json.dumps(row))"


def test_edit_keeps_the_new_and_the_old(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(monkeypatch, tmp_path, REPLACE.format("Think first."))
    result = sgpo("edit", "a", "--bank", bank, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["changed"] is True
    with StrategyBank(bank) as opened:
        active, old = opened.candidates("a")
        assert (active.id, old.id) == (values["id"], values["was"])
        assert active.approach == "Think first."
        assert active.reviewed
        assert active.leaks == ()
        assert active.scores is None


def test_an_edit_that_leaks_is_told(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(monkeypatch, tmp_path, REPLACE.format("Add until you reach 72."))
    result = sgpo("edit", "a", "--bank", bank)
    assert result.exit_code == 0
    assert "the leak gate finds in approach: '72' (answer)" in result.stderr


def test_an_edit_without_a_change_and_a_broken_one(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(monkeypatch, tmp_path, "open(file, 'w').write(text)")
    assert "nothing was changed" in sgpo("edit", "a", "--bank", bank).stdout
    for program, message in [
        ("open(file, 'w').write(text[:20])", "of the edited text: not JSON"),
        ("open(file, 'w').write('[]')", "no JSON object"),
        ("open(file, 'w').write('{}')", "no 'problem_type'"),
        ("sys.exit(1)", "set EDITOR"),
    ]:
        editor(monkeypatch, tmp_path, program)
        result = sgpo("edit", "a", "--bank", bank)
        assert result.exit_code == 2
        assert message in result.stderr
    with StrategyBank(bank) as opened:
        assert len(opened.candidates("a")) == 1


def test_review_accepts_edits_and_drops(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = sgpo("review", "--bank", bank, "--json", stdin="skip\na\n")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"accepted": 1, "edited": 0, "dropped": 0, "skipped": 1, "left": 1}
    assert "What is 40 plus 32?" in result.stderr
    editor(monkeypatch, tmp_path, REPLACE.format("Think first."))
    result = sgpo("review", "--bank", bank, "--json", stdin="e\n")
    assert json.loads(result.stdout) == {"accepted": 0, "edited": 1, "dropped": 0, "skipped": 0, "left": 0}
    with StrategyBank(bank) as opened:
        assert all(strategy.reviewed for strategy in opened)


def test_review_asks_again_where_a_decision_cannot_be_carried_out(
    bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor(monkeypatch, tmp_path, "open(file, 'w').write(text[:20])")
    result = sgpo("review", "--bank", bank, "--json", stdin="e\n\nx\na\nq\n")
    assert json.loads(result.stdout) == {"accepted": 1, "edited": 0, "dropped": 0, "skipped": 0, "left": 1}
    assert "of the edited text: not JSON" in result.stderr
    assert result.stderr.count("skip or quit?") == 5
    editor(monkeypatch, tmp_path, "pass")
    result = sgpo("review", "--bank", bank, "--json", stdin="e\ns\n")
    assert json.loads(result.stdout) == {"accepted": 0, "edited": 0, "dropped": 0, "skipped": 1, "left": 1}
    assert "nothing was changed" in result.stderr


def test_review_drops_and_quits(bank: Path) -> None:
    result = sgpo("review", "--bank", bank, stdin="d\nq\n")
    assert "0 accepted, 0 edited, 1 dropped, 0 skipped; 1 left" in result.stdout


def test_text_is_shown_as_it_is_and_does_not_steer_the_terminal(tmp_path: Path) -> None:
    with StrategyBank(tmp_path / "bank.db") as bank:
        bank.add(Strategy("a", "[bold]Sums[/bold]", "[/red] \x1b[31m", ("[link=x]a[/link]",)))
    shown = sgpo("show", "a", "--bank", tmp_path / "bank.db").stdout
    assert "[bold]Sums[/bold]" in shown
    assert "[/red]" in shown
    asked = sgpo("review", "--bank", tmp_path / "bank.db", stdin="q\n").stderr
    assert "[link=x]a[/link]" in asked
    assert "\x1b[31m" not in shown + asked


def test_a_strong_model_is_asked_with_texts_of_ones_own(server: ChatServer, tmp_path: Path) -> None:
    texts = {
        "extract": "Turn it into a plan: {problem} // {solution}. A JSON object like {{}}.",
        "rank": "Rate this plan (faithful, ...): {strategy}",
        "strategy": "<{approach}>",
        "autonomous": "Solve: {problem}",
    }
    file = tmp_path / "domain.yaml"
    file.write_text(json.dumps(texts))
    unsolved = [PROBLEMS[0], {**PROBLEMS[1], "solution": None}]
    more = ["--candidates", 1, "--solve", "--concurrency", 1]

    def asked(*options: object) -> list[str]:
        server.requests.clear()
        result = sgpo(*arguments(server, tmp_path, *more, *options, problems=unsolved))
        assert result.exit_code == 0, result.output
        return [request["messages"][0]["content"] for request in server.requests]

    server.script = lambda request, number: (
        chat("The answer is 72") if request["messages"][0]["content"].startswith("Solve") else good(request)
    )
    prompts = asked("--prompts", file)
    assert "Turn it into a plan: What is 40 plus 32? // The answer is 72. A JSON object like {}." in prompts
    assert f"Rate this plan (faithful, ...): <{STRATEGY['approach']}>" in prompts
    assert "Solve: What is 50 plus 22?" in prompts
    with StrategyBank(tmp_path / "bank.db") as bank:
        versions = {bank.get(id_).prompt_version for id_ in ("a", "b")}
    assert versions == {own_extraction(texts).versions[0]}
    assert asked("--prompts", file) == []
    # Other texts are other questions (here one of both strategies, which are alike); our own are asked by default.
    file.write_text(json.dumps(texts | {"rank": "Score this (faithful, ...): {strategy}"}))
    assert [text.split()[0] for text in asked("--prompts", file)] == ["Score"]
    assert all(text.startswith(("You turn", "Judge", "What is")) for text in asked())


@pytest.mark.parametrize(
    ("content", "message"),
    [("extract: 'Plan: {problem}'", "domain.yaml: extract: {solution} is missing"), ("rank: 3", "rank must be a text")],
)
def test_a_file_that_cannot_be_asked_with_is_one_line(
    server: ChatServer, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "domain.yaml").write_text(content)
    result = sgpo(*arguments(server, tmp_path, "--prompts", tmp_path / "domain.yaml"))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "bank.db").exists()


def test_a_split_leaves_out_what_only_the_warm_up_uses(server: ChatServer, tmp_path: Path) -> None:
    words = arguments(server, tmp_path, "--json")
    first, second = (str(problem["id"]) for problem in PROBLEMS)
    (tmp_path / "split.json").write_text(json.dumps({"warmup": [first], "rl": [second, "another"]}))
    result = sgpo(*words, "--split", tmp_path / "split.json")
    assert json.loads(result.stdout)["problems"] == 1
    assert "1 problem left to the warm-up" in result.stderr
    for text, message in (('{"rl": 3}', "no list 'rl' of ids"), ('{"rl": ["other"]}', "it has none of these problems")):
        (tmp_path / "bad.json").write_text(text)
        refused = sgpo(*words, "--split", tmp_path / "bad.json")
        assert refused.exit_code == 2
        assert message in refused.stderr
