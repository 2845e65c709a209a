from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_server import SCORES, STRATEGY, ChatServer, Reply, chat, error, good, is_ranking

from sgpo.endpoint import Prices, RetryPolicy
from sgpo.errors import EndpointError
from sgpo.problems import Problem, save_problems
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.extract import Extraction, extract_strategies
from sgpo.strategies.replies import StrongModel
from sgpo.strategies.solutions import MAX_SOLUTION_CHARS, clean_solution, cut_solution
from sgpo.strategies.strategy import Leak, Strategy
from sgpo.verifier import Verifier

SOLUTION = "In May she sold 48 / 2 = 24 clips. Together that is 48 + 24 = 72 clips. The answer is \\boxed{72}."


def clips(number: int = 0, **more: Any) -> Problem:
    text = f"Natalia {number} sold clips to 48 friends in April, and half as many in May. How many altogether?"
    return Problem(**{"id": f"clips-{number}", "problem": text, "answer": "72", "solution": SOLUTION, **more})


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=1) as opened:
        yield opened


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[StrategyBank]:
    with StrategyBank(tmp_path / "bank.db") as opened:
        yield opened


def extract(
    server: ChatServer, bank: StrategyBank, verifier: Verifier, *problems: Problem, **options: Any
) -> Extraction:
    how = {
        name: options.pop(name)
        for name in ("candidates", "solve", "max_tokens", "retry_failed", "on_progress")
        if name in options
    }

    async def run() -> Extraction:
        settings: dict[str, Any] = {"key": "sk-secret", "retries": RetryPolicy(pause=0.001), "timeout": 10.0, **options}
        async with StrongModel(base_url=server.url, model="strong", cache=bank, **settings) as model:
            return await extract_strategies(problems, bank, model, verifier, **how)

    return asyncio.run(run())


def prompt_of(request: dict[str, Any]) -> str:
    text = request["messages"][0]["content"]
    assert isinstance(text, str)
    return text


