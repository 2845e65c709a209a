from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgpo.errors import BankError, InputError
from sgpo.problems import Problem
from sgpo.strategies import schema
from sgpo.strategies.bank import StrategyBank
from sgpo.strategies.strategy import Effect, Leak, Scores, Strategy


def make_strategy(problem_id: str = "p1", step: str = "Add the two", **more: Any) -> Strategy:
    values = {"problem_type": "Two related quantities", "approach": "Find the second from the first", **more}
    return Strategy(problem_id=problem_id, steps=("Name what is known", step), **values)


FULL = make_strategy(
    "full",
    when_to_use="When two quantities are related — “always”\nand \u2028 separators",
    id="mine",
    scores=Scores(faithful=5, general=4, actionable=3, leak_free=2),
    leaks=(Leak(kind="answer", text="72", where="steps[1]"),),
    strong_model="deepseek-reasoner",
    prompt_version="0123456789ab",
    sampling={"temperature": 0.6, "top_p": 0.95},
    prompt_tokens=812,
    completion_tokens=96,
    cost=0.0021,
    created="2026-11-23T13:49:00+00:00",
    reviewed="2026-11-24T09:00:00+00:00",
)


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


ROW = {"problem_id": "p1", "problem_type": "Sums", "approach": "Add", "steps": ["Name them", "Add them"]}


def test_a_strategy_comes_back_as_it_went_in(tmp_path: Path) -> None:
    with StrategyBank(tmp_path / "bank.db") as bank:
        bank.add(FULL)
        bank.add(make_strategy("p2", leaks=()))
    with StrategyBank(tmp_path / "bank.db", create=False) as bank:
        assert bank.get("full") == FULL
        stored = bank.get("p2")
        assert stored is not None
        assert stored.leaks == ()  # looked at and clean, which is not None
        assert bank.get("nowhere") is None
        assert bank.for_problem(Problem(id="p2", problem="?", answer="1")) == stored
        assert bank.for_problem(Problem(id="p3", problem="?", answer="1")) is None
        assert [s.problem_id for s in bank] == ["full", "p2"]
        assert len(bank) == 2


def test_the_last_added_strategy_of_a_problem_is_active_and_the_others_stay_as_candidates(tmp_path: Path) -> None:
    first, second, third = (make_strategy(step=step) for step in ("one", "two", "three"))
    with StrategyBank(tmp_path / "bank.db") as bank:
        bank.add(first)
        bank.add(second)
        bank.add(third, active=False)
        assert bank.get("p1") == second
        assert bank.candidates("p1") == [second, first, third]
        assert bank.by_id(first.id) == first
        assert len(bank) == 1


def test_what_a_strategy_needs_may_be_given_in_order() -> None:
    named = Strategy(problem_id="p", problem_type="Sums", approach="Add", steps=("Name them", "Add them"))
    assert Strategy("p", "Sums", "Add", ["Name them", "Add them"]) == named  # type: ignore[arg-type]


def test_ids_are_stable_and_follow_the_text() -> None:
    assert make_strategy().id == make_strategy().id == "s-9f62fa42043552b6"
    assert make_strategy().id != make_strategy(step="Subtract").id
    assert make_strategy("p1").id != make_strategy("p2").id
    assert make_strategy(id="mine").id == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": ()}, "no step"),
        ({"steps": ("a", " ")}, "empty one"),
        ({"steps": "a"}, "list of texts"),
        ({"steps": ("a", 3)}, "list of texts"),
        ({"problem_type": " "}, "'problem_type' is empty"),
        ({"problem_id": ""}, "'problem_id' is empty"),
        ({"approach": 3}, "'approach' must be text"),
        ({"approach": "\ud800"}, "surrogate"),
    ],
)
def test_a_bad_strategy_is_refused(change: dict[str, object], message: str) -> None:
    values = {"problem_id": "p", "problem_type": "t", "approach": "a", "steps": ("s",), **change}
    with pytest.raises(ValueError, match=message):
        Strategy(**values)  # type: ignore[arg-type]


def test_a_dropped_strategy_is_gone_with_its_effect(tmp_path: Path) -> None:
    with StrategyBank(tmp_path / "bank.db") as bank:
        bank.add(make_strategy(id="mine"))
        bank.record_run("one", {"mine": [1, 4, 1, 8]})
        bank.drop("mine")
        assert bank.get("p1") is None
        assert bank.effect("mine") == Effect()
        with pytest.raises(ValueError, match=r"bank\.db: no strategy with id 'mine'"):
            bank.drop("mine")


