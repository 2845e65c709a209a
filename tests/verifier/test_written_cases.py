"""582 answers whose verdict was written down by hand before the verifier had seen them, in four rounds: units,
percent, intervals, sets, matrices, words, choices, plus-minus, equations, leading zeros, boxes, plain endings.

Rules were fixed after rounds 1 and 2; round 3 was written after that. Round 4 holds pairs that a review found to be
called equal, and their neighbours; these have a verdict of the strict policy too.
"""

from __future__ import annotations

import json
from pathlib import Path

from sgpo.verifier.kinds import judge_math

# Right answers that are still not recognised; no wrong answer passes.
MISSED = {
    ("12_{8}", "So the answer is \\boxed{12_{\\text{eight}}}."),
    ("3", "So the answer is \\boxed{3 + x - x}."),
    ("A, B", "So the answer is \\boxed{AB}."),
    ("1", "There is only one solution."),
}


def test_written_cases() -> None:
    lines = (Path(__file__).parent / "written_cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    assert len(cases) == 582
    errors = {
        (case["gold"], case["completion"])
        for case in cases
        if judge_math(case["completion"], case["gold"]).correct != case["correct"]
    }
    assert errors == MISSED
    strict_errors = [
        (case["gold"], case["completion"])
        for case in cases
        if "strict" in case and judge_math(case["completion"], case["gold"], strict=True).correct != case["strict"]
    ]
    assert strict_errors == []


def test_large_numbers_in_words() -> None:
    """A "million" that is left out is like a unit that is left out, but not where exact values are wanted."""
    for answer, lenient, strict in [("5 million", True, True), ("5,000,000", True, True), ("5", True, False)]:
        completion = f"\\boxed{{{answer}}}"
        assert judge_math(completion, "5 \\text{ million}").correct == lenient
        assert judge_math(completion, "5 \\text{ million}", strict=True).correct == strict
    assert not judge_math("\\boxed{5 \\text{ billion}}", "5 \\text{ million}").correct
