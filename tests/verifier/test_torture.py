"""Hostile answers: none hangs, none is called right, none harms the answers beside it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from torture import torture

from sgpo.verifier import Verifier


def test_torture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases = torture()
    assert len(cases) >= 300
    pairs = [(completion, gold) for _, completion, gold in cases]
    healthy = [(f"\\boxed{{{number}}}", str(number)) for number in range(len(cases))]
    mixed = [pair for both in zip(pairs, healthy, strict=True) for pair in both]
    with Verifier(workers=2, timeout=2.0) as verifier:
        verdicts = verifier.verify_many(mixed)
    hostile = dict(zip((name for name, _, _ in cases), verdicts[::2], strict=True))
    assert [name for name, verdict in hostile.items() if verdict.correct] == []
    assert [verdict.kind for verdict in verdicts[1::2]] == ["correct"] * len(cases)
    assert Counter(verdict.kind for verdict in hostile.values())["timeout"] <= 40  # 6 on an idle machine
    assert list(tmp_path.iterdir()) == []  # nothing in an answer was run
