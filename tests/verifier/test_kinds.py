"""The kinds of task."""

# ruff: noqa: E501 (tables)

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sgpo.problems import Problem
from sgpo.verifier import Verifier, kinds, pool
from sgpo.verifier.kinds import UsageError, judge_completion

CHOICES = [
    ("C", "thinking about it I think the correct answer is C", True), ("D", "The answer: D, it doesn't make sense for it to be A or B", True),
    ("B", "It's not A because it doesn't make sense, therefore I think it's B", True), ("D", "D. it can't be A or B", True), ("(D) Alina", "D", True),
    ("A Peter\nCelina", "A", True), ("B", "\\boxed{\\text{(B)}}", True), ("B", "\\boxed{b}", True), ("B", "**Answer:** (B) 12", True),
    ("B", "The answer is not B.", False), ("B", "I cannot tell whether A or B is right.", False), ("C", "It could be (A), (B) or (C).", False),
    ("C", "Between B and C, C is better.", True), ("B", "It is not A but B", True), ("B", "Nothing but B fits, not C.", True),
    ("B", "The answer is A.", False), ("A, C", "\\boxed{A, C}", True), ("A, C", "\\boxed{A}", False), ("B", "\\boxed{B) \\ 2.5}", True),
]  # fmt: skip


@pytest.mark.parametrize(("completion", "answer", "kind"), [
    ("reverse 2 4 1 3 answer : 3 1 4 2", "3 1 4 2", "correct"), ("answer : 3 1  4 2\n", "3 1 4 2", "correct"), ("answer : 3 1 4", "3 1 4 2", "wrong"),
    ("answer : 1 answer : 2", "2", "correct"), ("3 1 4 2", "3 1 4 2", "correct"), ("so\n3 1 4 2", "3 1 4 2", "correct"), ("\\boxed{3 1 4 2} done", "3 1 4 2", "correct"),
    ("", "3", "unparsed"), ("answer :", "3", "unparsed"), ("answer : 03", "3", "wrong"), ("The answer is up", "up", "correct"),
    ("\\boxed{3\\ 1\\,4 \\quad 2}", "3 1 4 2", "correct"), ("\\boxed{\\text{a b}}", "a b", "correct"), ("\\boxed{\\text{a} \\; \\text{b}}", "a b", "correct"),
    ("\\boxed{3\\ 1\\,42}", "3 1 4 2", "wrong"), ("\\boxed{\\text{b a}}", "a b", "wrong"), ("\\boxed{\\text{}}", "a b", "unparsed"),
])  # fmt: skip
def test_exact(completion: str, answer: str, kind: str) -> None:
    assert judge_completion(completion, answer, kind="exact").kind == kind


@pytest.mark.parametrize(("answer", "completion", "correct"), CHOICES)
def test_choice(answer: str, completion: str, correct: bool) -> None:
    assert judge_completion(completion, answer, kind="choice").correct is correct


def test_choice_without_a_letter() -> None:
    assert judge_completion("none of these", "B", kind="choice").kind == "unparsed"
    with pytest.raises(UsageError, match="must begin with its letter"):
        judge_completion("A", "seventeen", kind="choice")


@pytest.fixture
def judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_judges.py").write_text(
        "import time\nfrom sgpo.verifier import Verdict\n"
        "def even(completion, answer):\n    print('noise')\n    return int(completion) % 2 == 0\n"
        "def verdict(completion, answer):\n    return Verdict('unparsed', answer)\n"
        "def asleep(completion, answer):\n    time.sleep(60)\n"
        "def waits(completion, answer):\n    time.sleep(0.4)\n    return True\n"
        "def busy(completion, answer):\n    while True:\n        pass\n"
        "def number(completion, answer):\n    return 1\n"
        "def other(text, gold):\n    return True\n"
        "def permutation(completion, answer):\n"
        "    import json\n    return sorted(completion.split()) == sorted(json.loads(answer)['of'])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_judges"


