"""The strategy bank: one SQLite file that extraction writes, people read and mend, and training reads.

Per problem at most one strategy is *kept*, the one that training uses; the others stay as candidates. The file is in
WAL mode: one process writes while many read.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from sgpo.errors import BankError
from sgpo.io import write_text
from sgpo.problems import Problem
from sgpo.strategies.schema import explain, open_bank_file, transaction
from sgpo.strategies.strategy import FIELDS, Effect, Leak, Scores, Strategy, read_strategy_file

if TYPE_CHECKING:
    from sgpo.strategies.retrieve import Embed, Retriever

__all__ = ["Strategy", "StrategyBank"]


class StrategyBank:
    """Strategies in a SQLite file; a context manager.

    `StrategyBank("bank.db")` opens a bank and makes it where there is none; `create=False` demands that it is there.
    `read_only=True` does so too, and reads a bank where nothing may be written, or on a network file system.

    Raises BankError that names the file and the mend: no such bank, not a bank, a schema newer than this program's,
    a place that cannot be written.
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
        """The kept strategy of a problem."""
        return self._one("SELECT * FROM strategies WHERE problem_id = ? AND kept", problem_id)

    def for_problem(
        self, problem: Problem, *, use: Literal["own", "retrieved", "both"] = "own", embed: Embed | None = None
    ) -> Strategy | None:
        """The strategy to guide a problem with; None where there is none.

        `use`: the problem's own; one `retrieved` from another problem of its kind; or its own where it has one, else a
        retrieved one (`both`). A retrieved strategy says so: its `problem_id` is that of the problem it was written
        for. `embed` compares texts by their embeddings instead of their words, see `sgpo.strategies.retrieve`.

        Raises BankError for another `use`.
        """
        if use not in ("own", "retrieved", "both"):
            raise BankError(f"use must be 'own', 'retrieved' or 'both', got {use!r}")
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
        """A strategy, kept or candidate, by its own id."""
        return self._one("SELECT * FROM strategies WHERE id = ?", strategy_id)

    def candidates(self, problem_id: str) -> list[Strategy]:
        """All strategies of a problem, the kept one first."""
        query = "SELECT * FROM strategies WHERE problem_id = ? ORDER BY kept DESC, rowid"
        return [_strategy(row) for row in _dicts(self.db.execute(query, (problem_id,)))]

    def problem(self, problem_id: str) -> Problem | None:
        """A problem as extraction saw it, with the solution that was used; None where it never saw it."""
        row = self.db.execute("SELECT problem FROM problems WHERE id = ?", (problem_id,)).fetchone()
        return Problem(**json.loads(row[0])) if row else None

    def effect(self, strategy_id: str) -> Effect:
        """What training measured of a strategy; all zero where it never did."""
        query = f"SELECT {_SUMS} FROM ({_EFFECTS}) WHERE strategy_id = ?"
        return Effect(**next(_dicts(self.db.execute(query, (strategy_id,)))))

    def total_effect(self) -> tuple[int, Effect]:
        """How many strategies training has measured, and what it measured of all of them together."""
        (measured,) = self.db.execute(f"SELECT count(DISTINCT strategy_id) FROM ({_EFFECTS})").fetchone()
        return measured, Effect(**next(_dicts(self.db.execute(f"SELECT {_SUMS} FROM ({_EFFECTS})"))))

    def __iter__(self) -> Iterator[Strategy]:
        """The kept strategies, in the order they came."""
        rows = self.db.execute("SELECT * FROM strategies WHERE kept ORDER BY rowid")
        return (_strategy(row) for row in _dicts(rows))

    def __len__(self) -> int:
        """How many problems have a kept strategy."""
        count: int = self.db.execute("SELECT count(*) FROM strategies WHERE kept").fetchone()[0]
        return count

    def _one(self, query: str, value: str) -> Strategy | None:
        row = next(_dicts(self.db.execute(query, (value,))), None)
        return _strategy(row) if row else None

    # ------------------------------------------------------------------------------------------------ writing

    def add(self, strategy: Strategy, *, kept: bool = True) -> None:
        """Put a strategy in; the one kept for its problem until now stays as a candidate.

        One with the same id is replaced; what was measured of it stays only if the text is the same.
        """
        with self.transaction():
            self.put(strategy, kept)

    def drop(self, strategy_id: str) -> None:
        """Delete a strategy and what was measured of it. Raises BankError for an unknown id."""
        self._writes += 1
        with self.transaction():
            if not self.db.execute("DELETE FROM strategies WHERE id = ?", (strategy_id,)).rowcount:
                raise BankError(f"{self.path}: no strategy with id {strategy_id!r}")

    def record_run(self, run: str, effects: Mapping[str, Sequence[int]]) -> None:
        """Keep what a run has measured of strategies, by their ids, in place of what it had measured before.

        The counts, in the order of `Effect`, are those of the whole run: one that is resumed says them again. Ids that
        are no longer in the bank are passed over. Raises BankError for bad counts.
        """
        with self.transaction():
            self.db.execute("DELETE FROM run_effects WHERE run = ?", (run,))
            for strategy_id, counts in effects.items():
                _check_counts(strategy_id, *counts)
                if self.by_id(strategy_id) is not None:
                    self.db.execute("INSERT INTO run_effects VALUES (?, ?, ?, ?, ?, ?)", (run, strategy_id, *counts))

    def put(self, strategy: Strategy, kept: bool) -> None:
        self._writes += 1
        old = self.by_id(strategy.id)
        if old and old.text != strategy.text:
            self._forget_effect(strategy.id)
        if kept:
            self.db.execute("UPDATE strategies SET kept = 0 WHERE problem_id = ?", (strategy.problem_id,))
        row = {**_row(strategy), "kept": int(kept)}
        updates = ", ".join(f"{name} = excluded.{name}" for name in row if name != "id")
        self.db.execute(
            f"INSERT INTO strategies ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) "
            f"ON CONFLICT (id) DO UPDATE SET {updates}",
            tuple(row.values()),
        )

    def _forget_effect(self, strategy_id: str) -> None:
        for table in ("effects", "run_effects"):
            self.db.execute(f"DELETE FROM {table} WHERE strategy_id = ?", (strategy_id,))

    # ------------------------------------------------------------------------------------------ files in and out

    def rows(self, *, candidates: bool = True) -> Iterator[dict[str, Any]]:
        """The strategies as the JSON objects of an export: with `kept` and, where training measured it, `effect`."""
        where = "" if candidates else "WHERE kept"
        for row in _dicts(self.db.execute(f"SELECT * FROM strategies {where} ORDER BY rowid")):
            effect = self.effect(row["id"])
            measured = {"effect": {name: getattr(effect, name) for name in Effect.__slots__}}
            yield {
                **_strategy(row).to_json(),
                "kept": bool(row["kept"]),
                **(measured if effect != Effect() else {}),
            }

    def export(self, path: str | Path) -> int:
        """Write all strategies, candidates and measured effects too, as JSON Lines; returns how many.

        `import_` into an empty bank gives them all back. The file is written whole or not at all. Raises BankError
        where it cannot be.
        """
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows()]
        try:
            write_text(Path(path), "".join(lines))
        except OSError as error:
            raise BankError(f"{path}: cannot be written ({error.strerror})") from None
        return len(lines)

    def import_(self, path: str | Path) -> int:
        """Read strategies from JSON Lines, all of them or, where a row is bad, none; returns how many.

        A row needs `problem_id`, `problem_type`, `approach` and `steps` (a list, or a text with a step per line), and
        may have every other field that `export` writes. Raises BankError that names the file and row.
        """
        rows = read_strategy_file(Path(path))
        with self.transaction():
            for strategy, kept, effect in rows:
                self.put(strategy, kept)
                if effect is not None:
                    self._forget_effect(strategy.id)
                    self.db.execute(
                        "INSERT INTO effects VALUES (?, ?, ?, ?, ?)",
                        (strategy.id, *(getattr(effect, name) for name in Effect.__slots__)),
                    )
        return len(rows)


