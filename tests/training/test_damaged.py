"""Damaged files of a run end in one line that names the file, or cost no more than what is damaged."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
import torch

from sgpo.errors import SGPOError
from sgpo.evaluation.compare import compare_runs, unlike_settings
from sgpo.report import write_report
from sgpo.training import launch
from sgpo.training.metrics import strategy_effects
from sgpo.training.resume import PendingState, check_continuation, load_pending, save_pending
from sgpo.training.run_directory import RunDirectory
from tests.training.building import build_trainer, some_problems

CONFIG = {
    "id": "x",
    "algorithm": "sgpo",
    "model": "a/b",
    "args": {"learning_rate": 1.0},
    "problems": {"problems": 6, "global_batch": 2},
    "strategies": {"path": "b"},
    "prompts": {"style": "math", "version": "1"},
}
EVALUATION = {"name": "fresh", "step": 1, "completions": 5, "samples": {"p": ["wrong"]}}
SCORED = {**EVALUATION, "avg@1": {"mean": 0.5, "low": 0.1, "high": 0.9}}
NO_OBJECT = ["", '{"id": "x", "al', "[]", "null", '"a"', "1e999", "9" * 5000, "[" * 100_000, "\0\0", "\udcff\udcfe"]


def put(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode("utf-8", errors="surrogateescape"))


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    for path in (run.path, tmp_path / "other"):
        put(path / "config.json", json.dumps(CONFIG))
        put(path / "metrics.jsonl", '{"step": 1, "loss": 0.5}\n')
        put(path / "eval/fresh-step-000001.json", json.dumps(SCORED))
    return run


def message_of(call):
    """What the call ends in; None where it succeeds."""
    try:
        call()
    except (SGPOError, OSError) as error:
        return str(error)
    return None


def assert_one_line(call, file):
    """The call succeeds, or ends in one line that names the file."""
    message = message_of(call)
    assert message is None or (file in message and "\n" not in message)


WRONG_TYPES = [json.dumps(CONFIG | {key: value}) for key in CONFIG for value in (None, [], 3, [[1]])]


@pytest.mark.parametrize("text", [*NO_OBJECT, *WRONG_TYPES, json.dumps({"algorithm": "sgpo"})])
def test_a_damaged_config(run, text):
    put(run.config_file, text)
    for call in (
        lambda: check_continuation(
            run, {key: value for key, value in CONFIG.items() if key not in ("id", "algorithm")}
        ),
        lambda: run.id,
        lambda: compare_runs([run.path, run.path.with_name("other")]),
        lambda: unlike_settings([run.path, run.path.with_name("other")]),
    ):
        assert_one_line(call, "config.json")


@pytest.mark.parametrize("value", [None, [], {}, 3, [[1]]])
@pytest.mark.parametrize("key", [*EVALUATION, "left_to_server", "max_tokens", "missing"])
def test_a_damaged_evaluation(run, key, value):
    put(run.path / "eval/fresh-step-000001.json", json.dumps(EVALUATION | {key: value}))
    for call in (compare_runs, unlike_settings):
        assert "\n" not in (message_of(lambda call=call: call([run.path, run.path.with_name("other")])) or "")


@pytest.mark.parametrize("text", [*NO_OBJECT, '{"rl": []}', '{"warmup": 3, "rl": []}'])
def test_a_damaged_split(run, text):
    put(run.path / "split.json", text)
    recipe = SimpleNamespace(warmup=SimpleNamespace(fraction=0.5))
    with pytest.raises(SGPOError, match=r"split.json: [^\n]*$"):
        launch._split(run, some_problems(1), recipe, None, seed=0)


@pytest.mark.parametrize("text", [*NO_OBJECT, "a: [", "\t- a: b: c"])
def test_a_damaged_recipe(run, text):
    put(run.recipe_file, text)
    with pytest.raises(SGPOError, match=r"recipe.yaml: damaged [^\n]*$"):
        launch._read_recipe(run.recipe_file)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, "half", {}, [], {"rows": [{}]}])
def test_a_damaged_pending_state(tmp_path, content):
    """Of a checkpoint of 0.1, which has no manifest."""
    save_pending(tmp_path, PendingState(), rank=0)
    file = tmp_path / "pending-0.pt"
    whole = file.read_bytes()
    if isinstance(content, dict | list):
        torch.save(content, file)
    else:
        file.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(SGPOError, match=r"pending-0.pt: cannot be read \([^\n]*$"):
        load_pending(tmp_path, rank=0, world_size=1)


TORN = '{"step": 1, "loss": 1.0}\n{"step": 2, "lo\n\udcff\n[]\n{"loss": 3}\n{"step": 3, "loss": 3.0}\n'


def test_a_torn_line_does_not_drop_the_rows_behind_it(run):
    put(run.path / "metrics.jsonl", TORN)
    assert [row["step"] for row in run.read_metrics()] == [1, 3]
    run.cut_metrics(3)
    assert [row["step"] for row in run.read_metrics()] == [1, 3]
    assert (run.path / "metrics.jsonl").read_text().count("\n") == 2


def test_truncated_rollouts_do_not_fail_a_run_that_has_been_trained(tmp_path, tokenizer, caplog):
    out = tmp_path / "run"
    options = {"per_device_train_batch_size": 2, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    build_trainer(out, tokenizer, **options).train()
    file = out / "rollouts/step-000001.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    with caplog.at_level(logging.WARNING):
        resumed = build_trainer(out, tokenizer, **options)
        resumed.train(resume_from_checkpoint=True)
    assert "step-000001.jsonl: left out, since damaged: 1 line" in caplog.text
    assert (out / "checkpoints/final/README.md").exists()
    used = {id_: group.strategy_id for id_, group in resumed.prepared.groups.items()}
    effects = strategy_effects(resumed.run.read_rows("rollouts"), used)
    assert sum(counts[1] + counts[3] for counts in effects.values()) == 2 * 2 * 8 - 1


LARGE = (
    '{"step": 1, "loss": 1e308, "time/train": 1e308}\n'
    '{"step": 2, "loss": -1e308, "completions": 1e308, "time/train": 1e308}'
)


@pytest.mark.parametrize("file", ["metrics.jsonl", "warmup.jsonl", "rollouts/step-000001.jsonl", "alarms.jsonl"])
@pytest.mark.parametrize("text", [LARGE, TORN, '{"step": 1e308, "loss": 1}', f'{{"step": 1{"0" * 400}, "loss": 1}}'])
def test_a_report_is_made_whatever_numbers_a_file_holds(run, file, text):
    put(run.path / file, text)
    write_report([run.path], run.path / "report.html")
    page = (run.path / "report.html").read_text()
    assert (file == "metrics.jsonl" and text == LARGE) == ("5 numbers beyond 1e+100 left out" in page)
