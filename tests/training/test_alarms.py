"""Every alarm is made to happen, and a healthy run raises none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sgpo.training import alarms
from sgpo.training.alarms import mentions_strategy, raised_alarms
from sgpo.verifier import Verdict
from tests.training.building import ScriptedEngine, bank_of, build_trainer, metrics_of, read_lines, some_problems

DOCS = Path(__file__).resolve().parents[2] / "docs"
HEALTHY = {
    "loss": 0.1, "entropy": 0.5, "completion_length/autonomous": 100.0, "distinct_answers": 4.0, "grad_norm": 1.0,
    "pass_rate/autonomous": 0.3, "groups/with_gradient": 0.5, "targets/fraction": 0.5, "strategy_mentions": 0.0,
    "verdicts/correct": 30, "verdicts/wrong": 60, "verdicts/unparsed": 10, "verdicts/timeout": 0,
}  # fmt: skip


def rows(*parts):
    """Rows of a run: `(how many, what differs from a healthy row)`."""
    return [HEALTHY | changes for count, changes in parts for _ in range(count)]


def kinds(made):
    return [alarm.kind for alarm in raised_alarms(made)]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("entropy", {"entropy": 0.09}),
        ("completion_length", {"completion_length/autonomous": 49.0}),
        ("distinct_answers", {"distinct_answers": 1.9}),
        ("no_gradient", {"groups/with_gradient": 0.0, "targets/fraction": 0.0, "loss": 0.0}),
        ("strategy_mentions", {"strategy_mentions": 0.06}),
        ("mostly_unparsed", {"verdicts/unparsed": 91}),
        ("mostly_timeout", {"verdicts/timeout": 101}),
        ("mostly_truncated", {"truncated/autonomous": 0.51}),
        ("logprob_difference", {"logprob_difference/mean": 0.051}),
    ],
)
def test_each_alarm_is_raised_where_its_threshold_is_passed(kind, changes):
    assert kinds(rows((10, {}), (10, changes))) == [kind]
    (alarm,) = raised_alarms(rows((10, {}), (10, changes)))
    assert alarm.message
    value = next(iter(changes.values()))
    if kind in (
        "entropy",
        "completion_length",
        "distinct_answers",
        "strategy_mentions",
        "mostly_truncated",
        "logprob_difference",
    ):
        assert alarm.value == pytest.approx(value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "entropy": 0.11,
            "completion_length/autonomous": 51.0,
            "strategy_mentions": 0.05,
            "verdicts/unparsed": 90,
            "truncated/autonomous": 0.5,
        },
        {"distinct_answers": 1.5, "pass_rate/autonomous": 0.41},  # most answers are the right one by now
        {"groups/with_gradient": 0.0, "targets/fraction": 0.0},  # an algorithm whose loss needs neither
        {"groups/with_gradient": 0.0, "loss": 0.0, "targets/fraction": 0.1},
    ],
    ids=["healthy", "just above", "learning", "imitation", "targets"],
)
def test_none_is_raised_where_it_is_not(changes):
    assert kinds(rows((10, {}), (10, changes))) == []


def test_falls_compare_rows_that_are_not_the_same_and_limits_need_a_whole_window():
    low = {"entropy": 0.0, "verdicts/unparsed": 1000}
    assert kinds(rows((9, low))) == []
    assert kinds(rows((9, {}), (10, low))) == ["mostly_unparsed"]
    assert kinds(rows((10, {}), (10, low))) == ["entropy", "mostly_unparsed"]


def test_rows_without_a_key_raise_nothing():
    """A run of an algorithm that samples nothing, or whose rewards are numbers without a verdict."""
    assert raised_alarms([{"loss": 0.1, "grad_norm": 1.0}] * 30) == []


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("Following the strategy, we first add.", True),
        ("According to the strategy we reverse the list.", True),
        ("As the given strategy is to factor, ...", True),
        ("The strategy above tells us to isolate x.", True),
        ("Use this provided strategy: first ...", True),
        ("My strategy is to try small cases.", False),
        ("A good strategy is to complete the square.", False),
        ("In this game the strategy of the first player wins.", False),
        ("The optimal strategy for Alice is to take one coin.", False),
    ],
)
def test_what_counts_as_speaking_of_a_given_strategy(text, mentions):
    assert mentions_strategy(text) is mentions


# -- in training


def run_alarms(out):
    path = out / "alarms.jsonl"
    return read_lines(path) if path.exists() else []


def test_a_run_says_it_once_and_marks_its_directory(tmp_path, tokenizer, caplog):
    """Every verdict is `unparsed`: three alarms, each once, in the file and on the log."""
    trainer = build_trainer(
        tmp_path / "run", tokenizer, verifier=lambda completion, problem: Verdict("unparsed"), max_steps=13
    )
    trainer.train()
    found = run_alarms(tmp_path / "run")
    raised = [(row["step"], row["alarm"]) for row in found]
    assert raised == [(1, "nothing_parsed"), (10, "no_gradient"), (10, "mostly_unparsed")]
    assert (found[2]["value"], found[2]["threshold"]) == (1.0, 0.5)
    assert len([r for r in caplog.records if "alarm mostly_unparsed at step 10" in r.getMessage()]) == 1


def test_a_run_of_few_rows_is_looked_at_when_it_ends(tmp_path, tokenizer):
    """Every completion is cut off, and none has an answer."""
    trainer = build_trainer(
        tmp_path / "run", tokenizer, verifier=lambda completion, problem: Verdict("unparsed"), max_steps=3
    )
    trainer.engine = ScriptedEngine(tokenizer, lambda prompt, number: f"{number}")
    trainer.train()
    found = {row["alarm"]: (row["step"], row["value"]) for row in run_alarms(tmp_path / "run")}
    assert found == {
        "nothing_parsed": (1, 1.0),
        "no_gradient": (3, 0.0),
        "mostly_unparsed": (3, 1.0),
        "mostly_truncated": (3, 1.0),
    }
    assert raised_alarms([], ended=True) == []


def test_problems_without_a_strategy(tmp_path, tokenizer, caplog):
    """Said once, when the run begins, and not again when it is resumed."""
    bank = bank_of(tmp_path / "bank.db", some_problems()[:5])
    options = {"bank": bank, "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    build_trainer(tmp_path / "run", tokenizer, **options).train()
    build_trainer(tmp_path / "run", tokenizer, **(options | {"max_steps": 3})).train(resume_from_checkpoint=True)
    (row,) = run_alarms(tmp_path / "run")
    assert (row["step"], row["alarm"], row["value"]) == (0, "partly_guided", 5 / 6)
    assert "alarm partly_guided at step 0: only 83% of the problems have a guided prompt" in caplog.text
    build_trainer(tmp_path / "grpo", tokenizer, bank=bank, algorithm="grpo").train()  # which reads none
    assert run_alarms(tmp_path / "grpo") == []


def test_completions_that_speak_of_a_strategy(tmp_path, tokenizer):
    trainer = build_trainer(tmp_path / "run", tokenizer, max_steps=10, algorithm="grpo", max_completion_length=64)
    texts = ["following the strategy, 7.", "it is 8.", "9.", "10."]
    trainer.engine = ScriptedEngine(tokenizer, lambda prompt, number: texts[number])
    trainer.train()
    (row,) = [row for row in run_alarms(tmp_path / "run") if row["alarm"] == "strategy_mentions"]
    assert (row["step"], row["value"]) == (10, 0.25)


def test_an_engine_whose_log_probabilities_are_not_the_trainers(tmp_path, tokenizer):
    """It says -1 of every token; found out in the first step."""
    trainer = build_trainer(tmp_path / "run", tokenizer)
    trainer.engine = ScriptedEngine(tokenizer, lambda prompt, number: f"{number}.")
    trainer.train()
    (row,) = run_alarms(tmp_path / "run")
    (metrics,) = metrics_of(trainer)
    assert (row["step"], row["alarm"]) == (1, "logprob_difference")
    assert row["value"] == metrics["logprob_difference/mean"] > 0.05
    assert metrics["logprob_difference/max"] >= metrics["logprob_difference/mean"]


def test_a_resumed_run_raises_what_one_never_stopped_does(tmp_path, tokenizer):
    options = {"verifier": lambda completion, problem: Verdict("unparsed"), "save_strategy": "steps", "save_steps": 9}
    build_trainer(tmp_path / "run", tokenizer, max_steps=12, **options).train()
    whole = run_alarms(tmp_path / "run")
    assert whole
    for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-12"):
        path.rename(path.with_name("moved"))
    build_trainer(tmp_path / "run", tokenizer, max_steps=12, **options).train(resume_from_checkpoint=True)
    assert run_alarms(tmp_path / "run") == whole


def test_the_page_says_the_thresholds_that_hold():
    table = {}
    for line in (DOCS / "alarms.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `(\w+)` \| .* \| ([\d.]+) \| .* \|$", line):
            table[match[1]] = float(match[2])
    assert table == {
        "entropy": alarms.ENTROPY_FRACTION,
        "completion_length": alarms.LENGTH_FRACTION,
        "distinct_answers": alarms.DISTINCT_FRACTION,
        "no_gradient": 0.0,
        "strategy_mentions": alarms.MENTION_FRACTION,
        "mostly_unparsed": alarms.VERDICT_FRACTION,
        "nothing_parsed": 1.0,
        "mostly_timeout": alarms.VERDICT_FRACTION,
        "mostly_truncated": alarms.TRUNCATED_FRACTION,
        "partly_guided": alarms.GUIDED_FRACTION,
        "logprob_difference": alarms.LOGPROB_DIFFERENCE,
    }
    page = (DOCS / "alarms.md").read_text(encoding="utf-8")
    assert f"means over {alarms.ROWS} rows" in page
    assert f"by more than {alarms.DISTINCT_PASS_GAIN}" in page


def test_a_first_batch_without_any_answer_is_said_at_once():
    nothing = {"verdicts/unparsed": 200, "verdicts/correct": 0, "verdicts/wrong": 0, "verdicts/timeout": 0}
    (alarm,) = raised_alarms([HEALTHY | {key: float(count) for key, count in nothing.items()}])
    assert (alarm.kind, "of the first 200 completions" in alarm.message) == ("nothing_parsed", True)
    assert kinds([HEALTHY | nothing | {"verdicts/wrong": 1}]) == []
    assert kinds([HEALTHY | nothing] * 2) == []  # said already
    assert kinds([{"loss": 0.1}]) == []
