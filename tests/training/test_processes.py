"""Launches that would not do what they say are refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sgpo import SGPOConfig
from sgpo.training.distributed import check_launch
from tests.training.building import build_trainer

ROOT = Path(__file__).resolve().parents[2]
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}


def options(device, *, engine="hf", fsdp=None, algorithm="sgpo"):
    """What `check_launch` reads of an SGPOConfig, on a device that is not here."""
    return SimpleNamespace(
        world_size=2,
        device=SimpleNamespace(type=device),
        algorithm=algorithm,
        engine=engine,
        fsdp=fsdp,
        fsdp_plugin_args={"fsdp_version": fsdp},
        deepspeed=None,
        beta=0.0,
    )


@pytest.mark.parametrize("environment", [FSDP2, ZERO3])
def test_sharding_needs_gpus_and_vllm(environment):
    with pytest.raises(ValueError, match="needs GPUs"):
        check_launch(options("cpu", engine="vllm"), environment)
    with pytest.raises(ValueError, match="cannot generate by itself; set engine=vllm"):
        check_launch(options("cuda"), environment)
    with pytest.raises(ValueError, match="no whole copy of the initial weights, which algorithm opsd is guided by"):
        check_launch(options("cuda", engine="vllm", algorithm="opsd"), environment)
    check_launch(options("cuda", engine="vllm"), environment)


def test_fsdp1_is_refused():
    with pytest.raises(ValueError, match="fsdp_version must be 2, got 1"):
        check_launch(options("cuda", engine="vllm"), {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"})
    with pytest.raises(ValueError, match="fsdp_version must be 2, got 1"):
        check_launch(options("cuda", engine="vllm", fsdp=1), {})
    check_launch(options("cuda", engine="vllm", fsdp=2), {})


@pytest.mark.parametrize("engine", ["hf", "vllm"])
def test_the_trainer_refuses_fsdp_on_a_cpu(tmp_path, tokenizer, engine):
    with pytest.raises(ValueError, match="needs GPUs"):
        build_trainer(tmp_path / "run", tokenizer, fsdp=True, engine=engine)
    assert not (tmp_path / "run").exists()


def test_what_torchrun_and_one_process_set_is_fine(tmp_path):
    args = SGPOConfig(output_dir=str(tmp_path), use_cpu=True)
    check_launch(args, {})
    check_launch(args, {"MASTER_ADDR": "10.0.0.1"})
    check_launch(args, {"ACCELERATE_MIXED_PRECISION": "no"})
    check_launch(args, {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "1"})


def test_accelerate_starts_one_process_on_a_cpu_and_is_found_out(tmp_path):
    code = tmp_path / "code.py"
    code.write_text(
        "import sys; from sgpo import SGPOConfig; from sgpo.training.distributed import check_launch\n"
        f"try: check_launch(SGPOConfig(output_dir={str(tmp_path)!r}, use_cpu=True))\n"
        "except ValueError as error: sys.exit(f'error: {error}')\n"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(code)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "started for several processes, but this is the only one" in done.stderr
