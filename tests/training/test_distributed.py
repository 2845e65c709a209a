"""Two processes do what one does, and do not wait for each other for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.building import bank_of, largest_difference, read_lines, some_problems
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