# ---------------------------------------------------------------------------------------------------- measured effect


def test_effects_add_up_and_give_the_uplift(tmp_path: Path) -> None:
    strategy = make_strategy()
    with StrategyBank(tmp_path / "bank.db") as bank:
        bank.add(strategy)
        assert bank.effect(strategy.id) == Effect()
        assert bank.effect(strategy.id).uplift is None
        bank.record_run("one", {strategy.id: [4, 4, 1, 8]})
        bank.record_run("two", {strategy.id: [2, 4, 3, 8]})
        effect = bank.effect(strategy.id)
    assert effect == Effect(guided_passes=6, guided_total=8, autonomous_passes=4, autonomous_total=16)
    assert effect.uplift == 0.5


def test_the_effect_stays_with_the_text_it_was_measured_on(tmp_path: Path) -> None:
    strategy = make_strategy(id="mine")
    with StrategyBank(tmp_path / "bank.db") as bank:
        bank.add(strategy)
        bank.record_run("one", {"mine": [1, 4, 1, 8]})
        bank.add(strategy)
        assert bank.effect("mine").guided_total == 4
        bank.add(make_strategy(step="another step", id="mine"))
        assert bank.effect("mine") == Effect()


def test_a_run_says_its_counts_again_and_they_count_once(tmp_path: Path) -> None:
    with StrategyBank(tmp_path / "bank.db") as bank:
        bank.add(make_strategy(id="mine"))
        bank.record_run("zero", {"mine": [1, 4, 2, 8]})
        bank.record_run("one", {"mine": [4, 4, 0, 8], "dropped meanwhile": [1, 1, 1, 1]})
        bank.record_run("two", {"mine": [2, 4, 1, 8]})
        bank.record_run("one", {"mine": [5, 8, 1, 16]})
        measured = Effect(guided_passes=8, guided_total=16, autonomous_passes=4, autonomous_total=32)
        assert bank.effect("mine") == measured
        with pytest.raises(ValueError, match="between 0 and their total"):
            bank.record_run("one", {"mine": [9, 8, 1, 16]})
        assert bank.effect("mine") == measured
        bank.export(tmp_path / "bank.jsonl")
        bank.import_(tmp_path / "bank.jsonl")
        assert bank.effect("mine") == measured
        bank.drop("mine")
        assert bank.effect("mine") == Effect()


def test_a_bank_of_the_first_version_is_taken_to_the_present_one(tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        schema.open_bank_file(tmp_path / "bank.db", create=True).close()
    with StrategyBank(tmp_path / "bank.db") as bank:
        bank.add(make_strategy(id="mine"))
        bank.record_run("one", {"mine": [4, 4, 0, 8]})
        assert bank.effect("mine").guided_passes == 4


@pytest.mark.parametrize("counts", [(5, 4, 0, 8), (-1, 4, 0, 8), (1, 4, 9, 8)])
def test_impossible_counts_are_refused(tmp_path: Path, counts: tuple[int, int, int, int]) -> None:
    with StrategyBank(tmp_path / "bank.db") as bank:
        bank.add(make_strategy(id="mine"))
        with pytest.raises(ValueError, match="between 0 and their total"):
            bank.record_run("one", {"mine": counts})


# ------------------------------------------------------------------------------------------------- files in and out


def test_export_and_import_lose_nothing(tmp_path: Path) -> None:
    with StrategyBank(tmp_path / "one.db") as one, StrategyBank(tmp_path / "two.db") as two:
        one.add(FULL)
        one.add(make_strategy())
        one.add(make_strategy(step="a candidate", approach=""), active=False)
        one.record_run("one", {"mine": [1, 4, 2, 8]})
        assert one.export(tmp_path / "one.jsonl") == 3
        assert two.import_(tmp_path / "one.jsonl") == 3
        two.export(tmp_path / "two.jsonl")
        assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
        assert two.get("full") == FULL
        assert two.candidates("p1") == one.candidates("p1")
        assert two.effect("mine") == Effect(guided_passes=1, guided_total=4, autonomous_passes=2, autonomous_total=8)
        assert not list(tmp_path.glob(".*tmp"))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))


@settings(max_examples=20, deadline=None)
@given(
    problem_type=texts, approach=st.text(st.characters(exclude_categories=["Cs"])), steps=st.lists(texts, min_size=1)
)
def test_any_text_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, problem_type: str, approach: str, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("bank")
    strategy = Strategy(problem_id="p", problem_type=problem_type, approach=approach, steps=tuple(steps))
    with StrategyBank(folder / "one.db") as one, StrategyBank(folder / "two.db") as two:
        one.add(strategy)
        one.export(folder / "out.jsonl")
        two.import_(folder / "out.jsonl")
        assert two.get("p") == one.get("p") == strategy


