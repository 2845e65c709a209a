"""The first lines of the page: losses beside wins, why a run failed, and what equal completions cost."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import write_lines

from sgpo.report import write_report
from sgpo.report.facts import measure_seconds
from sgpo.report.read import read_run

PROBLEMS = 20


def make(path: Path, right: dict[str, dict[int, int]], **config: Any) -> Path:
    """A run; `right` says how many of 20 problems it solved on each set, by the completions sampled before."""
    (path / "eval").mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"algorithm": "sgpo", **config}))
    for name, by_completions in right.items():
        for completions, solved in by_completions.items():
            samples = {f"p{number}": ["correct" if number < solved else "wrong"] for number in range(PROBLEMS)}
            mean = solved / PROBLEMS
            row = {"name": name, "step": completions // 10, "completions": completions, "problems": PROBLEMS, "k": 1}
            row |= {"avg@1": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}, "samples": samples, "truncated": 0}
            row |= {"verdicts": {"correct": solved, "wrong": PROBLEMS - solved}}
            (path / "eval" / f"{name}-step-{completions // 10:06d}.json").write_text(json.dumps(row))
    return path


def train(path: Path, seconds: list[float], **more: Any) -> Path:
    """Log one step of 100 completions for each of `seconds`."""
    rows = [
        {"step": step, "completions": 100 * step, "time/generate": 0.75 * one, "time/train": 0.25 * one, **more}
        for step, one in enumerate(seconds, start=1)
    ]
    write_lines(path / "metrics.jsonl", [*rows, {"step": len(rows), "train_runtime": 1.0}])
    return path


def lede(runs: list[Path], out: Path) -> list[str]:
    html = write_report(runs, out / "report.html").read_text(encoding="utf-8")
    return re.findall(r'<p class="lede">(.*?)</p>', html)


def test_a_loss_stands_beside_the_win_with_both_numbers(tmp_path: Path) -> None:
    base = make(tmp_path / "base", {"fresh": {0: 4}, "kept": {0: 18}, "same": {0: 10}})
    trained = make(tmp_path / "trained", {"fresh": {0: 14}, "kept": {0: 8}, "same": {0: 10}})
    first, *others = lede([base, trained], tmp_path)
    interval = r"\[\S+, \S+\]"
    assert re.fullmatch(
        rf"trained against base: ahead on fresh \(\+50\.0 {interval}\); behind on kept \(−50\.0 {interval}\); "
        rf"level on same \(\+0\.0 {interval}, the interval includes zero: a tie\)\. "
        r"Points of avg@1 in the last evaluation\.",
        first,
    ), first
    assert others == []


def test_what_a_run_won_and_lost_since_its_first_evaluation(tmp_path: Path) -> None:
    run = make(tmp_path / "run", {"fresh": {0: 4, 200: 9, 400: 14}, "kept": {0: 18, 400: 8}, "once": {400: 5}})
    changed, scored = lede([train(run, [1.0] * 4)], tmp_path)
    assert changed.startswith(
        "run since its first evaluation: better on fresh (20.0 to 70.0 percent avg@1, +50.0 [+"
    ), changed
    assert "; worse on kept (90.0 to 40.0 percent avg@1, −50.0 [−" in changed
    assert scored == "run scores 25.0 [15.0, 35.0] percent avg@1 on once."


def test_the_last_evaluation_is_told_where_it_says_something_else_than_the_curve(tmp_path: Path) -> None:
    steady = make(tmp_path / "steady", {"fresh": {0: 2, 200: 2, 400: 18}})
    early = make(tmp_path / "early", {"fresh": {0: 2, 200: 20, 400: 8}})
    first = lede([steady, early], tmp_path)[0]
    assert re.search(r"ahead on fresh \(\+\S+ \[\+\S+, \+\S+\]; in the last evaluation −50\.0 \[−", first), first


def test_equal_completions_are_said_with_their_time(tmp_path: Path) -> None:
    curve = {"fresh": {0: 5, 200: 10, 400: 15}}
    base = train(make(tmp_path / "base", curve), [2.0] * 4)
    # Slower, and longer than the budget: only its first 400 completions count.
    other = train(make(tmp_path / "other", {"fresh": {0: 5, 200: 12, 600: 20}}), [3.0, 3.0, 3.0, 3.0, 50.0, 50.0])
    out = tmp_path / "report.html"
    assert "; for equal completions it took 1.50 times the seconds." in lede([base, other], tmp_path)[0]
    text = " ".join(re.sub("<[^>]*>", " ", out.read_text(encoding="utf-8")).split())
    assert "Time for 400 completions" in text
    assert re.search(r"base [\d.]+ \[[^]]*\] [\d.]+ \[[^]]*\] 8 s other ", text)
    assert "× 1.50" in text


def test_times_of_different_machines_are_set_in_no_ratio(tmp_path: Path) -> None:
    curve = {"fresh": {0: 5, 400: 15}}
    base = train(make(tmp_path / "base", curve, machine={"gpu": "H200"}), [2.0] * 4)
    other = train(make(tmp_path / "other", curve, machine={"cpus": 2}), [4.0] * 4)
    assert "times the seconds" not in " ".join(lede([base, other], tmp_path))
    assert "×" not in (tmp_path / "report.html").read_text(encoding="utf-8").split("<script")[0]


@pytest.mark.parametrize(("completions", "seconds"), [(100, 2.0), (150, 4.0), (300, 14.0), (301, None), (0, None)])
def test_seconds_grow_in_proportion_between_steps(tmp_path: Path, completions: int, seconds: float | None) -> None:
    run = train(make(tmp_path / "run", {}), [2.0, 4.0, 8.0])
    assert measure_seconds(read_run(run, "run"), completions) == seconds


def test_a_run_that_failed_says_why_before_all_else(tmp_path: Path) -> None:
    run = make(tmp_path / "run", {"fresh": {0: 4, 70: 0}})
    verdicts = {"verdicts/correct": 0, "verdicts/wrong": 2, "verdicts/unparsed": 22, "verdicts/timeout": 0}
    train(run, [1.0] * 7, **verdicts, **{"truncated/autonomous": 0.97})
    first, *others = lede([run], tmp_path)
    assert first == (
        "run: 0 of 168 right, 97 % truncated, 92 % unparsed in training; 0 of 20 right on fresh at step 7."
    )
    assert len(others) == 1


def test_many_runs_are_counted_on_every_set(tmp_path: Path) -> None:
    base = make(tmp_path / "base", {"fresh": {0: 5, 400: 10}, "kept": {0: 15, 400: 15}})
    scores = ((18, 3), (17, 15), (2, 3))
    runs = [
        make(tmp_path / f"run-{number}", {"fresh": {0: 5, 400: fresh}, "kept": {0: 15, 400: kept}})
        for number, (fresh, kept) in enumerate(scores)
    ]
    said = lede([base, *runs], tmp_path)
    assert said[:2] == [
        "Of 3 runs set against base in avg@1 on fresh: 2 ahead, 1 behind.",
        "Of 3 runs set against base in avg@1 on kept: 1 level, 2 behind.",
    ]
    assert "run-0 since its first evaluation, by problem set: 1 better, 1 worse." in said
