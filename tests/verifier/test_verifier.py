"""The pool of workers: order, limits, threads, life and death. What a verdict says is tested beside its rules."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgpo.problems import Problem
from sgpo.verifier import Verdict, Verifier, pool


@pytest.fixture(scope="module")
def verifier():
    with Verifier(workers=2, timeout=5.0) as verifier:
        yield verifier


def test_a_verdict_says_whether_it_is_correct() -> None:
    assert Verdict("correct").correct
    assert not any(Verdict(kind).correct for kind in ("wrong", "unparsed", "timeout"))


def test_order_is_kept(verifier: Verifier) -> None:
    verdicts = verifier.verify_many([(f"\\boxed{{{i % 7}}}", "3") for i in range(50)])
    assert [v.correct for v in verdicts] == [i % 7 == 3 for i in range(50)]


def test_a_problem_brings_its_answer_and_kind(verifier: Verifier) -> None:
    exact = Problem(id="a", problem="?", answer="0.5", kind="exact")
    assert verifier.verify("answer : 1/2", exact).kind == "wrong"
    assert verifier.verify("answer : 0.5", exact).correct
    assert verifier.verify("\\boxed{1/2}", Problem(id="b", problem="?", answer="0.5")).correct


def test_a_bomb_costs_its_own_answer_alone() -> None:
    with Verifier(workers=2, timeout=1.0) as verifier:
        kinds = [
            v.kind
            for v in verifier.verify_many([("\\boxed{2}", "2"), ("$\\boxed{9^{9^{9^9}}}$", "3"), ("\\boxed{3}", "2")])
        ]
        assert kinds[0] == "correct"
        assert kinds[1] in ("timeout", "wrong")
        assert kinds[2] == "wrong"
        assert verifier.verify("\\boxed{2}", "2").correct


def test_threads_share_a_verifier(verifier: Verifier) -> None:
    results: dict[int, list[bool]] = {}

    def judge(thread: int) -> None:
        results[thread] = [
            v.correct for v in verifier.verify_many([(f"\\boxed{{{i}}}", str(thread)) for i in range(8)])
        ]

    threads = [threading.Thread(target=judge, args=(thread,)) for thread in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {thread: [i == thread for i in range(8)] for thread in range(6)}


def test_from_a_coroutine(verifier: Verifier) -> None:
    async def judge() -> list[Verdict]:
        here = verifier.verify("\\boxed{2}", "2")
        return [here, await asyncio.to_thread(verifier.verify, "\\boxed{3}", "2")]

    assert [v.kind for v in asyncio.run(judge())] == ["correct", "wrong"]


def test_a_script_without_a_main_guard_and_without_torch(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nprint('start')\nfrom sgpo.verifier import Verifier\n"
        "print(Verifier().verify('\\\\boxed{2}', '2').kind, 'torch' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.split() == ["start", "correct", "False"]


FUNCTIONS = """
import os, signal
def die(completion, answer):
    os.kill(os.getpid(), signal.SIGKILL)
def leave(completion, answer):
    raise SystemExit
def hog(completion, answer):
    return len("x" * (8 << 30)) > 0
def capped(completion, answer):
    try:
        bytearray(8 << 30)
    except MemoryError:
        return True
    return False
def without_torch(completion, answer):
    import sys
    return "torch" not in sys.modules
def hang_in_c(completion, answer):
    open(completion, "w").write(str(os.getpid()))
    return 9 ** (9 ** 9) > 0  # one call that holds the interpreter's lock
def count(completion, answer):
    with open(answer, "a") as file:
        file.write("x")
    return True
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pool_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("function", ["die", "leave", "hog"])
def test_a_worker_that_dies_costs_its_own_answer_alone(functions: Path, function: str) -> None:
    good = Problem(id="a", problem="?", answer="2")
    bad = Problem(id="b", problem="?", answer="2", kind=f"pool_functions:{function}")
    with Verifier(workers=2) as verifier:
        verdicts = verifier.verify_many(
            [("\\boxed{2}", good), ("x", bad), ("\\boxed{3}", good), ("\\boxed{2.0}", good)]
        )
    assert [verdict.kind for verdict in verdicts] == ["correct", "timeout", "wrong", "correct"]


def test_memory_is_capped(functions: Path) -> None:
    with Verifier(workers=1) as verifier:
        assert verifier.verify("x", "y", kind="pool_functions:capped").correct


def test_workers_hold_no_torch(functions: Path) -> None:
    with Verifier(workers=1) as verifier:
        assert verifier.verify("\\boxed{2}", "2").correct
        assert verifier.verify("x", "y", kind="pool_functions:without_torch").correct


