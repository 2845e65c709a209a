from __future__ import annotations

import html
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import make_run, write_lines

from sgpo.report import write_report
from sgpo.report.completions import (
    HEAD,
    TAIL,
    ProblemCard,
    encode_cards,
    passed,
    read_completions,
    read_evaluation_cards,
)
from sgpo.report.read import RunRecord, read_run


def row(
    problem: str, *, step: int = 1, group: str = "autonomous", verdict: str = "wrong", **more: Any
) -> dict[str, Any]:
    base = {"step": step, "problem_id": problem, "group": group, "verdict": verdict, "prompt": group, "completion": "x"}
    return base | {"strategy_id": "s" if group == "guided" else None} | more


def run_of(path: Path, steps: dict[int, list[dict[str, Any]]]) -> RunRecord:
    for step, step_rows in steps.items():
        write_lines(path / "rollouts" / f"step-{step:06d}.jsonl", step_rows)
    return read_run(path, "run")


def test_verdicts_are_counted_by_group(tmp_path: Path) -> None:
    guided = [row("a", group="guided", verdict=verdict) for verdict in ("correct", "correct", "timeout")]
    found = read_completions(run_of(tmp_path, {1: [row("a"), row("b", verdict="unparsed"), *guided]}))
    assert found.verdicts == {
        "autonomous": Counter(wrong=1, unparsed=1),
        "guided": Counter(correct=2, timeout=1),
    }
    assert (found.rows, found.problems) == (5, 2)


def test_a_strategy_is_set_against_the_autonomous_rows_of_its_problem_and_step(tmp_path: Path) -> None:
    steps = {
        1: [
            row("a"),
            row("a", verdict="correct"),
            row("a", group="guided", verdict="correct"),
            row("b", verdict="correct"),
        ],
        # Sampled without its strategy: these must not count for it.
        2: [row("a", step=2, verdict="correct") for _ in range(5)],
    }
    (tally,) = read_completions(run_of(tmp_path, steps)).strategies["s"].values()
    assert (tally.guided, tally.guided_passed, tally.autonomous, tally.autonomous_passed) == (1, 1, 2, 1)


def test_a_completion_whose_judging_timed_out_has_no_part_in_uplift(tmp_path: Path) -> None:
    groups = [(group, verdict) for group in ("guided", "autonomous") for verdict in ("correct", "timeout")]
    rows = [row("a", group=group, verdict=verdict) for group, verdict in groups]
    own_rewards = [row("b", group=group, verdict=None, reward=reward) for group, _ in groups for reward in (0.8, None)]
    found = read_completions(run_of(tmp_path, {1: rows + own_rewards})).strategies["s"]
    assert (found["a"].guided, found["a"].guided_passed, found["a"].autonomous) == (1, 1, 1)
    assert (found["b"].guided, found["b"].guided_passed, found["b"].autonomous) == (2, 2, 2)


def test_the_first_and_the_last_visit_are_kept(tmp_path: Path) -> None:
    found = read_completions(run_of(tmp_path, {step: [row("a", step=step)] for step in (3, 7, 11)}))
    assert [visit["step"] for visit in found.cards[0].visits] == [3, 11]


def test_completions_alike_are_held_once_with_their_number(tmp_path: Path) -> None:
    same = [row("a", completion="same", verdict="correct") for _ in range(3)]
    found = read_completions(run_of(tmp_path, {1: [*same, row("a", completion="other")]}))
    rows = found.cards[0].visits[0]["rows"]
    assert [(one["text"], one["verdict"], one["count"]) for one in rows] == [
        ("same", "correct", 3),
        ("other", "wrong", 1),
    ]


def test_a_long_completion_is_shortened(tmp_path: Path) -> None:
    found = read_completions(run_of(tmp_path, {1: [row("a", completion="a" * 50_000)]}))
    text = found.cards[0].visits[0]["rows"][0]["text"]
    assert HEAD + TAIL < len(text) < HEAD + TAIL + 100
    assert "characters left out" in text


