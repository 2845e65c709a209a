"""Two processes do what one does, and do not wait for each other for ever."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from sgpo import SGPOConfig
from sgpo.io import write_jsonl
from tests.training import sharded
from tests.training.building import bank_of, largest_difference, policy, read_lines, some_problems
from tests.training.two_processes import CASES, run_case

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory, tokenizer):
    """The runs of two processes, all cases in one launch."""
    home = tmp_path_factory.mktemp("distributed")
    tokenizer.save_pretrained(home / "tokenizer")
    for guided in {case["guided"] for case in CASES.values()}:
        bank_of(home / f"{guided}.db", some_problems()[:guided]).close()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = ["-m", "tests.training.two_processes", str(home), str(home / "tokenizer")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return home


@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_what_one_does(home, tokenizer, case):
    run_case(home, tokenizer, case, processes=1, **CASES[case])
    one, two = home / f"{case}, 1", home / f"{case}, 2"
    assert largest_difference(torch.load(one / "weights.pt"), torch.load(two / "weights.pt")) < 1e-5
    for ours, theirs in zip(torch.load(one / "gradients.pt"), torch.load(two / "gradients.pt"), strict=True):
        assert largest_difference(ours, theirs) < 1e-5
    rows, others = (read_lines(run / "metrics.jsonl") for run in (one, two))
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for key in row:
            if not key.startswith(("time/", "tokens_per", "train_", "eval/runtime", "eval/samples", "eval/steps")):
                assert other[key] == pytest.approx(row[key], rel=1e-4, abs=1e-5), key
    for kind in ("rollouts", "targets"):
        files = sorted(path.name for path in (one / kind).iterdir())
        assert files == sorted(path.name for path in (two / kind).iterdir())
        for name in files:
            ours, theirs = (
                sorted((row["problem_id"], row.get("group", ""), row["step"]) for row in read_lines(run / kind / name))
                for run in (one, two)
            )
            assert ours == theirs


def test_a_recipe_with_a_warm_up_runs_in_two_processes(tmp_path, tokenizer):
    """From the command line, as `accelerate launch` starts it on several GPUs: one process writes and speaks."""
    policy().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    problems = some_problems(12)
    bank_of(tmp_path / "bank.db", problems).close()
    rows = [{"id": p.id, "problem": p.problem, "answer": p.answer, "solution": f"so {p.answer}"} for p in problems]
    write_jsonl(tmp_path / "problems.jsonl", rows)
    recipe = {
        "model": str(tmp_path / "base"), "problems": str(tmp_path / "problems.jsonl"), "out": str(tmp_path / "run"),
        "bank": str(tmp_path / "bank.db"),
        "warmup": {"fraction": 0.34, "epochs": 1, "per_device_train_batch_size": 1, "warmup_steps": 0},
        "train": {"per_device_train_batch_size": 2, "num_autonomous": 4, "num_guided": 2, "max_prompt_length": 64,
                  "max_completion_length": 10, "prompt_style": "compact", "max_steps": 2, "use_cpu": True,
                  "disable_tqdm": True, "save_steps": 1, "verifier_workers": 1},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(Path(sys.executable).with_name("sgpo")), "train", str(tmp_path / "recipe.yaml"), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["model"] == str(tmp_path / "run/checkpoints/final")
    warm = {path.name for path in (tmp_path / "run/checkpoints/warmup").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= warm
    assert [row["step"] for row in read_lines(tmp_path / "run/metrics.jsonl") if "loss" in row] == [1, 2]
    assert {len(read_lines(path)) for path in (tmp_path / "run/rollouts").iterdir()} == {2 * 2 * 6}


def test_the_case_of_one_target_has_one(home):
    counts = [len(read_lines(path)) for path in (home / "one process has a target, 2/targets").iterdir()]
    assert max(counts) == 1


def test_a_checkpoint_of_two_processes_loads_in_one(home, tokenizer):
    """Between two updates on one batch: the rollouts of both processes come together in one."""
    case = "two updates"
    shutil.copytree(home / f"{case}, 2", home / "resumed, 1")
    checkpoint = home / "resumed, 1/checkpoints/checkpoint-1"
    run_case(home, tokenizer, "resumed", processes=1, resume=str(checkpoint), **CASES[case])
    resumed, whole = home / "resumed, 1", home / f"{case}, 2"
    assert largest_difference(torch.load(resumed / "weights.pt"), torch.load(whole / "weights.pt")) < 1e-5
    for row, other in zip(read_lines(resumed / "metrics.jsonl"), read_lines(whole / "metrics.jsonl"), strict=True):
        assert row.keys() == other.keys()
        for key in ("loss", "grad_norm", "completions", "divergence/mean", "train_loss", "eval/avg@2"):
            assert row.get(key, 0.0) == pytest.approx(other.get(key, 0.0), rel=1e-4, abs=1e-5), key


def test_the_loss_of_a_model_sharded_by_fsdp2_has_the_gradients_of_a_whole_one(home, tmp_path):
    whole = sharded.gradients(policy(), sharded.ROWS, SGPOConfig(output_dir=str(tmp_path), use_cpu=True))
    found = torch.load(home / "sharded.pt")
    assert max(gradient.abs().max().item() for gradient in whole.values()) > 0.1
    assert largest_difference(whole, found) < 1e-5