def test_identical_pairs_are_judged_once(functions: Path) -> None:
    log = functions / "log"
    with Verifier(workers=2) as verifier:
        verdicts = verifier.verify_many(
            [("a", str(log)), ("b", str(log)), ("a", str(log))], kind="pool_functions:count"
        )
    assert len(verdicts) == 3
    assert log.read_text() == "xx"


def test_workers_are_replaced_after_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "JOBS_PER_WORKER", 3)
    with Verifier(workers=1) as verifier:
        verdicts = verifier.verify_many([(f"\\boxed{{{number}}}", "7") for number in range(10)])
    assert [verdict.correct for verdict in verdicts] == [number == 7 for number in range(10)]


def test_closing_twice_and_starting_again() -> None:
    verifier = Verifier(workers=1)
    verifier.close()
    assert verifier.verify("\\boxed{2}", "2").correct
    verifier.close()
    verifier.close()
    assert verifier.verify("\\boxed{2}", "2").correct
    verifier.close()


def test_a_worker_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_BOOT", "raise SystemExit(3)")
    with Verifier(workers=1) as verifier, pytest.raises(ChildProcessError, match="could not be started, 3 in a row"):
        verifier.verify("\\boxed{2}", "2")


def test_workers_that_die_while_they_start_are_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two die at once, as those that the system kills for their memory."""
    folder = repr(str(tmp_path))
    die = f"import os; n = len(os.listdir({folder})); os.mkdir(os.path.join({folder}, str(os.getpid())))"
    monkeypatch.setattr(pool, "_BOOT", f"{die}\nif n < 2: os._exit(9)\n{pool._BOOT}")
    with Verifier(workers=1) as verifier:
        verdicts = verifier.verify_many([("\\boxed{1}", "1"), ("\\boxed{1}", "2")])
    assert [verdict.kind for verdict in verdicts] == ["correct", "wrong"]
    assert len(list(tmp_path.iterdir())) == 3


def test_an_answer_that_cannot_be_handed_over_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(self: pool.Worker, job: pool.Job, timeout: float) -> None:
        raise BrokenPipeError

    with Verifier(workers=1) as verifier:
        with monkeypatch.context() as broken:
            broken.setattr(pool.Worker, "send", send)
            assert verifier.verify("\\boxed{2}", "2").kind == "timeout"
        assert verifier.verify("\\boxed{2}", "2").correct


def test_closing_ends_every_worker() -> None:
    verifier = Verifier(workers=3)
    verifier.verify_many([(f"\\boxed{{{number}}}", "7") for number in range(30)])
    pids = [worker.process.pid for worker in verifier._pool._idle.queue if worker is not None]
    assert len(pids) == 3
    verifier.close()
    assert not any(map(_runs, pids))


def test_workers_end_with_a_parent_that_is_killed(functions: Path) -> None:
    """Even one that is stuck in C code, where it can neither read nor notice anything itself."""
    script = functions / "script.py"
    script.write_text(
        "from sgpo.verifier import Verifier\n"
        f"Verifier(timeout=600).verify({str(functions / 'pid')!r}, '', kind='pool_functions:hang_in_c')\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)])
    pid = _wait_for(lambda: (functions / "pid").exists() and (functions / "pid").read_text())
    parent.kill()
    parent.wait()
    assert _wait_for(lambda: not _runs(int(pid)))


def _wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError("it never came to pass")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_fork_uses_workers_of_its_own() -> None:
    """Parent and child judge at the same time: on one socket their answers would mix."""
    pairs = [(f"\\boxed{{{number}}}", str(number)) for number in range(60)]
    with Verifier(workers=1) as verifier:
        assert verifier.verify("\\boxed{2}", "2").correct
        child = os.fork()
        if child == 0:
            wrong = [(found, "-1") for found, _ in pairs]
            os._exit(any(verdict.correct for verdict in verifier.verify_many(wrong)))
        assert all(verdict.correct for verdict in verifier.verify_many(pairs))
        assert os.waitpid(child, 0)[1] == 0


def test_unknown_kinds_and_options_are_refused(verifier: Verifier) -> None:
    with pytest.raises(ValueError, match="unknown kind of problem 'maths'"):
        verifier.verify("1", "1", kind="maths")
    with pytest.raises(ValueError, match="workers"):
        Verifier(workers=0)
    with pytest.raises(ValueError, match="timeout"):
        Verifier(timeout=0)
