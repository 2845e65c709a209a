"""The bank's file: its tables, their version, how it is opened, and how rows become records."""

from __future__ import annotations

import json
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sgpo.errors import BankError
from sgpo.strategies.strategy import FIELDS, Leak, Scores, Strategy

# Entry i takes a bank from version i to i + 1. Never change one that was released: append.
MIGRATIONS = (
    """
    CREATE TABLE strategies (
        id TEXT PRIMARY KEY,
        problem_id TEXT NOT NULL,
        problem_type TEXT NOT NULL,
        approach TEXT NOT NULL,
        steps TEXT NOT NULL,
        when_to_use TEXT NOT NULL,
        kept INTEGER NOT NULL,
        scores TEXT,
        leaks TEXT,
        strong_model TEXT,
        prompt_version TEXT,
        sampling TEXT,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        cost REAL,
        created TEXT,
        reviewed TEXT
    );
    CREATE UNIQUE INDEX kept_strategies ON strategies (problem_id) WHERE kept;
    CREATE INDEX strategies_by_problem ON strategies (problem_id);
    CREATE TABLE effects (
        strategy_id TEXT PRIMARY KEY REFERENCES strategies (id) ON DELETE CASCADE,
        guided_passes INTEGER NOT NULL,
        guided_total INTEGER NOT NULL,
        autonomous_passes INTEGER NOT NULL,
        autonomous_total INTEGER NOT NULL
    );
    CREATE TABLE problems (
        id TEXT PRIMARY KEY,
        problem TEXT NOT NULL
    );
    CREATE TABLE responses (
        key TEXT PRIMARY KEY,
        model TEXT NOT NULL,
        answers TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        cost REAL,
        created TEXT NOT NULL
    );
    CREATE TABLE outcomes (
        problem_id TEXT PRIMARY KEY,
        key TEXT NOT NULL,
        outcome TEXT NOT NULL,
        message TEXT,
        raw TEXT,
        created TEXT NOT NULL
    );
    """,
    """
    CREATE TABLE run_effects (
        run TEXT NOT NULL,
        strategy_id TEXT NOT NULL REFERENCES strategies (id) ON DELETE CASCADE,
        guided_passes INTEGER NOT NULL,
        guided_total INTEGER NOT NULL,
        autonomous_passes INTEGER NOT NULL,
        autonomous_total INTEGER NOT NULL,
        PRIMARY KEY (run, strategy_id)
    );
    CREATE INDEX run_effects_by_strategy ON run_effects (strategy_id);
    """,
    """
    DROP INDEX kept_strategies;
    ALTER TABLE strategies RENAME COLUMN kept TO active;
    CREATE UNIQUE INDEX active_strategies ON strategies (problem_id) WHERE active;
    UPDATE outcomes SET outcome = 'active' WHERE outcome = 'kept';
    """,
    """
    ALTER TABLE run_effects ADD COLUMN condition TEXT NOT NULL DEFAULT '';
    ALTER TABLE effects ADD COLUMN condition TEXT NOT NULL DEFAULT '';
    """,
)

_JSON_COLUMNS = ("steps", "scores", "leaks", "sampling")
APPLICATION_ID = 0x5347504F  # "SGPO", in the header of every bank
BUSY_SECONDS = 60.0


def open_bank_file(path: Path, *, create: bool, read_only: bool = False) -> sqlite3.Connection:
    """Open a bank's database, making or migrating its tables. Raises BankError as `StrategyBank` says."""
    _check_place(path, create)
    db, version = None, len(MIGRATIONS)
    try:
        if read_only:
            db = sqlite3.connect(_read_only_address(path), uri=True, timeout=BUSY_SECONDS, isolation_level=None)
            if _check_version(db, path, create=False) == len(MIGRATIONS):
                return db
            db.close()  # an older one has to be migrated first
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        version = _check_version(db, path, create)
        _enter_wal_mode(db)
        # In WAL mode a killed process loses nothing that was committed; only a power cut may cost the last moments.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        if version < len(MIGRATIONS):
            with transaction(db):
                # Another process may have migrated it while this one waited for the lock.
                for migration in MIGRATIONS[_check_version(db, path, create) :]:
                    for statement in migration.split(";"):
                        db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    except sqlite3.Error as error:
        if db:
            db.close()
        reason = explain(error)
        if version < len(MIGRATIONS) and reason.startswith("cannot be written"):
            reason = f"its schema version {version} is older, opening migrates it, but it {reason}; copy it there"
        raise BankError(f"{path}: {reason}") from None
    except BankError:
        if db:
            db.close()
        raise
    return db


