"""`sgpo init`: a recipe for a machine, which works as it is."""

import json
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig
from transformers import Qwen2Config
from typer.testing import CliRunner

from sgpo import SGPOConfig
from sgpo.cli import app
from sgpo.training.memory import memory_needed
from sgpo.training.recipe import load_recipe
from sgpo.training.start import Machine, first_recipe
from tests.training.building import bank_of, policy, some_problems

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
GIB = 2**30


def small(parameters_of):
    return Qwen2Config(hidden_size=parameters_of, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
                       intermediate_size=4864, vocab_size=151936, tie_word_embeddings=True)  # fmt: skip


def test_the_shipped_recipe_is_what_init_writes_for_a_cpu():
    text = first_recipe(Machine(), model=None, problems="problems.jsonl", bank="bank.db")
    assert (RECIPES / "own-data.yaml").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("machine", [Machine(), Machine(24 * GIB), Machine(80 * GIB)])
@pytest.mark.parametrize("config", [None, small(896)])
def test_every_recipe_is_one(machine, config, tmp_path):
    (tmp_path / "r.yaml").write_text(first_recipe(machine, model="m", problems="p.jsonl", bank="b.db", config=config))
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.model, recipe.problems.source, recipe.bank) == ("m", "p.jsonl", "b.db")
    assert recipe.train.get("use_cpu", False) == (machine.gpu_bytes is None)


QWEN_7B = Qwen2Config(hidden_size=3584, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
                      intermediate_size=18944, vocab_size=152064, tie_word_embeddings=False)  # fmt: skip


@pytest.mark.parametrize(
    ("gib", "config", "lora", "rate", "bits"),
    [
        (8, small(896), True, 1e-5, 32),  # half a billion parameters take 8 GB in full
        (24, small(896), False, 1e-6, 32),
        (80, QWEN_7B, True, 1e-5, 32),  # 28 GiB, and half of that for a step in 16 bits
        (48, QWEN_7B, True, 1e-5, 16),  # 14 GiB
        (16, QWEN_7B, True, 1e-5, 4),  # 7 GiB
    ],
)
def test_what_is_trained_is_what_fits(gib, config, lora, rate, bits, tmp_path):
    text = first_recipe(Machine(gib * GIB), model="m", problems="p", bank="b", config=config)
    (tmp_path / "r.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.lora is not None, recipe.train["learning_rate"]) == (lora, rate)
    assert recipe.train.get("model_init_kwargs", {}).keys() == {
        32: set(), 16: {"dtype"}, 4: {"quantization_config"}}[bits]  # fmt: skip
    args = SGPOConfig(output_dir="", use_cpu=True, **recipe.train)
    needed = memory_needed(config, args, LoraConfig(**recipe.lora.model_dump()) if lora else None, longest=1024)
    assert needed["total"] < gib * GIB
    assert "Computed to need" not in text


def test_a_model_for_which_a_gpu_is_too_small_is_said_in_the_first_line():
    text = first_recipe(Machine(4 * GIB), model="m", problems="p", bank="b", config=QWEN_7B)
    assert "# Computed to need " in text.splitlines()[0]
    assert "quantization_config" in text


@pytest.mark.parametrize(
    "path", ["plain.jsonl", "with # sign.jsonl", "a: b.jsonl", "[1].jsonl", "true", "'q\".jsonl", "7"]
)
def test_any_name_of_a_file_is_written_so_that_it_is_read(path):
    text = first_recipe(Machine(), model=path, problems=path, bank=path, out=path)
    read = yaml.safe_load(text)
    assert [read[key] for key in ("model", "problems", "bank", "out")] == [path] * 4


def test_it_trains_a_tiny_model_as_it_is(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy(max_position_embeddings=1024).save_pretrained("model")
    tokenizer.save_pretrained("model")
    bank_of(tmp_path / "bank.db", some_problems()).close()
    Path("problems.jsonl").write_text("".join(json.dumps(p.to_json()) + "\n" for p in some_problems()))
    run = CliRunner()
    made = run.invoke(app, ["init", "--model", "model"])
    assert made.exit_code == 0, made.stderr
    assert "recipe.yaml: a recipe" in made.stdout
    words = ["train", "recipe.yaml", "--set", "max_steps=1"]
    trained = run.invoke(app, words)
    assert trained.exit_code == 0, trained.stderr
    assert Path("runs/mine/checkpoints/final/adapter_config.json").exists()
    again = run.invoke(app, ["init", "--model", "model"])
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
    assert "--out recipe.yaml: exists already" in again.stderr
    assert "no such model directory" in run.invoke(app, ["init", "--model", "no/such/m", "--out", "x.yaml"]).stderr
    assert not Path("x.yaml").exists()
