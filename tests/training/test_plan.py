"""`sgpo train --dry-run`: numbers worked out by hand, the prompts as rendered, and nothing loaded or written."""

import json

import pytest
from peft import LoraConfig
from transformers import Qwen2Config
from typer.testing import CliRunner

from sgpo import SGPOConfig
from sgpo.cli import app
from sgpo.training import launch
from sgpo.training.plan import memory_needed, percentiles
from tests.training.building import bank_of, policy, some_problems, with_chat_template


@pytest.fixture
def recipe(tmp_path, tokenizer):
    """A recipe on twelve problems and a model that has a config and no weights."""
    policy(max_position_embeddings=200).config.save_pretrained(tmp_path / "model")
    with_chat_template(tokenizer).save_pretrained(tmp_path / "model")
    bank_of(tmp_path / "bank.db", some_problems(9)).close()
    rows = [{**p.to_json(), "solution": "so"} for p in some_problems(12)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {
        "num_autonomous": 4, "num_guided": 2, "per_device_train_batch_size": 3, "max_prompt_length": 80,
        "max_completion_length": 10, "num_train_epochs": 2, "use_cpu": True, "prompt_style": "compact",
        "system_prompt": "Be brief.", "rollout_fraction": 0.5,
    }  # fmt: skip
    content = {"model": str(tmp_path / "model"), "problems": str(tmp_path / "problems.jsonl"),
               "bank": str(tmp_path / "bank.db"), "out": str(tmp_path / "run"), "train": train}  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))

    def run(*words):
        return CliRunner().invoke(app, ["train", str(tmp_path / "recipe.yaml"), "--dry-run", *words])

    return run


def test_the_numbers_of_a_plan(recipe, tmp_path):
    result = recipe("--json")
    plan = json.loads(result.stdout)
    assert plan["problems"]["train"] == 12
    assert plan["problems"]["without_strategy"] == 3
    assert plan["guided_fraction"] == 0.75
    assert plan["steps"] == 12 / 3 * 2
    assert plan["completions"] == 8 * 3 * (4 + 2)
    assert plan["max_completion_tokens"] == 144 * 10
    assert plan["rollout_bytes"] == 144 * 10 * 5 / 2
    assert plan["prompts"]["autonomous"].count("Be brief.") == 1
    assert "do q0" in plan["prompts"]["guided"]
    assert plan["prompts"]["problem_id"] == "q0"
    assert not (tmp_path / "run").exists()
    shown = recipe()
    assert "144, at most 1,440 tokens" in shown.stdout
    assert "Be brief." in shown.stdout


def test_the_plan_of_a_warm_up_and_of_fixed_steps(recipe):
    words = ["--set", "warmup.fraction=0.25", "--set", "warmup.guided_fraction=0", "--set", "max_steps=7", "--json"]
    plan = json.loads(recipe(*words).stdout)
    assert (plan["warmup"]["problems"], plan["problems"]["train"], plan["steps"]) == (3, 9, 7)
    assert plan["completions"] == 7 * 3 * 6


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("max_prompt_length=1", "are longer than max_prompt_length=1"),
        ("max_completion_length=500", "made for 200 tokens"),
        ("per_device_train_batch_size=50", "fewer than one batch of 50"),
        ("bank=null", "learns from guided prompts"),
        ("eval_strategy=steps", "no problems to evaluate on"),
    ],
)
def test_what_training_refuses_a_plan_refuses(recipe, tmp_path, setting, message):
    result = recipe("--set", setting)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_memory_is_that_of_the_page():
    """Qwen2.5-1.5B: the table of docs/training.md, in GiB."""
    config = Qwen2Config(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    args = SGPOConfig(
        output_dir="", use_cpu=True, max_tokens_per_batch=16384, generation_batch_size=32, max_completion_length=4096
    )
    full = memory_needed(config, args, None, longest=1024)
    assert full["parameters"] == full["trained"] == 1_543_714_304
    found = {name: full[name] / 2**30 for name in ("weights", "activations", "cache")}
    assert found == pytest.approx({"weights": 23.0, "activations": 2.6, "cache": 8.8}, abs=0.06)
    lora = memory_needed(config, args, LoraConfig(r=32, target_modules="all-linear"), longest=1024)
    assert lora["trained"] == pytest.approx(37e6, rel=0.02)
    assert lora["weights"] / 2**30 == pytest.approx(6.3, abs=0.06)


def test_percentiles():
    assert percentiles([5]) == {"p50": 5, "p95": 5, "max": 5}
    assert percentiles(list(range(1, 101))) == {"p50": 50, "p95": 95, "max": 100}
    assert percentiles([]) is None


def test_a_plan_is_made_of_what_training_prepares(recipe, monkeypatch):
    """The one function that training calls."""
    calls = []
    original = launch.prepare_problems
    monkeypatch.setattr(launch, "prepare_problems", lambda *a, **k: calls.append(1) or original(*a, **k))
    assert recipe().exit_code == 0
    assert calls == [1]