def test_a_function_of_ones_own(judges: str) -> None:
    with Verifier(workers=1, timeout=1.0) as verifier:
        assert verifier.verify("4", "", kind=f"{judges}:even").correct
        assert verifier.verify("5", Problem(id="a", problem="?", answer="-", kind=f"{judges}:even")).kind == "wrong"
        assert verifier.verify("x", "", kind=f"{judges}:even").kind == "timeout"  # it raised: counted, and warned of
        assert verifier.verify("x", "y", kind=f"{judges}:verdict").kind == "unparsed"
        assert verifier.verify("x", "y", kind=f"{judges}:verdict").extracted == "y"
        assert verifier.verify("x", "y", kind=f"{judges}:busy").kind == "timeout"
        assert verifier.verify("4", "", kind=f"{judges}:even").correct
    assert judges not in sys.modules  # it ran in a worker


def test_the_limit_is_processor_time(judges: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that waits, as all do on a busy machine, is left alone; one that never wakes up is not."""
    with Verifier(workers=1, timeout=0.2) as verifier:
        assert verifier.verify("x", "y", kind=f"{judges}:waits").correct
        assert verifier.verify("x", "y", kind=f"{judges}:busy").kind == "timeout"
        monkeypatch.setattr(pool, "PATIENCE", 2)
        assert verifier.verify("x", "y", kind=f"{judges}:asleep").kind == "timeout"


@pytest.mark.parametrize("kind", ["choice", "exact"])
def test_every_kind_is_judged_in_a_worker(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "judge_completion", None)  # in this process
    with Verifier(workers=1) as verifier:
        assert verifier.verify("The answer is A", "A", kind=kind).correct


def test_a_puzzle_may_name_its_rule(judges: str) -> None:
    rule = json.dumps({"check": f"{judges}:permutation", "of": ["1", "2", "3"]})
    with Verifier(workers=1) as verifier:
        verdicts = verifier.verify_many([("3 1 2", rule), ("3 1 1", rule), ("answer : 7", "7")], kind="puzzle")
    assert [verdict.kind for verdict in verdicts] == ["correct", "wrong", "correct"]


@pytest.mark.parametrize(("function", "message"), [
    ("nothing", "names no function"), ("number", "must return a bool"), ("other", "must take exactly"),
])  # fmt: skip
def test_wrong_functions_are_the_users_mistake(judges: str, function: str, message: str) -> None:
    with Verifier(workers=1) as verifier, pytest.raises(ValueError, match=message):
        verifier.verify("1", "1", kind=f"{judges}:{function}")


@pytest.mark.parametrize(
    "kind", ["os:system", "builtins:eval", "subprocess:getoutput", "no_such_module:f", "sympy:sympify"]
)
def test_a_problem_file_cannot_name_any_function(kind: str, tmp_path: Path) -> None:
    with Verifier(workers=1) as verifier, pytest.raises(ValueError, match="kind"):
        verifier.verify(f"touch {tmp_path}/pwned", "1", kind=kind)
    assert not (tmp_path / "pwned").exists()


def test_problems_are_checked_before_there_are_completions(judges: str) -> None:
    def problem(kind: str, answer: str = "1") -> Problem:
        return Problem(id="p7", problem="?", answer=answer, kind=kind)

    rule = json.dumps({"check": f"{judges}:missing"})
    with Verifier(workers=1) as verifier:
        verifier.check_problems([problem("math"), problem("exact"), problem("choice", "B"), problem("puzzle")])
        verifier.check_problems([problem(f"{judges}:verdict")])
        for wrong, message in [
            (problem(f"{judges}:missing"), "problem 'p7': kind 'my_judges:missing' names no function"),
            (problem("puzzle", rule), "problem 'p7': kind 'my_judges:missing' names no function"),
            (problem("choice", "12"), "problem 'p7': the answer .* must begin with its letter"),
            (problem("maths"), "problem 'p7': unknown kind of problem 'maths'"),
        ]:
            with pytest.raises(UsageError, match=message):
                verifier.check_problems([problem("choice", "B"), problem("puzzle"), wrong])


def test_a_function_in_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judge_here.py").write_text("def yes(completion, answer):\n    return True\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # as of the `sgpo` command
    with Verifier(workers=1) as verifier:
        assert verifier.verify("", "", kind="judge_here:yes").correct
