"""The problems that flipped between two evaluations, with a completion of either side."""

from __future__ import annotations

import json
import re
from pathlib import Path

from synthetic_runs import write_lines
from test_report_page import Page, words

from sgpo.report import write_report
from sgpo.report.completions import read_evaluation_cards
from sgpo.report.flips import MAX_FLIPS, FlipTable, find_flips
from sgpo.report.read import read_run


def evaluate(run: Path, step: int, right: dict[str, int], *, keep: bool = True, k: int = 4) -> Path:
    """An evaluation with `right` of k samples correct for each problem."""
    samples = {id_: ["correct"] * number + ["wrong"] * (k - number) for id_, number in right.items()}
    stem = run / "eval" / f"set-step-{step:06d}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text("{}")
    row = {"name": "set", "step": step, "completions": step, "problems": len(right), "k": k, "samples": samples}
    stem.with_suffix(".json").write_text(json.dumps(row | {f"avg@{k}": {"mean": 0.5, "low": 0.4, "high": 0.6}}))
    rows = [
        {"problem_id": id_, "sample": number, "prompt": f"<ask> {id_}", "verdict": verdict,
         "completion": f"{run.name} {step} {id_} {verdict}"}
        for id_, kinds in samples.items() for number, verdict in enumerate(kinds)
    ]  # fmt: skip
    if keep:
        write_lines(stem.with_suffix(".jsonl"), rows)
    return run


def flips_of(*paths: Path) -> list[FlipTable]:
    runs = [read_run(path, path.name) for path in paths]
    cards = {(index, "set"): read_evaluation_cards(run, "set") for index, run in enumerate(runs)}
    return find_flips(runs, "set", cards)


def test_a_problem_flips_where_more_than_half_of_its_samples_turn(tmp_path: Path) -> None:
    run = evaluate(tmp_path / "run", 0, {"up": 2, "far": 0, "down": 3, "stays": 4, "never": 0, "half": 1, "old": 0})
    evaluate(run, 5, {"up": 1, "far": 1})  # on the way: not looked at
    evaluate(run, 9, {"up": 3, "far": 4, "down": 2, "stays": 3, "never": 0, "half": 2, "new": 4})
    (table,) = flips_of(run)
    assert (table.gained, table.lost, table.solved_in_both, table.solved_in_neither) == (2, 1, 1, 2)
    (_, gained), (_, lost) = table.flips
    assert [flip.problem_id for flip in gained] == ["far", "up"]  # the largest change first
    assert [flip.problem_id for flip in lost] == ["down"]
    # Each side shows a completion by which it was solved, or not.
    assert (gained[1].before.text, gained[1].after.text) == ("run 0 up wrong", "run 9 up correct")
    assert (lost[0].before.text, lost[0].after.text) == ("run 0 down correct", "run 9 down wrong")
    assert (lost[0].before.right, lost[0].after.right, lost[0].after.samples) == (3, 2, 4)


def test_a_model_evaluated_once_is_the_before_of_every_other(tmp_path: Path) -> None:
    base = evaluate(tmp_path / "base", 0, {"p": 0, "q": 1}, k=1)
    trained = evaluate(tmp_path / "trained", 0, {"p": 1, "q": 0}, k=1)
    (table,) = flips_of(base, trained)
    assert (table.baseline, table.run, table.gained, table.lost) == (0, 1, 1, 1)
    assert [flips[0].before.text for _, flips in table.flips] == ["base 0 p wrong", "base 0 q correct"]
    # Of two that were trained, each is set against its own beginning.
    one, other = (evaluate(evaluate(tmp_path / name, 0, {"p": 0}), 9, {"p": 4}) for name in ("one", "other"))
    assert [(table.baseline, table.run) for table in flips_of(one, other)] == [(0, 0), (1, 1)]


def test_without_completions_flips_are_counted(tmp_path: Path) -> None:
    run = evaluate(tmp_path / "run", 0, {"p": 0, "q": 4}, keep=False)
    evaluate(run, 9, {"p": 4, "q": 4})
    (table,) = flips_of(run)
    assert (table.gained, [flips for _, flips in table.flips]) == (1, [[], []])
    page = Page(write_report([run], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "1 problem gained; their completions are not held here" in words(page)


def test_the_page_shows_both_completions_and_no_markup_of_theirs(tmp_path: Path) -> None:
    many = {f"<p>{number:02}": 0 for number in range(MAX_FLIPS + 3)}
    run = evaluate(evaluate(tmp_path / "run", 0, many), 9, dict.fromkeys(many, 4))
    page = Page(write_report([run], tmp_path / "report.html").read_text(encoding="utf-8"))
    text = words(page)
    assert page.errors == []
    assert "set run step 0 run step 9 23 0 0 0" in text
    assert "23 problems gained; the 20 that changed most" in text
    before = r"<p>07 0 of 4 → 4 of 4 <ask> <p>07 before: 0 of 4 right wrong ?run 0 <p>07 wrong"
    assert re.search(before + " ?after: 4 of 4 right correct ?run 9 <p>07 correct", text)
    assert text.count("→") == MAX_FLIPS
    assert "What flipped" in text


def test_a_page_without_a_before_has_no_such_section(tmp_path: Path) -> None:
    run = evaluate(tmp_path / "run", 0, {"p": 1})
    assert "What flipped" not in write_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
