"""A run that was killed with SIGKILL, at whatever moment, and resumed ends as one that never was, to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sgpo import StrategyBank
from tests.training.building import read_lines, some_problems

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("time/", "tokens_per_second", "train_runtime", "train_samples", "train_steps", "eval/runtime", "eval/samples_")


def contents(run):
    """All that a run leaves, times aside: metrics, rollouts, targets, evaluations, weights, and its bank's effects."""
    rows = [
        {key: value for key, value in row.items() if not key.startswith((*TIMES, "eval/steps_"))}
        for row in read_lines(run / "metrics.jsonl")
    ]
    files = {
        str(path.relative_to(run)): path.read_bytes()
        for pattern in (
            "rollouts/*",
            "targets/*",
            "eval/*",
            "strategies.jsonl",
            "checkpoints/*/*.safetensors",
        )
        for path in run.glob(pattern)
    }
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*"))
    with StrategyBank(run.with_name(f"{run.name}.db")) as bank:
        effects = [bank.effect(bank.get(problem.id).id) for problem in some_problems()]
    return {"rows": rows, "names": names, "effects": effects, **files}


def kill_and_compare(home, tokenizer, runs):
    tokenizer.save_pretrained(home / "tokenizer")
    script = ["-m", "tests.training.killed_runs", str(home), str(home / "tokenizer"), str(runs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, *script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    whole = contents(home / "whole")
    assert [row["step"] for row in whole["rows"] if "loss" in row] == [2, 4]
    assert any(effect.guided_passes for effect in whole["effects"])
    killed = [run for run in home.iterdir() if (run / "config.json").exists() and run.name != "whole"]
    for run in killed:
        found = contents(run)
        assert found.keys() == whole.keys(), run.name
        for name in whole:
            assert found[name] == whole[name], f"killed at {run.name}: {name}"
    return len(killed)


def test_a_run_killed_at_random_moments_ends_like_one_never_stopped(tmp_path, tokenizer):
    assert kill_and_compare(tmp_path, tokenizer, 5) == 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_at_any_moment_ends_like_one_never_stopped(tmp_path, tokenizer):
    assert kill_and_compare(tmp_path, tokenizer, "every") > 50
