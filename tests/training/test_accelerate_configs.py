"""The configs of `accelerate launch` under recipes/accelerate/: accelerate takes them, and they are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "accelerate"


@pytest.mark.parametrize(("name", "kind"), [("multi_gpu", "MULTI_GPU"), ("fsdp2", "FSDP"), ("zero3", "DEEPSPEED")])
def test_accelerate_takes_it(name, kind):
    path = FOLDER / f"{name}.yaml"
    config = load_config_from_file(str(path))  # raises for an unknown key
    assert config.distributed_type == kind
    assert config.mixed_precision == "bf16"
    assert not config.use_cpu
    options = {f"--{key}" for key in yaml.safe_load(path.read_text()).get("fsdp_config", {})}
    known = {option for action in launch_command_parser()._actions for option in action.option_strings}
    assert options <= known, options - known


def test_sharding_is_what_the_loss_needs():
    fsdp = load_config_from_file(str(FOLDER / "fsdp2.yaml")).fsdp_config
    assert fsdp["fsdp_version"] == 2
    assert not fsdp["fsdp_cpu_ram_efficient_loading"]  # else all processes but one would start with no weights
    assert fsdp["fsdp_state_dict_type"] == "FULL_STATE_DICT"  # checkpoints/final is a whole model
    deepspeed = load_config_from_file(str(FOLDER / "zero3.yaml")).deepspeed_config
    assert deepspeed["zero_stage"] == 3
    assert deepspeed["zero3_save_16bit_model"]


def test_all_of_them_are_tested():
    assert {path.stem for path in FOLDER.iterdir()} == {"multi_gpu", "fsdp2", "zero3"}
