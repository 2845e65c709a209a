"""What a person sees of a run as it goes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sgpo import progress
from sgpo.errors import InputError
from sgpo.training import metrics
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


def test_a_step_tells_how_far_it_has_come_in_all_that_takes_time(tmp_path, tokenizer, monkeypatch):
    """Two micro-batches of three problems with 4 + 4 completions; a forward holds a row or two."""
    told = []
    monkeypatch.setattr(ProgressBar, "show_work", lambda self, *words: told.append(words))
    trainer = build_trainer(
        tmp_path / "run",
        tokenizer,
        disable_tqdm=False,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        max_tokens_per_batch=60,
        generation_batch_size=20,
    )
    trainer.train()
    order = list(dict.fromkeys(doing for doing, *_ in told))
    assert order == ["sampling", "judging", "scoring", "training"]
    sampled = [(done, more) for doing, done, total, more in told if doing == "sampling" and total == 48]
    assert [done for done, _ in sampled] == sorted(done for done, _ in sampled)
    assert (0 < sampled[0][0] < 20, sampled[0][1]) == (True, "1 tokens")  # some end with their first token
    assert {20, 40, 48} <= {done for done, more in sampled if more == ""}  # batches of 20, 20 and 8
    judged = [(done, total) for doing, done, total, _ in told if doing == "judging"]
    assert judged == [(done, 48) for done in range(49)]
    for doing in ("scoring", "training"):
        parts = [(done, total) for name, done, total, _ in told if name == doing]
        assert (0, parts[0][1]) == parts[0]
        assert parts[0][1] > 1
        assert parts[-1][0] == parts[-1][1]
    assert progress._listener is None


def test_judging_by_workers_is_told():
    from sgpo.verifier import Verifier

    told = []
    progress.listen(lambda *words: told.append(words))
    try:
        with Verifier(workers=1) as verifier:
            verifier.verify_many([(f"\\boxed{{{number}}}", "2") for number in range(3)])
    finally:
        progress.listen(None)
    assert told[-1] == ("judging", 3, 3, "")
    assert [done for _, done, _, _ in told] == sorted(done for _, done, _, _ in told)


def test_only_long_work_is_shown_and_not_at_every_word(monkeypatch):
    seconds, shown = [0.0], []
    monkeypatch.setattr(metrics, "perf_counter", lambda: seconds[0])
    monkeypatch.setattr(metrics.sys.stderr, "isatty", lambda: True, raising=False)
    bar = ProgressBar("sgpo")
    bar.bar = SimpleNamespace(
        set_postfix=lambda words, refresh: shown.append((seconds[0], dict(words))), update=lambda steps: None, n=0
    )
    bar.shown, bar.micro_batches = {"autonomous": "0.50"}, 4
    for second, doing, done, more in [
        (10.0, "sampling", 1, "7 tokens"), (14.9, "sampling", 2, "8 tokens"), (15.0, "sampling", 3, "9 tokens"),
        (15.5, "sampling", 4, "10 tokens"), (16.0, "sampling", 5, "11 tokens"), (17.0, "judging", 1, ""),
        (22.0, "judging", 2, ""), (23.0, "training", 1, ""), (28.0, "training", 2, ""),
    ]:  # fmt: skip
        if second == 28.0:
            bar.on_substep_end(None, None, None)
        seconds[0] = second
        bar.show_work(doing, done, 1000, more)
    rate = {"autonomous": "0.50"}
    assert shown == [
        (15.0, rate | {"sampling": "3/1,000 (9 tokens)"}),
        (16.0, rate | {"sampling": "5/1,000 (11 tokens)"}),
        (22.0, rate | {"judging": "2/1,000"}),
        (28.0, rate | {"training": "2/1,000 (micro-batch 2 of 4)"}),
    ]
    bar.on_step_end(None, SimpleNamespace(global_step=1), None)
    assert shown[-1] == (28.0, rate)  # the step's end takes it off
    monkeypatch.setattr(metrics.sys.stderr, "isatty", lambda: False, raising=False)
    for second in (100.0, 105.0, 130.0, 165.0):  # a file gets a line a minute
        seconds[0] = second
        bar.show_work("sampling", 1, 2, "")
    assert [second for second, _ in shown[5:]] == [105.0, 165.0]


def test_nobody_listens_to_a_run_that_failed(tmp_path, tokenizer):
    def fails(completion, problem):
        raise RuntimeError("no judge")

    trainer = build_trainer(tmp_path / "run", tokenizer, disable_tqdm=False, verifier=fails)
    with pytest.raises(InputError, match="no judge"):
        trainer.train()
    assert progress._listener is None
