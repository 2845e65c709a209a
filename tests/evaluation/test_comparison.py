from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from sgpo.cli.runs import comparison_table
from sgpo.evaluation.compare import compare_runs, curve_score

Evaluations = dict[int, dict[str, str]]  # completions -> problem id -> verdicts as letters


def write_run(folder: Path, evaluations: Evaluations, *, name: str = "fresh", algorithm: str = "grpo") -> Path:
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"algorithm": algorithm}))
    kinds = {"c": "correct", "w": "wrong", "u": "unparsed"}
    for completions, samples in evaluations.items():
        step = completions // 10
        row = {
            "name": name,
            "step": step,
            "completions": completions,
            "samples": {id_: [kinds[letter] for letter in letters] for id_, letters in samples.items()},
        }
        (folder / "eval" / f"{name}-step-{step:06d}.json").write_text(json.dumps(row))
    return folder


GRPO: Evaluations = {0: {"p": "ww", "q": "ww"}, 100: {"p": "cw", "q": "ww"}, 200: {"p": "cc", "q": "cu"}}
SGPO: Evaluations = {0: {"p": "ww", "q": "ww"}, 50: {"p": "cc", "q": "cw"}, 300: {"p": "cc", "q": "cw"}}


def test_two_runs_worked_by_hand(tmp_path: Path) -> None:
    grpo = write_run(tmp_path / "grpo", GRPO)
    sgpo = write_run(tmp_path / "sgpo", SGPO, algorithm="sgpo")
    (evaluation,) = compare_runs([grpo, sgpo]).evaluations
    assert (evaluation.name, evaluation.problems, evaluation.budget) == ("fresh", 2, 200)
    first, second = evaluation.runs
    assert (first.run, first.algorithm, first.step, first.completions, first.k) == ("grpo", "grpo", 20, 200, 2)
    assert (second.run, second.algorithm, second.completions) == ("sgpo", "sgpo", 300)
    assert (first.final.mean, second.final.mean) == (0.75, 0.75)
    # GRPO, p: 0 -> 0.5 -> 1 at 0, 100, 200: areas 25 + 75 of 200 = 0.5; q: 0, 0, 0.5: 25 of 200 = 0.125. Mean 0.3125.
    # SGPO, p: 0 -> 1 at 50, level to 200: 25 + 150 = 175 of 200 = 0.875; q is half of it, 0.4375. Mean 0.65625.
    assert first.curve is not None
    assert second.curve is not None
    assert (first.curve.mean, second.curve.mean) == (0.3125, 0.65625)
    (difference,) = evaluation.differences
    assert (difference.run, difference.baseline) == ("sgpo", "grpo")
    assert difference.final.mean == 0.0
    assert difference.curve is not None
    assert difference.curve.mean == 0.34375
    # The differences per problem are 0.375 and 0.3125, so every resample lies between them.
    assert (difference.curve.low, difference.curve.high) == (0.3125, 0.375)


def test_the_curve_is_cut_at_the_budget_inside_a_segment() -> None:
    # A line from 0 at 0 to 1 at 400, cut at 100: its mean there is 1/8. From 50 to 100: 3/16.
    points = [(0, {"p": 0.0}), (400, {"p": 1.0})]
    assert curve_score(points, start=0, budget=100) == {"p": 0.125}
    assert curve_score(points, start=50, budget=100) == {"p": 0.1875}


def test_a_run_with_one_evaluation_is_compared_by_its_final_score_and_shortens_no_curve(tmp_path: Path) -> None:
    warmup = write_run(tmp_path / "warmup", {0: {"p": "ww", "q": "cw"}}, algorithm="sft")
    runs = [warmup, write_run(tmp_path / "grpo", GRPO), write_run(tmp_path / "sgpo", SGPO)]
    (evaluation,) = compare_runs(runs).evaluations
    assert evaluation.budget == 200
    assert [run.curve is None for run in evaluation.runs] == [True, False, False]
    assert [(d.run, d.baseline, d.curve is None) for d in evaluation.differences] == [
        ("grpo", "warmup", True),
        ("sgpo", "warmup", True),
        ("sgpo", "grpo", False),
    ]
    assert evaluation.differences[0].final.mean == 0.5


def test_problem_sets_that_some_runs_lack_are_named(tmp_path: Path) -> None:
    grpo = write_run(tmp_path / "grpo", GRPO)
    sgpo = write_run(write_run(tmp_path / "sgpo", SGPO), SGPO, name="aime24")
    comparison = compare_runs([grpo, sgpo])
    assert [evaluation.name for evaluation in comparison.evaluations] == ["fresh"]
    assert comparison.left_out == ("aime24",)


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a" / "run", GRPO), write_run(tmp_path / "b" / "run", SGPO)]
    (evaluation,) = compare_runs(runs).evaluations
    assert [run.run for run in evaluation.runs] == [str(run) for run in runs]


def write_evaluation(folder: Path, samples: dict[str, list[str]], *, missing: int) -> Path:
    write_run(folder, {})
    row = {"name": "fresh", "step": 0, "completions": 0, "missing": missing, "samples": samples}
    (folder / "eval" / "fresh-step-000000.json").write_text(json.dumps(row))
    return folder