def test_the_sample_of_problems_is_the_same_for_runs_that_visit_them_in_another_order(tmp_path: Path) -> None:
    ids = [f"p{number}" for number in range(60)]

    def sampled(name: str, order: list[str]) -> dict[str, list[int]]:
        steps = {step: [row(id_, step=step) for id_ in order[step * 10 - 10 : step * 10]] for step in range(1, 13)}
        cards = read_completions(run_of(tmp_path / name, steps), max_problems=20).cards
        return {card.problem_id: [visit["step"] for visit in card.visits] for card in cards}

    one, other = sampled("one", ids * 2), sampled("other", ids[::-1] * 2)
    assert list(one) == list(other)
    assert len(one) == 20
    assert one == {id_: [first := ids.index(id_) // 10 + 1, first + 6] for id_ in one}  # every visit was seen


@pytest.mark.parametrize(
    ("fields", "right"),
    [
        ({"verdict": "correct", "reward": 0.0}, True),
        ({"verdict": "wrong", "reward": 1.0}, False),
        ({"verdict": "unparsed"}, False),
        ({"verdict": "timeout"}, False),
        ({"verdict": None, "reward": 1.0}, True),
        ({"verdict": None, "reward": 0.4}, False),
        ({}, False),
    ],
)
def test_a_verdict_goes_before_a_reward(fields: dict[str, Any], right: bool) -> None:
    assert passed(fields) is right


def test_evaluations_give_cards_of_their_first_and_last(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", steps=30), "run")
    cards = read_evaluation_cards(run, "fresh")
    assert len(cards) == 60
    assert [visit["step"] for visit in cards[0].visits] == [0, 30]


def test_what_is_embedded_fits_the_bytes_and_small_sources_come_whole() -> None:
    def source(count: int, size: int) -> list[ProblemCard]:
        visit = {"step": 1, "prompt": "é" * size, "guided_prompt": "", "rows": []}
        return [ProblemCard(f"p{number}", "", [visit]) for number in range(count)]

    kept = encode_cards([source(1000, 500), source(10, 500), source(1000, 500)], max_bytes=200_000)
    sizes = [sum(len(text.encode("utf-8")) for text in texts) for texts in kept]
    assert len(kept[1]) == 10
    assert 180_000 < sum(sizes) <= 200_000
    assert sizes[0] == pytest.approx(sizes[2], rel=0.05)
    assert json.loads(kept[0][0])["id"] == "p0"


def test_rows_without_anything_do_not_stop_the_pass(tmp_path: Path) -> None:
    rng = random.Random(0)
    odd = [
        {},
        {"problem_id": None, "completion": 7, "verdict": ["x"], "tokens": "many", "group": {}},
        {"reward": "high"},
    ]
    rng.shuffle(odd)
    found = read_completions(run_of(tmp_path, {1: odd}))
    assert found.rows == 3


def test_the_prompts_of_one_problem_are_kept_to_the_character(tmp_path: Path) -> None:
    prompt, guided = "\n <|user|>What is 2+2?\n<|assistant|>\n", "<|user|>Add.  \n\nWhat is 2+2?"
    alone = {1: [row("a", prompt="first")], 2: [row("b", prompt="second")]}
    found = read_completions(run_of(tmp_path / "alone", alone)).shown_prompts
    assert found is not None
    assert (found.problem_id, found.autonomous, found.guided) == ("a", "first", "")
    with_strategy = {**alone, 3: [row("c", group="guided", prompt=guided), row("c", prompt=prompt)], 4: [row("d")]}
    run = run_of(tmp_path / "both", with_strategy)
    found = read_completions(run).shown_prompts
    assert found is not None
    assert (found.problem_id, found.autonomous, found.guided) == ("c", prompt, guided)
    config = {"rendered_prompts": {"problem_id": "q", "autonomous": "<|im_start|>q", "guided": None}}
    told = read_completions(replace(run, config=config)).shown_prompts
    assert told is not None
    assert (told.problem_id, told.autonomous, told.guided, told.rendered) == ("q", "<|im_start|>q", "", True)
    # A line feed at the beginning of a `pre` is not shown by a browser: it stands twice.
    page = write_report([run.path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert f">\n{html.escape(prompt)}</pre>" in page
    assert f">{html.escape(guided)}</pre>" in page
