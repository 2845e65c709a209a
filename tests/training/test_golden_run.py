"""Five steps of SGPO through the command line against numbers kept in golden_run.json.

A change that means to alter them says so in the changelog; SGPO_GOLDEN=write in the environment writes the file anew.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sgpo import SGPOTrainer
from sgpo.cli import app
from sgpo.io import write_json, write_jsonl
from sgpo.training import launch
from tests.training.building import bank_of, hash_verdict, policy, read_lines, some_problems

GOLDEN = Path(__file__).with_name("golden_run.json")
KEYS = ("loss", "loss/policy", "loss/distill", "grad_norm", "divergence/mean", "completions", "targets/fraction")


def test_five_steps_have_the_losses_and_gradient_norms_of_the_golden_run(tmp_path, tokenizer, monkeypatch):
    # A random model answers nothing: what it says is judged by its hash, so that there are gradients and targets.
    monkeypatch.setattr(launch, "SGPOTrainer", partial(SGPOTrainer, verifier=hash_verdict))
    policy().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    problems = some_problems(12)
    bank_of(tmp_path / "bank.db", problems[:9]).close()
    write_jsonl(tmp_path / "problems.jsonl", ({"id": p.id, "problem": p.problem, "answer": p.answer} for p in problems))
    recipe = {
        "model": str(tmp_path / "model"),
        "problems": str(tmp_path / "problems.jsonl"),
        "bank": str(tmp_path / "bank.db"),
        "out": str(tmp_path / "run"),
        "train": {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "num_iterations": 2,
            "num_autonomous": 4,
            "num_guided": 4,
            "max_prompt_length": 64,
            "max_completion_length": 10,
            "prompt_style": "compact",
            "max_steps": 5,
            "learning_rate": 0.003,
            "lr_scheduler_type": "linear",
            "seed": 13,
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    result = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml"), "--json"])
    assert result.exit_code == 0, result.stderr
    rows = [row for row in read_lines(tmp_path / "run/metrics.jsonl") if "loss" in row]
    found = [{key: row[key] for key in ("step", *KEYS) if key in row} for row in rows]
    if os.environ.get("SGPO_GOLDEN") == "write":
        write_json(GOLDEN, {"steps": found})
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["steps"]
    assert [row["step"] for row in golden] == [1, 2, 3, 4, 5]
    assert sum("loss/distill" in row for row in golden) >= 3
    for ours, theirs in zip(found, golden, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), f"step {ours['step']}: {key}"
