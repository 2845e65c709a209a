"""Verdict cases: those of users' reports, and our own, half of them traps for a false "correct"."""

import json
from pathlib import Path

import pytest

from sgpo.problems import Problem
from sgpo.verifier import Verdict, Verifier

REPORTED = Path(__file__).resolve().parents[3] / "shared/cases/verifier.jsonl"
OWN = Path(__file__).parent / "more_cases.jsonl"


def rows_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def verdicts(rows, *, strict):
    """What the verifier says of the rows that ask for this policy; a list of rows and verdicts."""
    rows = [row for row in rows if row.get("strict", False) is strict]
    pairs = [
        (row["completion"], Problem(id="x", problem="?", answer=row["gold"], kind=row.get("kind", "math")))
        for row in rows
    ]
    with Verifier(workers=2, policy="strict" if strict else "lenient") as verifier:
        return list(zip(rows, verifier.verify_many(pairs), strict=True))


@pytest.mark.parametrize("strict", [False, True])
def test_own_cases(strict):
    assert [row for row, verdict in verdicts(rows_of(OWN), strict=strict) if verdict.correct != row["correct"]] == []


@pytest.mark.skipif(not REPORTED.exists(), reason="needs ../shared/cases")
def test_reported_cases():
    rows = rows_of(REPORTED)
    assert len(rows) == 270
    judged = verdicts(rows, strict=False)
    assert [row["id"] for row, found in judged if found.correct != (row["expected"] == "correct")] == []


def test_a_completion_that_was_cut_off_has_no_answer_in_prose():
    """Its last sentence is not the one that the model would have ended with; a box that is whole counts."""
    problem = Problem(id="x", problem="?", answer="12")
    texts = [
        "There are 12 of them in all.",
        "So the answer is \\boxed{12}. I check:",
        "The answer is 12",
        "#### 12\nAnd",
    ]
    with Verifier(workers=1) as verifier:
        whole = verifier.verify_many([(text, problem) for text in texts])
        cut = verifier.verify_many([(text, problem) for text in texts], finished=[False] * 4)
    assert [verdict.kind for verdict in whole] == ["correct"] * 4
    assert [verdict.kind for verdict in cut] == ["unparsed", "correct", "unparsed", "correct"]
    assert cut[0] == Verdict("unparsed")


@pytest.mark.parametrize(("text", "kind", "cut"), [
    ("I think (B) is possible. Let me check (C)", "choice", "unparsed"),
    ("I think (B) is possible. Let me check (C)", "math", "unparsed"),
    ("We try each.\nC", "exact", "unparsed"),
    ("The answer is (C), as", "choice", "correct"),
    ("so answer : C", "exact", "correct"),
])  # fmt: skip
def test_the_last_letter_or_line_of_a_completion_that_was_cut_off_is_no_answer(text, kind, cut):
    with Verifier(workers=1) as verifier:
        assert verifier.verify(text, "C", kind=kind).correct
        assert verifier.verify(text, "C", kind=kind, finished=False).kind == cut


@pytest.mark.parametrize("text", ["\n" * 3100, "She walks on." + "\n" * 3100, "*" * 500, "The answer is $\\boxed{}$."])
def test_a_text_that_says_nothing_is_unparsed(text):
    with Verifier(workers=1) as verifier:
        assert verifier.verify(text, "west") == Verdict("unparsed")
