"""A run goes on with other options for how it is run, and with none that would change what is learnt."""

from __future__ import annotations

from dataclasses import fields

import pytest

from sgpo import SGPOConfig
from sgpo.io import read_json
from sgpo.report.facts import origin_facts
from sgpo.report.read import read_run
from sgpo.training.resume import MAY_CHANGE, changed_options
from tests.training.building import build_trainer, largest_difference, read_lines, some_problems, weights_of

# Options that transformers 5.10 does not know.
NEW_OPTIONS = {
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "dataloader_in_order",
    "dataloader_multiprocessing_context",
}

OPTIONS = {
    "per_device_train_batch_size": 2,
    "max_steps": 2,
    "optim": "adamw_torch",
    "learning_rate": 0.01,
    "save_strategy": "steps",
    "save_steps": 1,
}


def build(out, tokenizer, **options):
    return build_trainer(out, tokenizer, **(OPTIONS | options))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"learning_rate": 0.02},
            r"began with learning_rate=0.01 \(now 0.02\), and another value would change what is",
        ),
        ({"num_autonomous": 5, "seed": 1}, r"seed=13 \(now 1\), num_autonomous=4 \(now 5\)"),
        ({"per_device_train_batch_size": 3}, r"problems.global_batch=2 \(now 3\)"),
        ({"problems": some_problems(5)}, r"problems.problems=6 \(now 5\)"),
        ({"eval_temperature": 1.0}, r"eval_temperature=0.6 \(now 1.0\)"),
        (
            {"bank": None, "allow_unguided": True},
            r"allow_unguided=False .now True., strategies.without_strategy=0 \(now 6\)",
        ),
    ],
)
def test_what_changes_the_learning_is_refused_before_anything_is_cut(tmp_path, tokenizer, change, message):
    out = tmp_path / "run"
    build(out, tokenizer).train()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message):
        build(out, tokenizer, **change).train(resume_from_checkpoint=str(out / "checkpoints/checkpoint-1"))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_is_made_longer_and_its_config_says_since_when(tmp_path, tokenizer):
    """How often it is saved and logged changes with it."""
    change = {"max_steps": 5, "save_steps": 100, "logging_steps": 2, "max_tokens_per_batch": 8192}
    whole = build(tmp_path / "whole", tokenizer, **(change | {"max_tokens_per_batch": 16384}))
    whole.train()
    out = tmp_path / "run"
    build(out, tokenizer).train()
    begun = read_json(out / "config.json")
    longer = build(out, tokenizer, **change)
    longer.train(resume_from_checkpoint=True)
    assert largest_difference(weights_of(whole), weights_of(longer)) < 1e-6
    names = {"checkpoint-1", "checkpoint-2", "checkpoint-5", "final"}
    assert {path.name for path in (out / "checkpoints").iterdir()} == names
    assert [row["step"] for row in read_lines(out / "metrics.jsonl") if "loss" in row] == [1, 2, 4]
    config = read_json(out / "config.json")
    (entry,) = config.pop("changes")
    assert entry["step"] == 2
    assert entry["options"] == {
        "max_steps": {"before": 2, "now": 5},
        "save_steps": {"before": 1, "now": 100},
        "logging_steps": {"before": 1, "now": 2},
        "max_tokens_per_batch": {"before": 16384, "now": 8192},
    }
    assert {"command", "started"} < entry.keys()
    resumed = dict(origin_facts([read_run(out, "run")]))["Resumed with"]
    assert resumed == ["max_steps 5, logging_steps 2, save_steps 100, max_tokens_per_batch 8192 after step 2"]
    assert config == begun | {"args": begun["args"] | change}


def test_each_change_is_kept(tmp_path, tokenizer):
    out = tmp_path / "run"
    for max_steps in (1, 2, 3, 3):
        build(out, tokenizer, max_steps=max_steps).train(resume_from_checkpoint=max_steps > 1)
    changes = read_json(out / "config.json")["changes"]
    assert [(one["step"], one["options"]["max_steps"]) for one in changes] == [
        (1, {"before": 1, "now": 2}),
        (2, {"before": 2, "now": 3}),
    ]


def test_a_run_is_not_made_longer_where_the_learning_rate_depends_on_its_length(tmp_path, tokenizer):
    build(tmp_path / "run", tokenizer, lr_scheduler_type="linear").train()
    with pytest.raises(ValueError, match=r"max_steps=2 \(now 3\)"):
        build(tmp_path / "run", tokenizer, lr_scheduler_type="linear", max_steps=3).train(resume_from_checkpoint=True)


def test_a_batch_may_be_divided_otherwise(tmp_path, tokenizer):
    whole = build(tmp_path / "whole", tokenizer, max_steps=3)
    whole.train()
    build(tmp_path / "run", tokenizer).train()
    divided = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    resumed = build(tmp_path / "run", tokenizer, max_steps=3, **divided)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(weights_of(whole), weights_of(resumed)) < 1e-5


def test_a_run_that_was_moved_is_the_same_run():
    begun = {"model": "runs/a/checkpoints/warmup", "args": {"output_dir": "runs/a", "older": 1}}
    now = {"model": "/data/b/checkpoints/warmup", "args": {"output_dir": "/data/b", "newer": 2}}
    assert changed_options(begun, now) == {"output_dir": ("runs/a", "/data/b")}
    assert changed_options(begun, now | {"model": "Qwen/Qwen2.5-1.5B"})["model"][1] == "Qwen/Qwen2.5-1.5B"


def test_what_may_change_is_an_option():
    unknown = MAY_CHANGE - {"strategies.path", "prompts.texts"} - {field.name for field in fields(SGPOConfig)}
    assert unknown in (set(), NEW_OPTIONS)  # with the newest release of transformers, and the oldest
