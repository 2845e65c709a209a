"""What extraction paid for and what came of it: answers and outcomes, kept in the bank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from sgpo.problems import Problem
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.strategy import Strategy
from sgpo.strategies.wire import Answer

Outcome = Literal["kept", "leaking", "failed", "unsolved"]
MAX_RAW = 20_000  # characters of an unusable answer that are kept with a failure


def now() -> str:
    """The time as it stands in a bank: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Ledger:
    """The extraction's side of a bank. Every entry is on the disk when the call returns."""

    def __init__(self, bank: StrategyBank) -> None:
        self._bank = bank

    def answers(self, key: str) -> list[Answer] | None:
        """What was answered to a request, by the hash of all that was asked."""
        row = self._bank.db.execute("SELECT answers FROM responses WHERE key = ?", (key,)).fetchone()
        return [Answer(**answer) for answer in json.loads(row[0])] if row else None

    def store_answers(self, key: str, model: str, answers: Sequence[Answer]) -> None:
        rows = [{name: getattr(answer, name) for name in Answer.__slots__} for answer in answers]
        costs = [answer.cost for answer in answers if answer.cost is not None]
        with self._bank.transaction():
            self._bank.db.execute(
                "INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    model,
                    json.dumps(rows, ensure_ascii=False),
                    sum(answer.prompt_tokens for answer in answers),
                    sum(answer.completion_tokens for answer in answers),
                    sum(costs) if costs else None,
                    now(),
                ),
            )

    def is_done(self, problem_id: str, key: str) -> bool:
        """Whether a problem came to an outcome, extracted in the way that `key` stands for."""
        row = self._bank.db.execute("SELECT key FROM outcomes WHERE problem_id = ?", (problem_id,)).fetchone()
        return row is not None and row[0] == key

    def record(
        self,
        problem: Problem,
        key: str,
        outcome: Outcome,
        *,
        candidates: Sequence[Strategy] = (),
        kept: Strategy | None = None,
        message: str | None = None,
        raw: str | None = None,
    ) -> None:
        """Write down how a problem ended, all at once. A kept strategy that a person has accepted stays."""
        with self._bank.transaction():
            accepted = self._bank.get(problem.id)
            if accepted is not None and accepted.reviewed:
                kept = None
            for candidate in candidates:
                known = self._bank.by_id(candidate.id)
                if known is None or not known.reviewed:
                    self._bank.put(candidate, kept=candidate is kept)
            self._bank.db.execute(
                "INSERT OR REPLACE INTO problems VALUES (?, ?)",
                (problem.id, json.dumps(problem.to_json(), ensure_ascii=False)),
            )
            self._bank.db.execute(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?)",
                (problem.id, key, outcome, message, raw[:MAX_RAW] if raw else raw, now()),
            )

    def failures(self) -> list[dict[str, str | None]]:
        """The problems that came to nothing: id, message and the raw text of the last answer."""
        rows = self._bank.db.execute(
            "SELECT problem_id, outcome, message, raw FROM outcomes WHERE outcome != 'kept' ORDER BY rowid"
        )
        return [dict(zip(("problem_id", "outcome", "message", "raw"), row, strict=True)) for row in rows]