def test_problems_that_a_run_misses_are_left_out_for_all_and_said(tmp_path: Path) -> None:
    whole = write_evaluation(tmp_path / "whole", {"p": ["correct"], "q": ["wrong"], "r": ["correct"]}, missing=0)
    part = write_evaluation(tmp_path / "part", {"p": ["wrong"], "q": ["wrong"]}, missing=1)
    comparison = compare_runs([whole, part])
    (evaluation,) = comparison.evaluations
    assert (evaluation.problems, evaluation.total) == (2, 3)
    assert [(run.final.mean, run.missing) for run in evaluation.runs] == [(0.5, 0), (0.0, 1)]
    assert evaluation.differences[0].final.mean == -0.5
    out = io.StringIO()
    Console(file=out, width=200).print(comparison_table(comparison))
    assert "the 2 of 3 problems that every run has answered" in out.getvalue()
    assert "part (1 missing)" in out.getvalue()


@pytest.mark.parametrize(
    ("samples", "missing", "message"),
    [
        ({"p": ["wrong"]}, 1, r"2 are in one only, such as 'q'"),
        ({"p": ["wrong"], "s": ["wrong"]}, 1, r"3 are in one only"),
        ({"p": ["wrong"], "q": ["wrong"], "r": ["wrong"]}, 1, r"\(3 and 4\)"),
        ({"s": ["wrong"]}, 0, r"4 are in one only"),
    ],
)
def test_more_problems_absent_than_are_missing(
    tmp_path: Path, samples: dict[str, list[str]], missing: int, message: str
) -> None:
    whole = write_evaluation(tmp_path / "whole", {"p": ["wrong"], "q": ["wrong"], "r": ["wrong"]}, missing=0)
    with pytest.raises(ValueError, match=message):
        compare_runs([whole, write_evaluation(tmp_path / "part", samples, missing=missing)])


def test_runs_that_have_answered_nothing_in_common(tmp_path: Path) -> None:
    one = write_evaluation(tmp_path / "one", {"p": ["wrong"]}, missing=1)
    other = write_evaluation(tmp_path / "other", {"q": ["wrong"]}, missing=1)
    with pytest.raises(ValueError, match="no problem of 'fresh' was answered in every run"):
        compare_runs([one, other])


def test_the_json_and_the_table(tmp_path: Path) -> None:
    comparison = compare_runs([write_run(tmp_path / "grpo", GRPO), write_run(tmp_path / "[red]sgpo", SGPO)])
    value = json.loads(json.dumps(comparison.to_json()))
    assert value["evaluations"][0]["differences"][0]["curve"]["mean"] == 0.34375
    assert set(value["evaluations"][0]["runs"][0]["final"]) == {"mean", "low", "high"}
    out = io.StringIO()
    Console(file=out, width=200).print(comparison_table(comparison))
    assert "[red]sgpo - grpo" in out.getvalue()
    assert "+0.344" in out.getvalue()


def test_directories_that_cannot_be_compared(tmp_path: Path) -> None:
    good = write_run(tmp_path / "good", GRPO)
    bare = write_run(tmp_path / "bare", {})
    other = write_run(tmp_path / "other", {0: {"p": "ww", "r": "ww"}})
    elsewhere = write_run(tmp_path / "elsewhere", GRPO, name="aime24")
    (tmp_path / "folder").mkdir()
    for runs, message in [
        ([good], "two or more different run directories"),
        ([good, tmp_path / "." / "good"], "two or more different"),
        ([good, tmp_path / "missing"], "missing: no such run directory"),
        ([good, tmp_path / "folder"], r"folder: not a run directory \(no config.json"),
        ([good, bare], "bare: no evaluations"),
        ([good, other], r"good and other .* different problems .*'fresh' \(2 are in one only, such as 'q'\)"),
        ([good, elsewhere], "share no evaluation: .*good has fresh; .*elsewhere has aime24"),
    ]:
        with pytest.raises(ValueError, match=message):
            compare_runs(runs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "a JSON list, expected an object"),
        ('{"name": "fresh", "step": 1, "completions": 5}', "no 'samples' in it"),
        ('{"name": "fresh", "step": 1, "completions": 5, "samples": {"p": ["yes"], "q": ["no"]}}', "unknown verdict"),
        ('{"name": "fresh", "step": 1, "completions": 5, "samples": [1]}', "not an evaluation"),
        ('{"name": "fresh", "step": 1, "completions": null, "samples": {"p": ["wrong"]}}', "not an evaluation"),
        ('{"name": "fresh", "step": 1, "completions": 5, "samples": {"p": ["wrong"]}}', "other problems than"),
    ],
)
def test_a_broken_evaluation_is_named(tmp_path: Path, text: str, message: str) -> None:
    good, broken = write_run(tmp_path / "good", GRPO), write_run(tmp_path / "broken", GRPO)
    file = broken / "eval" / "fresh-step-000099.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        compare_runs([good, broken])
    assert str(file) in str(error.value)