def test_steps_may_be_a_text_with_a_step_per_line(tmp_path: Path) -> None:
    text = "1. Name them\n\n 2) Add them\n- Check: 2.5 is not a bullet\nStep 4: 3-digit numbers stay\n"
    with StrategyBank(tmp_path / "bank.db") as bank:
        bank.import_(write_rows(tmp_path / "in.jsonl", {**ROW, "steps": text}))
        strategy = bank.get("p1")
    assert strategy is not None
    assert strategy.steps == (
        "Name them",
        "Add them",
        "Check: 2.5 is not a bullet",
        "3-digit numbers stay",
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({**ROW, "steps": []}, "'steps' holds no step"),
        ({**ROW, "steps": "\n"}, "'steps' holds no step"),
        ({**ROW, "steps": {"a": 1}}, "'steps' must be a list of texts, got an object"),
        ({k: v for k, v in ROW.items() if k != "problem_type"}, "no 'problem_type'"),
        ({**ROW, "problem_id": None}, "no 'problem_id'"),
        ({**ROW, "when_to_uses": "x"}, "did you mean 'when_to_use'"),
        ({**ROW, "active": "yes"}, "'active' must be true or false"),
        ({**ROW, "scores": {"faithful": 5}}, "'scores' must be an object with"),
        ({**ROW, "leaks": [{"kind": 1, "text": "a", "where": "b"}]}, "'leaks' has a value that is no text"),
        ({**ROW, "leaks": {}}, "'leaks' must be a list"),
        ({**ROW, "effect": {"guided_passes": 1}}, "'effect' must be an object with"),
        ({**ROW, "cost": "much"}, "'cost' has the wrong type"),
        (
            {**ROW, "problem_id": "p0", "steps": ["Guess"]},
            "a second active strategy for problem 'p0', the first is in row 1",
        ),
        ({**ROW, "problem_id": "p0", "active": False}, "a second strategy id .*, the first is in row 1"),
        ([ROW], "a JSON list, expected an object"),
        ({**ROW, "problem_id": ["p1"]}, "'problem_id' must be text, got a list"),
        ({**ROW, "problem_id": 1.5}, "'problem_id' must be text, got a number"),
        # What a bank cannot store, wherever it stands.
        ({**ROW, "strong_model": "\ud800"}, "half a surrogate pair"),
        ({**ROW, "sampling": {"stop": "\ud800"}}, "half a surrogate pair"),
        ({**ROW, "leaks": [{"kind": "\ud800", "text": "a", "where": "b"}]}, "half a surrogate pair"),
        ({**ROW, "prompt_tokens": 2**63}, "'prompt_tokens' is no count"),
        ({**ROW, "completion_tokens": -1}, "'completion_tokens' is no count"),
        ({**ROW, "effect": dict.fromkeys(Effect.__slots__, 2**63)}, "'effect' has a value that is no count"),
        ({**ROW, "effect": dict.fromkeys(Effect.__slots__, 1) | {"guided_passes": 2}}, "between 0 and their total"),
        ({**ROW, "effect": dict.fromkeys(Effect.__slots__, True)}, "'effect' has a value that is no count"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_imported(tmp_path: Path, bad: object, message: str) -> None:
    path = write_rows(tmp_path / "in.jsonl", {**ROW, "problem_id": "p0"}, bad)
    with StrategyBank(tmp_path / "bank.db") as bank:
        with pytest.raises(ValueError, match=message) as error:
            bank.import_(path)
        assert f"{path}, row 2: " in str(error.value)
        assert len(bank) == 0


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"problem_id": "p"\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "latin.jsonl").write_bytes("é".encode("latin-1"))
    (tmp_path / "digits.jsonl").write_text('{"prompt_tokens": ' + "1" * 5000 + "}")
    (tmp_path / "deep.jsonl").write_text('{"steps": ' * 50_000)
    (tmp_path / "packed.jsonl").write_bytes(b"\x1f\x8b\x08 and so on")
    with StrategyBank(tmp_path / "bank.db") as bank:
        for name, message in [
            ("broken.jsonl", "broken.jsonl, row 1: not JSON"),
            ("empty.jsonl", "empty.jsonl: no strategies in it"),
            ("latin.jsonl", "latin.jsonl, row 1: not UTF-8"),
            ("missing.jsonl", "missing.jsonl: no such file"),
            ("digits.jsonl", "digits.jsonl, row 1: not JSON .a number of too many digits"),
            ("deep.jsonl", "deep.jsonl, row 1: not JSON .nested too deeply"),
            ("packed.jsonl", "packed.jsonl: compressed with gzip"),
        ]:
            with pytest.raises(ValueError, match=message):
                bank.import_(tmp_path / name)


def test_other_fields_are_left_aside_and_number_ids_become_text(tmp_path: Path) -> None:
    with StrategyBank(tmp_path / "bank.db") as bank:
        bank.import_(write_rows(tmp_path / "in.jsonl", {**ROW, "problem_id": 7, "problem": "2+2", "author": "me"}))
        assert bank.get("7") is not None


def test_an_export_to_nowhere_leaves_nothing_behind(tmp_path: Path) -> None:
    with StrategyBank(tmp_path / "bank.db") as bank, pytest.raises(ValueError, match="cannot be written"):
        bank.export(tmp_path / "no" / "such" / "folder.jsonl")


# ------------------------------------------------------------------------------------------------ opening, versions


def test_training_demands_a_bank_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.db: no such strategy bank; .* makes one"):
        StrategyBank(tmp_path / "none.db", create=False)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("create", [True, False])
def test_files_that_are_no_bank_are_refused_and_left_alone(tmp_path: Path, create: bool) -> None:
    text = tmp_path / "text.db"
    text.write_text("not a database at all, but long enough to hold what looks like a header\n" * 20)
    before = text.read_bytes()
    with pytest.raises(ValueError, match=r"text\.db: not a strategy bank"):
        StrategyBank(text, create=create)
    assert text.read_bytes() == before

    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE photos (name TEXT)")
    db.close()
    with pytest.raises(ValueError, match=r"other\.db: a SQLite file, but no strategy bank"):
        StrategyBank(other, create=create)

    with pytest.raises(ValueError, match="not a file"):
        StrategyBank(tmp_path, create=create)


def test_an_empty_file_is_no_bank_to_train_with(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(ValueError, match="an empty file, but no strategy bank"):
        StrategyBank(tmp_path / "empty.db", create=False)


def test_a_bank_in_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; make it first"):
        StrategyBank(tmp_path / "no" / "bank.db")


def test_a_newer_bank_is_refused_and_an_older_one_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bank.db"
    with StrategyBank(path) as bank:
        bank.add(make_strategy())
    with monkeypatch.context() as newer:
        newer.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE later (a); CREATE TABLE b (c)"))
        with StrategyBank(path, create=False) as bank:
            assert bank.get("p1") == make_strategy()
            bank.db.execute("SELECT * FROM later, b")
    known = len(schema.MIGRATIONS)
    with pytest.raises(ValueError, match=f"schema version {known + 1}, but this sgpo knows versions up to {known}"):
        StrategyBank(path, create=False)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bank.db"
    StrategyBank(path).close()
    known = len(schema.MIGRATIONS)
    with monkeypatch.context() as broken:
        broken.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE later (a); CREATE NONSENSE"))
        with pytest.raises(ValueError, match="SQLite says"):
            StrategyBank(path)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (known,)
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'later'").fetchone() == (0,)
    db.close()


def test_reading_leaves_no_trace_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a bank?.db"
    with StrategyBank(path) as bank:
        bank.add(make_strategy())
    before = path.read_bytes()
    with StrategyBank(path, read_only=True) as bank:
        assert list(bank) == [make_strategy()]
        assert bank.effect(make_strategy().id) == Effect()
        assert list(tmp_path.iterdir()) == [path]  # in WAL mode SQLite would make two more files, also to read
        with pytest.raises(ValueError, match=r"cannot be written \(attempt to write a readonly database\)"):
            bank.add(make_strategy("p2"))
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="no such strategy bank"):
        StrategyBank(tmp_path / "none.db", read_only=True)


def test_a_copy_of_the_file_alone_is_whole_once_the_writer_has_closed(tmp_path: Path) -> None:
    path, copy = tmp_path / "bank.db", tmp_path / "copy.db"
    writer = StrategyBank(path)
    with StrategyBank(path, read_only=True) as reader:  # which keeps the -wal file there
        writer.add(make_strategy())
        writer.close()
        assert list(reader) == [make_strategy()]
        shutil.copy(path, copy)
    with StrategyBank(copy, read_only=True) as bank:
        assert list(bank) == [make_strategy()]


def test_reading_sees_what_another_process_has_written(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with StrategyBank(path) as writer:
        writer.add(make_strategy("p1"))
        with StrategyBank(path, read_only=True) as reader:
            writer.add(make_strategy("p2"))
            assert [strategy.problem_id for strategy in reader] == ["p1", "p2"]


def test_an_older_bank_is_migrated_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bank.db"
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        schema.open_bank_file(path, create=True).close()
    with StrategyBank(path, read_only=True) as bank:
        assert bank.effect("any") == Effect()


DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_bank_of_version_0_1_is_migrated_and_exports_the_same_rows(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "bank.db"
    shutil.copy(DATA / "bank-0.1.db", path)
    expected = [json.loads(line) for line in (DATA / "bank-0.1.jsonl").read_text().splitlines()]
    for row in expected:
        row["active"] = row.pop("kept")
    with StrategyBank(path, create=False, read_only=read_only) as bank:
        bank.export(tmp_path / "bank.jsonl")
        assert [json.loads(line) for line in (tmp_path / "bank.jsonl").read_text().splitlines()] == expected
        assert bank.stats()["outcomes"] == {"active": 1, "failed": 1, "leaking": 1, "unsolved": 1}
        assert sorted(str(row["problem_id"]) for row in bank.failures()) == ["clips-1", "clips-2", "clips-3"]
        assert bank.effect("mine") == Effect(guided_passes=3, guided_total=4, autonomous_passes=2, autonomous_total=8)
        assert bank.effect("imported").guided_total == 2
        assert len(bank.candidates("p1")) == 2
        assert bank.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_older_bank_that_cannot_be_migrated_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank.db"
    shutil.copy(DATA / "bank-0.1.db", path)

    def refuse(db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr(schema, "_enter_wal_mode", refuse)
    with pytest.raises(BankError, match=r"its schema version 2 is older, .* cannot be written .* where you may write"):
        StrategyBank(path, read_only=True)


def test_an_export_of_version_0_1_is_refused_with_the_new_name(tmp_path: Path) -> None:
    with StrategyBank(tmp_path / "bank.db") as bank, pytest.raises(InputError, match="'kept' is called 'active' now"):
        bank.import_(DATA / "bank-0.1.jsonl")


def test_queries_stand_in_one_place() -> None:
    package = Path(schema.__file__).parents[1]
    speakers = {path.name for path in package.rglob("*.py") if "sqlite3" in path.read_text(encoding="utf-8")}
    assert speakers == {"bank.py", "schema.py"}


# ---------------------------------------------------------------------------------------------- several processes


def _write_many(path: Path, name: str, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    with StrategyBank(path) as bank:
        for i in range(50):
            bank.add(make_strategy(f"{name}-{i}", id=f"{name}-{i}"))
            bank.record_run(name, {f"{name}-{i}": [1, 4, 1, 8] for i in range(i + 1)})


def test_processes_that_open_a_new_bank_together_and_write_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    path = tmp_path / "bank.db"
    processes = [context.Process(target=_write_many, args=(path, name, barrier)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with StrategyBank(path, create=False) as bank:
        assert len(bank) == 150
        assert all(bank.effect(strategy.id).guided_total == 4 for strategy in bank)
        assert bank.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_bank_that_another_process_makes_while_this_one_looks_is_a_bank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bank.db"
    real_stat = os.stat

    def stat_then_made(target: object, **options: object) -> os.stat_result:
        try:
            return real_stat(target, **options)  # type: ignore[arg-type]
        finally:
            if target == path and not os.path.lexists(path):
                path.touch()  # SQLite makes the file empty, before it holds a table

    monkeypatch.setattr(os, "stat", stat_then_made)
    with StrategyBank(path) as bank:
        assert len(bank) == 0


def test_a_path_that_cannot_be_a_bank_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in [(tmp_path / "file" / "bank.db", "Not a directory"), (tmp_path / ("x" * 300), "too long")]:
        with pytest.raises(ValueError, match=f"cannot be opened .*{reason}"):
            StrategyBank(path)


def test_a_reader_sees_what_a_writer_commits_while_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    with StrategyBank(path) as writer, StrategyBank(path, create=False) as reader:
        writer.add(make_strategy("p1"))
        reading = iter(reader)
        assert next(reading).problem_id == "p1"
        assert reader.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        writer.add(make_strategy("p2"))  # not blocked by the reader
        assert reader.get("p2") == make_strategy("p2")


def test_a_bank_in_memory_is_refused() -> None:
    """SQLite would keep it in no file, which no other part could open; it has no WAL to wait for either."""
    with pytest.raises(BankError, match=":memory:: a bank is a file"):
        StrategyBank(":memory:")
