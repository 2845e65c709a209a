"""`sgpo init`: a recipe for a machine, which works as it is."""

import json
from pathlib import Path

import pytest
import yaml
from transformers import Qwen2Config
from typer.testing import CliRunner

from sgpo.cli import app
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


def test_adapters_are_left_out_where_all_weights_fit():
    """Half a billion parameters take 8 GB in full: they fit in 24 GiB, and not in 8."""

    def written(gib):
        text = first_recipe(Machine(gib * GIB), model="m", problems="p", bank="b", config=small(896))
        return yaml.safe_load(text)

    assert "lora" in written(8)
    assert "lora" not in written(24)
    assert (written(8)["train"]["learning_rate"], written(24)["train"]["learning_rate"]) == (1e-5, 1e-6)


def test_it_trains_a_tiny_model_as_it_is(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy().save_pretrained("model")
    tokenizer.save_pretrained("model")
    bank_of(tmp_path / "bank.db", some_problems()).close()
    Path("problems.jsonl").write_text("".join(json.dumps(p.to_json()) + "\n" for p in some_problems()))
    run = CliRunner()
    made = run.invoke(app, ["init", "--model", "model"])
    assert made.exit_code == 0, made.stderr
    assert "recipe.yaml: a recipe" in made.stdout
    words = ["train", "recipe.yaml", "--set", "max_steps=1", "--set", "max_completion_length=5"]
    trained = run.invoke(app, words)
    assert trained.exit_code == 0, trained.stderr
    assert Path("runs/mine/checkpoints/final/adapter_config.json").exists()
    again = run.invoke(app, ["init", "--model", "model"])
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
    assert "--out recipe.yaml: exists already" in again.stderr
    assert "no such model directory" in run.invoke(app, ["init", "--model", "no/such/m", "--out", "x.yaml"]).stderr
    assert not Path("x.yaml").exists()