def _read_only_address(path: Path) -> str:
    path = path.resolve()
    address = path.as_uri() + "?mode=ro"
    # Who has a bank open in WAL mode has a -wal file beside it. Without one nobody writes, and the bank can be read
    # without locks and shared memory: from a network file system, and where nothing may be written.
    return address if path.with_name(path.name + "-wal").exists() else address + "&immutable=1"


def _check_place(path: Path, create: bool) -> None:
    if path.name == ":memory:":
        raise BankError(f"{path}: a bank is a file; name one, in a temporary folder if need be")
    # One look: between two, another process that makes the bank would turn "not there" into "there, but no file".
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not create:
            raise BankError(
                f"{path}: no such strategy bank; `sgpo strategies import FILE --bank {path}` makes one"
            ) from None
        if not path.parent.is_dir():
            raise BankError(f"{path}: its folder {path.parent} does not exist; make it first") from None
    except OSError as error:
        raise BankError(f"{path}: cannot be opened ({error.strerror})") from None
    else:
        if not stat.S_ISREG(mode):
            raise BankError(f"{path}: not a file; a bank is one SQLite file")


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing; waits for other writers."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # A full disk may have rolled it back already.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def explain(error: sqlite3.Error) -> str:
    """What a SQLite error means for the person whose bank it is."""
    text = str(error)
    if "not a database" in text:
        return "not a strategy bank (no SQLite file); `sgpo strategies import FILE --bank BANK.db` makes one"
    if "readonly" in text or "unable to open" in text:
        return f"cannot be written ({text}); a bank must lie where you may write, its folder too"
    if "locked" in text:
        return f"another process has been writing to it for {BUSY_SECONDS:.0f} seconds; try again"
    return f"SQLite says: {text}"


def _enter_wal_mode(db: sqlite3.Connection) -> None:
    # SQLite does not wait for the lock of this one change, so two processes that make a bank together could meet.
    deadline = time.monotonic() + BUSY_SECONDS
    while db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _check_version(db: sqlite3.Connection, path: Path, create: bool) -> int:
    # One statement, so that another process that makes the bank at this moment is seen whole or not at all.
    version, application, tables = db.execute(
        "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master) "
        "FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    if application != APPLICATION_ID and not (create and version == tables == 0):
        kind = "a SQLite file" if tables else "an empty file"
        raise BankError(f"{path}: {kind}, but no strategy bank; `sgpo strategies import FILE --bank BANK.db` makes one")
    if version > len(MIGRATIONS):
        raise BankError(
            f"{path}: a bank of schema version {version}, but this sgpo knows versions up to {len(MIGRATIONS)}; "
            f"upgrade sgpo to read it"
        )
    return int(version)


def read_dicts(cursor: sqlite3.Cursor) -> Iterator[dict[str, Any]]:
    """The rows of a query by the names of their columns."""
    names = [column[0] for column in cursor.description]
    return (dict(zip(names, row, strict=True)) for row in cursor)


def row_of(strategy: Strategy) -> dict[str, Any]:
    """A strategy as the columns of its table, without `active`."""
    values = {name: getattr(strategy, name) for name in FIELDS}
    as_json = strategy.to_json()
    for name in _JSON_COLUMNS:
        value = as_json.get(name)
        values[name] = None if value is None else json.dumps(value, ensure_ascii=False)
    return values


def strategy_of(row: Mapping[str, Any]) -> Strategy:
    """The strategy that the columns of its table hold."""
    values = {name: row[name] for name in FIELDS}
    values |= {name: json.loads(row[name]) for name in _JSON_COLUMNS if row[name] is not None}
    values["steps"] = tuple(values["steps"])
    if values["scores"] is not None:
        values["scores"] = Scores(**values["scores"])
    if values["leaks"] is not None:
        values["leaks"] = tuple(Leak(**leak) for leak in values["leaks"])
    return Strategy(**values)