def _check_counts(
    strategy_id: str, guided_passes: int, guided_total: int, autonomous_passes: int, autonomous_total: int
) -> None:
    counts = (guided_passes, guided_total, autonomous_passes, autonomous_total)
    if not 0 <= guided_passes <= guided_total or not 0 <= autonomous_passes <= autonomous_total:
        raise BankError(f"strategy {strategy_id!r}: passes must lie between 0 and the total, got {counts}")


def _row(strategy: Strategy) -> dict[str, Any]:
    """A strategy as the columns of its table."""
    values = {name: getattr(strategy, name) for name in FIELDS}
    as_json = strategy.to_json()
    return {**values, **{name: _dump(as_json.get(name)) for name in _JSON_COLUMNS}}


def _strategy(row: Mapping[str, Any]) -> Strategy:
    values = {name: row[name] for name in FIELDS}
    values |= {name: json.loads(row[name]) for name in _JSON_COLUMNS if row[name] is not None}
    values["steps"] = tuple(values["steps"])
    if values["scores"] is not None:
        values["scores"] = Scores(**values["scores"])
    if values["leaks"] is not None:
        values["leaks"] = tuple(Leak(**leak) for leak in values["leaks"])
    return Strategy(**values)


# What an import brought, and what each run says.
_EFFECTS = " UNION ALL ".join(
    f"SELECT strategy_id, {', '.join(Effect.__slots__)} FROM {table}" for table in ("effects", "run_effects")
)
_SUMS = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in Effect.__slots__)
_JSON_COLUMNS = ("steps", "scores", "leaks", "sampling")


def _dump(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _dicts(cursor: sqlite3.Cursor) -> Iterator[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return (dict(zip(names, row, strict=True)) for row in cursor)