def test_the_best_candidate_becomes_active_and_all_are_stored(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if not is_ranking(request):
            return good(request)
        best = "way iii" in prompt_of(request)
        return chat(json.dumps({**SCORES, "general": 5 if best else 2}), prompt_tokens=200, completion_tokens=20)

    server.script = script
    report = extract(server, bank, verifier, clips(), candidates=5, prices=Prices(prompt=1.0, completion=2.0))
    assert (report.problems, report.active, report.candidates, report.unfinished) == (1, 1, 5, 0)
    active = bank.get("clips-0")
    assert active is not None
    assert active.steps[-1] == "Check it: way iii"
    assert active.approach == STRATEGY["approach"]
    assert active.when_to_use == STRATEGY["when_to_use"]
    assert active.leaks == ()
    assert active.scores is not None
    assert active.scores.total == 18
    assert active.strong_model == "strong"
    assert active.prompt_version
    assert active.created
    assert active.sampling == {"temperature": 0.8, "top_p": 0.95, "max_tokens": 8192}
    # A fifth of the request that wrote it (100 and 10 tokens) and all of the one that ranked it (200 and 20).
    assert (active.prompt_tokens, active.completion_tokens) == (220, 22)
    assert active.cost == pytest.approx((220 * 1.0 + 22 * 2.0) / 1e6)
    assert len(bank.candidates("clips-0")) == 5
    assert len(server.requests) == 6
    assert all(request["response_format"]["type"] == "json_schema" for request in server.requests)
    counts = bank.stats()
    assert (counts["problems"], counts["strategies"], counts["candidates"], counts["requests"]) == (1, 1, 5, 6)
    assert counts["tokens"] == 110 + 5 * 220


def test_prompts_show_problem_and_solution(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    extract(server, bank, verifier, clips(7), candidates=1)
    writing, ranking = (prompt_of(request) for request in server.requests)
    for text in (writing, ranking):
        assert clips(7).problem in text
        assert SOLUTION in text
    assert STRATEGY["steps"][1] in ranking


def test_leaking_candidates_are_passed_over_whatever_their_scores(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if is_ranking(request):
            leaks = "until you reach 72" in prompt_of(request)
            return chat(json.dumps({**SCORES, "general": 5 if leaks else 1}))
        leaking = {**STRATEGY, "approach": "Add until you reach 72."}
        return chat(json.dumps(leaking), json.dumps(STRATEGY))

    server.script = script
    report = extract(server, bank, verifier, clips(), candidates=2)
    assert (report.active, report.candidates, report.leaking_candidates) == (1, 2, 1)
    active, leaking = bank.candidates("clips-0")
    assert active.leaks == ()
    assert leaking.leaks
    assert leaking.leaks[0].where == "approach"
    assert bank.stats()["leaking"] == 1


def test_where_all_leak_none_becomes_active(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    server.script = lambda request, number: good(request, {**STRATEGY, "approach": "Add until you reach 72."})
    report = extract(server, bank, verifier, clips(), candidates=2)
    assert (report.active, report.leaking) == (0, 1)
    assert bank.get("clips-0") is None
    assert len(bank.candidates("clips-0")) == 2


def test_no_score_is_too_low_and_an_unranked_candidate_comes_last(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if not is_ranking(request):
            return good(request)
        low = dict.fromkeys(SCORES, 1)
        return chat(json.dumps(low) if "way ii" in prompt_of(request) else "I will not judge.")

    server.script = script
    report = extract(server, bank, verifier, clips(), candidates=3)
    assert (report.active, report.unranked_candidates) == (1, 2)
    active = bank.get("clips-0")
    assert active is not None
    assert active.steps[-1] == "Check it: way ii"


# ------------------------------------------------------------------------------------------------- unusable answers


def test_what_cannot_be_used_is_asked_again_and_says_why(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    texts = [json.dumps(STRATEGY)[:-30], json.dumps({**STRATEGY, "steps": []}), json.dumps(STRATEGY)]

    def script(request: dict[str, Any], number: int) -> Reply:
        return good(request) if is_ranking(request) else chat(texts.pop(0))

    server.script = script
    report = extract(server, bank, verifier, clips(), candidates=1)
    assert (report.active, report.unusable_answers) == (1, 2)
    prompts = [prompt_of(request) for request in server.requests[:3]]
    assert "could not be used" not in prompts[0]
    assert "could not be used: its JSON object was broken or cut off." in prompts[1]
    assert "could not be used: steps: " in prompts[2]


def test_what_stays_unusable_is_a_counted_failure_with_its_text(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    server.script = lambda request, number: chat(*(f"garbage {number}.{i}" for i in range(request["n"])))
    report = extract(server, bank, verifier, clips(1), clips(2), candidates=3, concurrency=1)
    assert (report.failed, report.active, report.unfinished, report.unusable_answers) == (2, 0, 0, 18)
    assert len(server.requests) == 6  # three times for each
    assert bank.stats()["failed"] == 2
    failures = bank.failures()
    assert [failure["problem_id"] for failure in failures] == ["clips-1", "clips-2"]
    assert failures[0] == {
        "problem_id": "clips-1",
        "outcome": "failed",
        "message": "it held no JSON object",
        "raw": "garbage 2.2",
    }


def test_only_the_missing_candidates_are_asked_again(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        if number == 0:
            return chat(json.dumps(STRATEGY), "garbage", "garbage")
        return good(request)

    server.script = script
    report = extract(server, bank, verifier, clips(), candidates=3)
    assert [request["n"] for request in server.requests if not is_ranking(request)] == [3, 2]
    assert (report.candidates, report.unusable_answers) == (3, 2)


def test_a_request_that_is_refused_is_a_failure_of_its_problem(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        return error(400, "too long for me") if "Natalia 1 " in prompt_of(request) else good(request)

    server.script = script
    report = extract(server, bank, verifier, clips(0), clips(1), clips(2), candidates=1, concurrency=1)
    assert (report.active, report.failed) == (2, 1)
    assert bank.failures()[0]["message"] == "status 400: too long for me"


def test_a_problem_whose_requests_fail_for_now_is_left_for_the_next_run(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    def script(request: dict[str, Any], number: int) -> Reply:
        return error(500, "oops") if "Natalia 1 " in prompt_of(request) else good(request)

    server.script = script
    problems = [clips(0), clips(1), clips(2)]
    report = extract(server, bank, verifier, *problems, candidates=1, concurrency=1)
    assert (report.active, report.failed, report.unfinished) == (2, 0, 1)
    server.script = lambda request, number: good(request)
    report = extract(server, bank, verifier, *problems, candidates=1, concurrency=1)
    assert (report.earlier, report.active, report.unfinished) == (2, 1, 0)


# ------------------------------------------------------------------------------------------------------- solutions


def test_wrong_solutions_are_not_used(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    wrong = clips(1, solution="The answer is \\boxed{71}.")
    report = extract(server, bank, verifier, wrong, clips(2, solution=None), clips(3), candidates=1)
    assert (report.active, report.unsolved, report.wrong_solutions, report.no_solution) == (1, 2, 1, 1)
    assert len(server.requests) == 2
    assert bank.stats()["outcomes"] == {"active": 1, "unsolved": 2}


def test_problems_without_any_solution_are_an_error(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    with pytest.raises(ValueError, match="no problem has a solution"):
        extract(server, bank, verifier, clips(solution=None))
    assert server.requests == []


def test_the_strong_model_solves_until_it_is_right(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    solutions = ["\\boxed{3}", "<think>72? \\boxed{72}</think> It is \\boxed{24}.", "<think>Hm.</think>So \\boxed{72}."]

    def script(request: dict[str, Any], number: int) -> Reply:
        if "response_format" in request:
            return good(request)
        return chat(solutions.pop(0))

    server.script = script
    report = extract(server, bank, verifier, clips(solution=None), candidates=4, solve=True)
    assert (report.active, report.no_solution) == (1, 1)
    writing = next(prompt_of(request) for request in server.requests if "response_format" in request)
    assert "So \\boxed{72}." in writing
    assert "Hm." not in writing

    server.script = lambda request, number: chat("\\boxed{3}")
    report = extract(server, bank, verifier, clips(1, solution=None), candidates=4, solve=True)
    assert report.unsolved == 1
    assert sum("Natalia 1 " in prompt_of(request) for request in server.requests) == 4


def test_long_solutions_are_cut_where_it_is_written(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    lines = [f"line {i} " + "x" * 50 for i in range(2000)]
    long = "\n".join(lines) + "\n" + SOLUTION
    report = extract(server, bank, verifier, clips(solution=long), candidates=1)
    assert (report.active, report.cut) == (1, 1)
    shown = prompt_of(server.requests[0])
    assert "line 0 " in shown
    assert SOLUTION in shown
    assert "characters left out ...]" in shown


def test_where_a_solution_is_cut() -> None:
    whole = "a" * MAX_SOLUTION_CHARS
    assert cut_solution(whole) == whole
    text = "".join(f"{i:04d}\n" for i in range(1000))  # 5,000 characters, 5 a line
    cut = cut_solution(text, limit=1000)
    head, mark, tail = cut.partition("\n\n[... 4,000 characters left out ...]\n\n")
    assert mark
    assert head == text[:250]
    assert tail == text[-750:]
    in_lines = cut_solution(text, limit=1002)
    assert in_lines.startswith(text[:250] + "\n\n[...")
    assert in_lines.endswith("...]\n\n" + text[-750:])
    assert cut_solution("b" * 5000, limit=1000).count("b") == 1000


# ---------------------------------------------------------------------------------------------- budget, stop, resume


def test_a_finished_problem_is_not_asked_again_unless_something_changed(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    extract(server, bank, verifier, clips(), candidates=2)
    asked = len(server.requests)
    report = extract(server, bank, verifier, clips(), candidates=2)
    assert (report.earlier, report.active) == (1, 0)
    assert len(server.requests) == asked
    extract(server, bank, verifier, clips(answer="72.0"), candidates=2)
    assert len(server.requests) == asked  # done again, from the answers that were paid for
    assert extract(server, bank, verifier, clips(), candidates=3).active == 1
    assert len(server.requests) > asked


def test_a_bank_of_version_0_1_is_resumed_and_nothing_is_asked_again(
    server: ChatServer, tmp_path: Path, verifier: Verifier
) -> None:
    """The leak gate has changed since: its four problems are judged again, from the stored replies alone."""
    shutil.copy(Path(__file__).parent / "data" / "bank-0.1.db", tmp_path / "old.db")
    problems = [clips(0), clips(1), clips(2), clips(3, solution="The answer is \\boxed{71}.")]
    with StrategyBank(tmp_path / "old.db") as bank:
        report = extract(server, bank, verifier, *problems, candidates=2)
        assert extract(server, bank, verifier, *problems, candidates=2).earlier == 4
    assert (report.active, report.leaking, report.failed, report.unsolved) == (1, 1, 1, 1)
    assert server.requests == []


def test_the_budget_ends_a_run_cleanly_and_the_next_goes_on(
    server: ChatServer, bank: StrategyBank, verifier: Verifier
) -> None:
    problems = [clips(i) for i in range(10)]
    report = extract(server, bank, verifier, *problems, candidates=1, concurrency=2, max_requests=7)
    assert report.stopped == "the budget of 7 requests is spent"
    assert report.active + report.unfinished == 10
    assert 2 <= report.active <= 3
    assert len(server.requests) == 7
    report = extract(server, bank, verifier, *problems, candidates=1, concurrency=2)
    assert (report.earlier + report.active, report.stopped) == (10, None)
    assert len(server.requests) == 20  # two for each problem in all


def test_a_refused_key_ends_the_run_and_is_in_nothing_that_is_stored(
    server: ChatServer, bank: StrategyBank, verifier: Verifier, tmp_path: Path
) -> None:
    server.script = lambda request, number: good(request) if number < 4 else error(401, "bad key sk-secret")
    with pytest.raises(EndpointError, match=r"the key was refused \(status 401: bad key \[key\]\)"):
        extract(server, bank, verifier, *(clips(i) for i in range(50)), candidates=1, concurrency=2)
    assert len(server.requests) <= 6
    assert 1 <= len(bank) <= 2
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"sk-secret" not in stored


def test_a_bank_that_cannot_be_written_ends_the_run(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    bank.db.execute("PRAGMA query_only = ON")
    with pytest.raises(ValueError, match=r"bank\.db: cannot be written"):
        extract(server, bank, verifier, *(clips(i) for i in range(50)), candidates=1, concurrency=2)
    assert len(server.requests) <= 2


def test_an_error_of_ours_ends_the_run_for_all(
    server: ChatServer, bank: StrategyBank, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(strategy: Strategy, problem: Problem) -> list[Leak]:
        if problem.id == "clips-3":
            raise RuntimeError("a bug")
        return []

    monkeypatch.setattr("sgpo.strategies.extract.find_leaks", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        extract(server, bank, verifier, *(clips(i) for i in range(50)), candidates=1, concurrency=2)
    assert len(server.requests) <= 12


def test_a_strategy_that_a_person_accepted_stays(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    mine = Strategy(problem_id="clips-0", problem_type="Mine", approach="a", steps=("s",), reviewed="2026-11-23")
    bank.add(mine)
    extract(server, bank, verifier, clips(), candidates=2)
    assert bank.get("clips-0") == mine
    assert len(bank.candidates("clips-0")) == 3
    bank.add(replace(mine, reviewed=None))
    extract(server, bank, verifier, clips(), candidates=3)
    assert bank.get("clips-0") != mine


def test_progress_is_told_after_every_problem(server: ChatServer, bank: StrategyBank, verifier: Verifier) -> None:
    seen: list[int] = []
    extract(
        server, bank, verifier, clips(0), clips(1), candidates=1, on_progress=lambda report: seen.append(report.done)
    )
    assert seen == [1, 2]


def quick_clips(number: int) -> Problem:
    """Judged as text, so that no worker of the verifier has to start."""
    return clips(number, kind="exact", solution="The answer is 72")


KILLED = """
import asyncio, sys
from sgpo.problems import load_problems
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.extract import extract_strategies
from sgpo.strategies.replies import StrongModel
from sgpo.strategies.solutions import MAX_SOLUTION_CHARS, clean_solution, cut_solution
from sgpo.verifier import Verifier

async def main(url, problems, path):
    with StrategyBank(path) as bank, Verifier(workers=1) as verifier:
        async with StrongModel(base_url=url, model="strong", key="x", cache=bank, concurrency=4) as model:
            await extract_strategies(load_problems(problems), bank, model, verifier, candidates=2)

asyncio.run(main(*sys.argv[1:]))
"""


def test_killed_at_any_moment_and_started_again_nothing_is_paid_for_twice(server: ChatServer, tmp_path: Path) -> None:
    problems = [quick_clips(i) for i in range(20)]
    save_problems(problems, tmp_path / "problems.jsonl")
    command = [sys.executable, "-c", KILLED, server.url, str(tmp_path / "problems.jsonl"), str(tmp_path / "bank.db")]
    process: subprocess.Popen[bytes]

    def script(request: dict[str, Any], number: int) -> Reply:
        if number in (15, 35):
            os.kill(process.pid, signal.SIGKILL)
        return good(request)

    server.script = script
    for _ in range(2):
        process = subprocess.Popen(command)
        assert process.wait() == -signal.SIGKILL
    process = subprocess.Popen(command)
    assert process.wait() == 0
    with StrategyBank(tmp_path / "bank.db", create=False) as bank:
        assert len(bank) == 20
        assert bank.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert bank.stats()["requests"] == 20 * 3
    # At most the four under way were lost, each of the two times.
    assert 20 * 3 < len(server.requests) <= 20 * 3 + 2 * 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_moments(server: ChatServer, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    save_problems([quick_clips(i) for i in range(60)], tmp_path / "problems.jsonl")
    command = [sys.executable, "-c", KILLED, server.url, str(tmp_path / "problems.jsonl"), str(tmp_path / "bank.db")]

    def script(request: dict[str, Any], number: int) -> Reply:
        time.sleep(rng.uniform(0, 0.03))
        return good(request)

    server.script = script
    for _ in range(6):
        process = subprocess.Popen(command)
        last = len(server.requests) + rng.randrange(1, 30)
        while len(server.requests) < last and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.wait()
        if (tmp_path / "bank.db").exists():
            with contextlib.closing(sqlite3.connect(tmp_path / "bank.db")) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert subprocess.run(command, check=False).returncode == 0
    with StrategyBank(tmp_path / "bank.db", create=False) as bank:
        assert (len(bank), bank.stats()["requests"]) == (60, 60 * 3)
    print(f"{len(server.requests)} requests, {60 * 3} needed")
    assert len(server.requests) <= 60 * 3 + 6 * 4  # at most the four under way are lost each time


def test_two_processes_may_extract_into_one_bank(server: ChatServer, tmp_path: Path) -> None:
    commands = []
    for half in (0, 1):
        file = tmp_path / f"problems-{half}.jsonl"
        save_problems([quick_clips(i) for i in range(half * 10, half * 10 + 10)], file)
        commands.append([sys.executable, "-c", KILLED, server.url, str(file), str(tmp_path / "bank.db")])
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait() for process in processes] == [0, 0]
    with StrategyBank(tmp_path / "bank.db", create=False) as bank:
        assert len(bank) == 20
        assert bank.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(server.requests) == 20 * 3


def test_a_solution_without_what_is_not_part_of_it() -> None:
    rationale = "She sold 48/2 = <<48/2=24>>24 in May.\nTogether 48+24 = <<48+24=72>>72 clips."
    assert (
        clean_solution(rationale)
        == "She sold 48/2 = 24 in May.\nTogether 48+24 = 72 clips.\nThe answer is \\boxed{72}."
    )
    assert (
        clean_solution("Half is <<48/2=24>>24.\nSo she sold fewer in May.") == "Half is 24.\nSo she sold fewer in May."
    )
    assert clean_solution("<think>Hm, 3?</think>\nIt is \\boxed{4}.") == "It is \\boxed{4}."
    assert clean_solution("<think>It is \\boxed{4}") == "<think>It is \\boxed{4}"  # a trace that was cut off
