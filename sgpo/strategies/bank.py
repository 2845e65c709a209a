"""The strategy bank: one SQLite file that extraction writes, people read and edit, and training reads.

Per problem at most one strategy is *active*, the one that training uses; the others stay as candidates. The bank also
holds what extraction was answered and how every problem ended, so that nothing is asked twice. The file is in WAL mode:
one process writes while many read. Every query of the package stands here, the tables in `sgpo.strategies.schema`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from sgpo.errors import BankError, InputError
from sgpo.io import write_text
from sgpo.problems import Problem
from sgpo.strategies.schema import explain, open_bank_file, read_dicts, row_of, strategy_of, transaction
from sgpo.strategies.strategy import Condition, Effect, Strategy, current_time, read_strategy_file

if TYPE_CHECKING:
    from sgpo.endpoint import Reply
    from sgpo.strategies.retrieve import Embed, Retriever

__all__ = ["Outcome", "Strategy", "StrategyBank"]

Outcome = Literal["active", "leaking", "failed", "unsolved"]
MAX_RAW = 20_000  # characters of an unusable reply that are stored with a failure

# What an import brought, and what each run says; what came last is last.
_EFFECTS = " UNION ALL ".join(
    f"SELECT strategy_id, condition, {place} AS place, rowid AS number, {', '.join(Effect.__slots__)} FROM {table}"
    for place, table in enumerate(("effects", "run_effects"))
)
_SUMS = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in Effect.__slots__)
_REPLY_FIELDS = ("text", "prompt_tokens", "completion_tokens", "cost", "finish_reason", "refusal", "left_to_server")


class StrategyBank:
    """Strategies in a SQLite file; a context manager.

    Args:
        path: The file. A bank of an older version is migrated when it is opened.
        create: Make the bank where there is none; False demands that it is there.
        read_only: Read a bank that is there, also where nothing may be written, or on a network file system.

    Raises:
        BankError: No such bank, not a bank, a schema newer than this program's, a place that cannot be written; the
            message names the file and the fix.
    """

    def __init__(self, path: str | Path, *, create: bool = True, read_only: bool = False) -> None:
        self.path = Path(path).expanduser()
        self.db = open_bank_file(self.path, create=create and not read_only, read_only=read_only)
        self._writes = 0
        self._retrieval: tuple[Any, Retriever] | None = None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes of the block or none. Raises BankError that names the bank where SQLite fails."""
        try:
            with transaction(self.db):
                yield
        except sqlite3.Error as error:
            raise BankError(f"{self.path}: {explain(error)}") from None

    def close(self) -> None:
        """Close the bank, after which its file alone holds all of it, even where another process has it open."""
        with suppress(sqlite3.Error):  # one that is only read
            self.db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self.db.close()

    def __repr__(self) -> str:
        return f"StrategyBank({str(self.path)!r})"

    def __enter__(self) -> StrategyBank:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ reading

    def get(self, problem_id: str) -> Strategy | None:
        """The active strategy of a problem; None where there is none."""
        return self._one("SELECT * FROM strategies WHERE problem_id = ? AND active", problem_id)

    def for_problem(
        self, problem: Problem, *, use: Literal["own", "retrieved", "both"] = "own", embed: Embed | None = None
    ) -> Strategy | None:
        """The strategy to guide a problem with; None where there is none.

        A retrieved strategy says so: its `problem_id` is that of the problem it was written for.

        Args:
            problem: The problem, of which `id` and text count.
            use: The problem's own; one `retrieved` from another problem of its kind; or `both`: its own where it has
                one, else a retrieved one.
            embed: Compares texts by their embeddings instead of their words, see `sgpo.strategies.retrieve`.

        Raises:
            InputError: Another `use`.
        """
        if use not in ("own", "retrieved", "both"):
            raise InputError(f"use must be 'own', 'retrieved' or 'both', got {use!r}")
        own = self.get(problem.id) if use != "retrieved" else None
        if own is not None or use == "own":
            return own
        match = self._retriever(embed).find(problem.problem, problem_id=problem.id)
        return match.strategy if match else None

    def _retriever(self, embed: Embed | None) -> Retriever:
        # Made again when this or another process has written strategies; what training measures meanwhile can wait.
        state = (embed, self._writes, self.db.execute("PRAGMA data_version").fetchone())
        if self._retrieval is None or self._retrieval[0] != state:
            from sgpo.strategies.retrieve import Retriever

            strategies = list(self)
            texts = {s.problem_id: p.problem for s in strategies if (p := self.problem(s.problem_id))}
            uplift = {s.id: self.effect(s.id).uplift or 0.0 for s in strategies}
            self._retrieval = state, Retriever(strategies, problem_texts=texts, preference=uplift, embed=embed)
        return self._retrieval[1]

    def by_id(self, strategy_id: str) -> Strategy | None:
        """A strategy, active or candidate, by its own id."""
        return self._one("SELECT * FROM strategies WHERE id = ?", strategy_id)

    def candidates(self, problem_id: str) -> list[Strategy]:
        """All strategies of a problem, the active one first."""
        query = "SELECT * FROM strategies WHERE problem_id = ? ORDER BY active DESC, rowid"
        return [strategy_of(row) for row in read_dicts(self.db.execute(query, (problem_id,)))]

    def problem(self, problem_id: str) -> Problem | None:
        """A problem as extraction saw it, with the solution that was used; None where it never saw it."""
        row = self.db.execute("SELECT problem FROM problems WHERE id = ?", (problem_id,)).fetchone()
        return Problem(**json.loads(row[0])) if row else None

    def effect(self, strategy_id: str, condition: Condition | None = None) -> Effect:
        """What was measured of a strategy; all zero where nothing was.

        Args:
            strategy_id: The strategy.
            condition: For which model, prompts and reward; those that were measured last if not given.
        """
        return self._measured("strategy_id = ?", [strategy_id], condition)[1]

    def total_effect(self, condition: Condition | None = None) -> tuple[int, Effect]:
        """How many strategies were measured, and what was measured of all of them together, under one condition.

        Without a `condition` it is the one that was measured last.
        """
        return self._measured("true", [], condition)

    def _measured(self, which: str, values: list[str], condition: Condition | None) -> tuple[int, Effect]:
        rows = f"FROM ({_EFFECTS}) WHERE {which}"
        latest = f"(SELECT condition {rows} ORDER BY place DESC, number DESC LIMIT 1)"
        chosen, also = (latest, values) if condition is None else ("?", [condition.to_text()])
        query = f"SELECT count(DISTINCT strategy_id) AS measured, {_SUMS} {rows} AND condition = {chosen}"
        row = next(read_dicts(self.db.execute(query, [*values, *also])))
        return row.pop("measured"), Effect(**row)

    def __iter__(self) -> Iterator[Strategy]:
        """The active strategies, in the order they came."""
        return self.strategies(candidates=False)

    def strategies(self, *, candidates: bool) -> Iterator[Strategy]:
        """The active strategies, or with `candidates` all, in the order they came."""
        where = "" if candidates else "WHERE active"
        rows = self.db.execute(f"SELECT * FROM strategies {where} ORDER BY rowid")
        return (strategy_of(row) for row in read_dicts(rows))

    def __len__(self) -> int:
        """How many problems have an active strategy."""
        count: int = self._first("SELECT count(*) FROM strategies WHERE active")[0]
        return count

    def _one(self, query: str, value: str) -> Strategy | None:
        row = next(read_dicts(self.db.execute(query, (value,))), None)
        return strategy_of(row) if row else None

    # ------------------------------------------------------------------------------------------------ writing

    def add(self, strategy: Strategy, *, active: bool = True) -> None:
        """Put a strategy in; the one that was active for its problem until now stays as a candidate.

        One with the same id is replaced; what was measured of it stays only if the text is the same.

        Args:
            strategy: The strategy.
            active: Use it in training; False adds a candidate.
        """
        with self.transaction():
            self._put(strategy, active)

    def accept(self, strategy: Strategy) -> Strategy:
        """Mark a strategy as accepted by a person: no extraction replaces it from now on."""
        strategy = replace(strategy, reviewed=current_time())
        self.add(strategy)
        return strategy

    def set_aside(self, strategy_id: str) -> None:
        """Make an active strategy a candidate: its problem is then trained without guidance."""
        self._writes += 1
        with self.transaction():
            self.db.execute("UPDATE strategies SET active = 0 WHERE id = ?", (strategy_id,))

    def drop(self, strategy_id: str) -> None:
        """Delete a strategy and what was measured of it.

        Raises:
            BankError: An unknown id.
        """
        self._writes += 1
        with self.transaction():
            if not self.db.execute("DELETE FROM strategies WHERE id = ?", (strategy_id,)).rowcount:
                raise BankError(f"{self.path}: no strategy with id {strategy_id!r}")

    def record_run(self, run: str, effects: Mapping[str, Sequence[int]], condition: Condition | None = None) -> None:
        """Store what a run has measured of strategies, in place of what it had measured before.

        Args:
            run: The run's name.
            effects: The counts by strategy id, in the order of `Effect`, of the whole run: one that is resumed says
                them again. Ids that are no longer in the bank are passed over.
            condition: Model, prompts and reward, where they are known.

        Raises:
            InputError: Passes below 0 or above their total.
        """
        text = (condition or Condition()).to_text()
        with self.transaction():
            self.db.execute("DELETE FROM run_effects WHERE run = ?", (run,))
            for strategy_id, counts in effects.items():
                effect = Effect(**dict(zip(Effect.__slots__, counts, strict=True)))
                if self.by_id(strategy_id) is not None:
                    values = (run, strategy_id, *astuple(effect), text)
                    self.db.execute("INSERT INTO run_effects VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def _put(self, strategy: Strategy, active: bool) -> None:
        self._writes += 1
        old = self.by_id(strategy.id)
        if old and old.text != strategy.text:
            self._forget_effect(strategy.id)
        if active:
            self.db.execute("UPDATE strategies SET active = 0 WHERE problem_id = ?", (strategy.problem_id,))
        row = {**row_of(strategy), "active": int(active)}
        updates = ", ".join(f"{name} = excluded.{name}" for name in row if name != "id")
        self.db.execute(
            f"INSERT INTO strategies ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) "
            f"ON CONFLICT (id) DO UPDATE SET {updates}",
            tuple(row.values()),
        )

    def _forget_effect(self, strategy_id: str) -> None:
        for table in ("effects", "run_effects"):
            self.db.execute(f"DELETE FROM {table} WHERE strategy_id = ?", (strategy_id,))

    # ------------------------------------------------------------------------------------------------ extraction

    def replies(self, key: str) -> list[Reply] | None:
        """What the strong model replied to a request, by the hash of all that was asked; None where it never did."""
        from sgpo.endpoint import Reply

        row = self.db.execute("SELECT answers FROM responses WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        fields = ({**reply, "left_to_server": tuple(reply.get("left_to_server", ()))} for reply in json.loads(row[0]))
        return [Reply(**reply) for reply in fields]

    def store_replies(self, key: str, model: str, replies: Sequence[Reply]) -> None:
        """Store what was replied. It is on the disk when the call returns."""
        texts = [{name: getattr(reply, name) for name in _REPLY_FIELDS} for reply in replies]
        costs = [reply.cost for reply in replies if reply.cost is not None]
        values = (
            key,
            model,
            json.dumps(texts, ensure_ascii=False),
            sum(reply.prompt_tokens for reply in replies),
            sum(reply.completion_tokens for reply in replies),
            sum(costs) if costs else None,
            current_time(),
        )
        with self.transaction():
            self.db.execute("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def outcome(self, problem_id: str, key: str) -> Outcome | None:
        """How a problem ended, extracted in the way that `key` stands for; None where it has not come to an end."""
        query = "SELECT outcome FROM outcomes WHERE problem_id = ? AND key = ?"
        row = self.db.execute(query, (problem_id, key)).fetchone()
        return row[0] if row else None

    def record_outcome(
        self,
        problem: Problem,
        key: str,
        outcome: Outcome,
        *,
        candidates: Sequence[Strategy] = (),
        active: Strategy | None = None,
        message: str | None = None,
        raw: str | None = None,
    ) -> None:
        """Store how the extraction of a problem ended, all at once.

        Args:
            problem: The problem, with the solution that was used.
            key: What the outcome depends on, as for `outcome`.
            outcome: How it ended.
            candidates: All strategies that were written.
            active: The one to use. An active strategy that a person has accepted stays in its place.
            message: What went wrong.
            raw: The last unusable reply.
        """
        with self.transaction():
            in_use = self.get(problem.id)
            if in_use is not None and in_use.reviewed:
                active = None
            for candidate in candidates:
                known = self.by_id(candidate.id)
                if known is None or not known.reviewed:
                    self._put(candidate, candidate is active)
            text = json.dumps(problem.to_json(), ensure_ascii=False)
            self.db.execute("INSERT OR REPLACE INTO problems VALUES (?, ?)", (problem.id, text))
            self.db.execute(
                "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?)",
                (problem.id, key, outcome, message, raw[:MAX_RAW] if raw else raw, current_time()),
            )

    def failures(self) -> list[dict[str, str | None]]:
        """The problems that extraction got no strategy for: `problem_id`, `outcome`, `message`, `raw` (last reply)."""
        query = "SELECT problem_id, outcome, message, raw FROM outcomes WHERE outcome != 'active' ORDER BY rowid"
        return list(read_dicts(self.db.execute(query)))

    def stats(self) -> dict[str, Any]:
        """The counts of the bank.

        `problems`: known to it; `strategies`: problems with an active strategy; `candidates`: all strategies, of which
        `leaking` leak and `unchecked` were never seen by the leak gate; `groups`: active strategies without near-
        duplicates of each other; `failed`: problems for which the strong model gave nothing usable; `outcomes`: how
        extraction ended, per problem; `requests`, `tokens`, `cost`: answered and paid for; `measured`: strategies that
        were tried, under the condition (model, prompts, reward) that was measured last, one of `conditions`; `uplift`:
        guided minus autonomous pass rate over all of these.
        """
        from sgpo.strategies.retrieve import group_numbers

        outcome_query = "SELECT outcome, count(*) FROM outcomes GROUP BY outcome ORDER BY outcome"
        outcomes: dict[str, int] = dict(self.db.execute(outcome_query))
        measured, effect = self.total_effect()
        paid = self._first(
            "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), sum(cost) "
            "FROM responses"
        )
        requests, prompt_tokens, completion_tokens, cost = paid
        all_problems = "SELECT problem_id FROM strategies UNION SELECT problem_id FROM outcomes"
        return {
            "problems": self._first(f"SELECT count(*) FROM ({all_problems})")[0],
            "strategies": len(self),
            "candidates": self._first("SELECT count(*) FROM strategies")[0],
            "leaking": self._first("SELECT count(*) FROM strategies WHERE leaks IS NOT NULL AND leaks != '[]'")[0],
            "unchecked": self._first("SELECT count(*) FROM strategies WHERE leaks IS NULL")[0],
            "groups": len(set(group_numbers(list(self)))),
            "reviewed": self._first("SELECT count(*) FROM strategies WHERE reviewed IS NOT NULL")[0],
            "failed": outcomes.get("failed", 0),
            "outcomes": outcomes,
            "requests": requests,
            "tokens": prompt_tokens + completion_tokens,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "cost": cost,
            "measured": measured,
            "uplift": effect.uplift,
            "conditions": self._first(f"SELECT count(DISTINCT condition) FROM ({_EFFECTS})")[0],
        }

    def _first(self, query: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self.db.execute(query).fetchone()
        return row

    # ------------------------------------------------------------------------------------------ files in and out

    def rows(self, *, candidates: bool = True) -> Iterator[dict[str, Any]]:
        """The strategies as the JSON objects of an export: with `active` and, where training measured it, `effect`."""
        where = "" if candidates else "WHERE active"
        for row in read_dicts(self.db.execute(f"SELECT * FROM strategies {where} ORDER BY rowid")):
            effect = self.effect(row["id"])
            measured = {"effect": {name: getattr(effect, name) for name in Effect.__slots__}}
            yield {
                **strategy_of(row).to_json(),
                "active": bool(row["active"]),
                **(measured if effect != Effect() else {}),
            }

    def export(self, path: str | Path) -> int:
        """Write all strategies, candidates and measured effects too, as JSON Lines.

        `import_` into an empty bank gives them all back. The file is written whole or not at all.

        Returns:
            How many strategies were written.

        Raises:
            InputError: The file cannot be written.
        """
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows()]
        try:
            write_text(Path(path), "".join(lines))
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None
        return len(lines)

    def import_(self, path: str | Path) -> int:
        """Read strategies from JSON Lines, all of them or, where a row is bad, none.

        A row needs `problem_id`, `problem_type`, `approach` and `steps` (a list, or a text with a step per line), and
        may have every other field that `export` writes.

        Returns:
            How many strategies were read.

        Raises:
            InputError: The file or a row cannot be used; the message names them.
        """
        rows = read_strategy_file(Path(path))
        with self.transaction():
            for strategy, active, effect in rows:
                self._put(strategy, active)
                if effect is not None:
                    self._forget_effect(strategy.id)
                    self.db.execute(
                        "INSERT INTO effects VALUES (?, ?, ?, ?, ?, '')",
                        (strategy.id, *(getattr(effect, name) for name in Effect.__slots__)),
                    )
        return len(rows)
