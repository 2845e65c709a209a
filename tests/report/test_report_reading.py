from __future__ import annotations

import math
from pathlib import Path

import pytest
from synthetic_runs import make_run, write_lines

from sgpo.errors import InputError, RunDirectoryError
from sgpo.report.read import number_of, read_run, read_runs, read_steps, read_visible_rows, series


def test_a_half_written_last_line_is_left_out_and_noted(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "loss": 0.5}\n\n{"step": 2, "loss": 0.')
    notes: list[str] = []
    assert list(read_visible_rows(file, notes)) == [{"step": 1, "loss": 0.5}]
    assert notes == ["metrics.jsonl: 1 line could not be read and left out"]


@pytest.mark.parametrize("line", [b"[1]", b"7", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_a_line_that_is_no_object_is_left_out(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(line + b'\n{"step": 1}\n')
    notes: list[str] = []
    assert list(read_visible_rows(file, notes)) == [{"step": 1}]
    assert len(notes) == 1


def test_text_is_made_visible_as_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"completion": "\\u0000 \\ud800 \xff \\u2028 \xe2\x80\xa8"}\n')
    assert list(read_visible_rows(file, [])) == [{"completion": "␀ \ufffd \ufffd [U+2028] [U+2028]"}]


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0),
        (0.5, 0.5),
        (True, None),
        ("1", None),
        (None, None),
        (math.nan, None),
        (math.inf, None),
        (10**400, None),
    ],
)
def test_only_finite_numbers_count(value: object, number: float | None) -> None:
    assert number_of({"key": value}, "key") == number


def test_a_step_logged_twice_keeps_the_last_value(tmp_path: Path) -> None:
    logged = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}, {"step": 3}, {"step": 2, "loss": 0.3}, {"loss": 9.0}]
    write_lines(tmp_path / "metrics.jsonl", logged)
    assert series(read_run(tmp_path, "run").metrics, "loss") == [(1, 0.5), (2, 0.3)]


def test_steps_are_read_in_order_of_their_number(tmp_path: Path) -> None:
    for name in ("step-10", "step-000009", "step-1000000", "step-x", "other"):
        write_lines(tmp_path / "rollouts" / f"{name}.jsonl", [{"name": name}])
    assert [step for step, _ in read_steps(read_run(tmp_path, "run"), "rollouts")] == [9, 10, 1_000_000]


def test_evaluations_are_read_with_their_intervals(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", steps=20), "run")
    assert [(one.name, one.step, one.completions) for one in run.evaluations] == [
        ("fresh", 0, 0),
        ("fresh", 10, 960),
        ("fresh", 20, 1920),
    ]
    score = run.evaluations[-1].scores["avg@4"]
    assert score.low < score.mean < score.high
    assert set(run.evaluations[0].scores) == {"avg@4", "pass@1", "pass@4", "maj@4"}


def test_a_score_without_an_interval_is_kept(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "fresh-step-000003.json").write_text('{"avg@2": {"mean": 0.5}, "pass@1": 3, "k": 2}')
    (evaluation,) = read_run(tmp_path, "run").evaluations
    assert (evaluation.name, evaluation.step, evaluation.completions) == ("fresh", 3, None)
    assert list(evaluation.scores) == ["avg@2"]
    assert evaluation.scores["avg@2"].mean == 0.5
    assert math.isnan(evaluation.scores["avg@2"].low)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no such directory"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(RunDirectoryError, match="not a run directory"):
        read_runs([tmp_path])
    with pytest.raises(InputError, match="no run directory given"):
        read_runs([])
