"""What a person sees of a run as it goes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sgpo.training.metrics import ProgressBar
from tests.training.building import build_trainer, read_lines, some_problems


def test_the_progress_bar_is_on_standard_error_alone(tmp_path, tokenizer, capfd):
    trainer = build_trainer(
        tmp_path / "run",
        tokenizer,
        evaluation=some_problems(2),
        max_steps=2,
        learning_rate=0.1,
        disable_tqdm=False,
        eval_strategy="steps",
        eval_steps=1,
        eval_samples=2,
    )
    trainer.train()
    out, err = capfd.readouterr()
    assert out == ""
    last = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("sgpo:")][-1]
    assert "2/2" in last
    row = [row for row in read_lines(tmp_path / "run/metrics.jsonl") if "loss" in row][-1]
    assert f"autonomous={row['pass_rate/autonomous']:.2f}" in last
    assert f"guided={row['pass_rate/guided']:.2f}" in last
    score = [row for row in read_lines(tmp_path / "run/metrics.jsonl") if "eval/avg@2" in row][-1]
    assert f"avg@2={score['eval/avg@2']:.3f}" in last


def test_loggers_get_the_same_keys(tmp_path, tokenizer):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = build_trainer(tmp_path / "run", tokenizer, report_to=["tensorboard"], max_steps=2, learning_rate=0.1)
    trainer.train()
    (events,) = (tmp_path / "run").rglob("events.out.tfevents.*")
    scalars = EventAccumulator(str(events.parent)).Reload()
    names = set(scalars.Tags()["scalars"])
    rows = [row for row in read_lines(tmp_path / "run/metrics.jsonl") if "loss" in row]
    assert {f"train/{key}" for key in rows[1].keys() - {"step"}} <= names
    written = [event.value for event in scalars.Scalars("train/pass_rate/guided")]
    assert written == pytest.approx([row["pass_rate/guided"] for row in rows])


def test_the_bar_shows_no_pass_rate_of_an_earlier_row():
    shown = []
    bar = ProgressBar("sgpo")
    bar.bar = SimpleNamespace(set_postfix=lambda words, refresh: shown.append(dict(words)))
    for logs in (
        {"loss": 0.1, "pass_rate/autonomous": 0.5, "pass_rate/guided": 0.0},
        {"eval_avg@2": 0.25},
        {"loss": 0.1, "pass_rate/autonomous": 0.75},
    ):
        bar.on_log(None, None, None, logs)
    assert shown == [
        {"autonomous": "0.50", "guided": "0.00"},
        {"autonomous": "0.50", "guided": "0.00", "avg@2": "0.250"},
        {"autonomous": "0.75", "avg@2": "0.250"},
    ]
