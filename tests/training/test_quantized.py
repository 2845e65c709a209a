"""QLoRA: adapters above weights in 4 bits. What needs bitsandbytes is skipped where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
import yaml
from peft import LoraConfig

from sgpo import SGPOConfig, SGPOTrainer
from sgpo.errors import InputError
from sgpo.io import write_jsonl
from sgpo.rollouts.models import load_policy
from sgpo.rollouts.vllm import VLLMOptions, build_vllm_engine
from sgpo.training.launch import run_recipe
from sgpo.training.options import installed_name
from sgpo.training.recipe import load_recipe
from tests.training.building import Recorder, bank_of, hash_verdict, metrics_of, policy, read_lines, some_problems

FOUR_BITS = {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def wide_policy():
    """Bitsandbytes quantizes 64 weights of a row at a time."""
    return policy(hidden_size=64, intermediate_size=128, num_attention_heads=2, num_key_value_heads=1)


@pytest.fixture
def base(tmp_path, tokenizer):
    wide_policy().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def recipe_of(tmp_path, base, **sections):
    problems = some_problems(8)
    bank_of(tmp_path / "bank.db", problems).close()
    rows = [{"id": p.id, "problem": p.problem, "answer": p.answer, "solution": f"so {p.answer}"} for p in problems]
    write_jsonl(tmp_path / "problems.jsonl", rows)
    train = {"per_device_train_batch_size": 2, "num_autonomous": 4, "num_guided": 2, "max_prompt_length": 64,
             "max_completion_length": 10, "prompt_style": "compact", "max_steps": 2, "use_cpu": True,
             "learning_rate": 0.01, "disable_tqdm": True, "save_steps": 1, "verifier_workers": 1,
             "model_init_kwargs": FOUR_BITS}  # fmt: skip
    recipe = {
        "model": str(base), "problems": str(tmp_path / "problems.jsonl"), "out": str(tmp_path / "run"),
        "bank": str(tmp_path / "bank.db"), "train": train, **sections,
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path / "recipe.yaml"


# -- refused


def test_without_adapters_a_recipe_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(InputError, match=r"recipe\.yaml, train: quantized weights .* a lora section"):
        load_recipe(recipe_of(tmp_path, tmp_path / "nowhere"))


def test_without_adapters_a_quantized_model_is_refused(tmp_path, tokenizer):
    model = policy()
    model.quantization_method = "bitsandbytes"
    with pytest.raises(InputError, match="cannot be trained themselves; train adapters"):
        SGPOTrainer(model, SGPOConfig(output_dir=str(tmp_path / "run"), use_cpu=True), processing_class=tokenizer)
    assert not (tmp_path / "run").exists()


def test_with_vllm_it_is_refused(tmp_path, monkeypatch):
    message = "engine=vllm samples from whole weights, which a policy in 4 or 8 bits"
    with pytest.raises(InputError, match=message):
        SGPOConfig(output_dir=str(tmp_path), engine="vllm", model_init_kwargs=FOUR_BITS)
    monkeypatch.setattr("sgpo.rollouts.vllm.check_vllm", lambda: None)
    loaded = SimpleNamespace(quantization_method="bitsandbytes")
    with pytest.raises(InputError, match=message):
        build_vllm_engine(loaded, None, None, VLLMOptions(), eos_ids=[1], max_sequences=1)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_where_bitsandbytes_is_missing_one_line_says_so_and_the_directory_stays_free(tmp_path, base):
    with pytest.raises(
        InputError, match=r"base: Using `bitsandbytes` 4-bit quantization requires .*pip install"
    ) as error:
        run_recipe(load_recipe(recipe_of(tmp_path, base, lora={"r": 4})))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_package_that_an_option_needs_is_named(base):
    with pytest.raises(InputError, match="base: FlashAttention2 has been toggled on"):
        load_policy(base, attn_implementation="flash_attention_2")


# -- trained


@needs_bitsandbytes
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_trains_the_adapters_alone_and_the_reference_is_the_base(tmp_path, tokenizer, base, checkpointing):
    torch.manual_seed(0)
    recorder = Recorder()
    args = SGPOConfig(
        output_dir=str(tmp_path / "run"), per_device_train_batch_size=6, num_autonomous=4, max_prompt_length=64,
        max_completion_length=10, prompt_style="compact", max_steps=2, learning_rate=0.01, use_cpu=True,
        disable_tqdm=True, save_steps=1, model_init_kwargs=FOUR_BITS, beta=0.1,
        **{installed_name(SGPOConfig, "activation_checkpointing"): checkpointing},
    )  # fmt: skip
    problems = some_problems()
    trainer = SGPOTrainer(
        str(base), args, problems, bank=bank_of(tmp_path / "bank.db", problems), verifier=hash_verdict,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"), callbacks=[recorder],
    )  # fmt: skip
    layer = trainer.model.get_base_model().model.layers[0].mlp.up_proj
    assert type(layer.base_layer).__name__ == "Linear4bit"
    packed = layer.base_layer.weight.detach().clone()
    assert packed.dtype == torch.uint8
    trainer.train()
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in trained.items())
    assert all(recorder.gradients[1][name].abs().max() > 0 for name in trained)
    assert torch.equal(layer.base_layer.weight, packed)
    assert [row["kl"] > 1e-6 for row in metrics_of(trainer)] == [False, True]
    # What is saved are the adapters; they are loaded above the weights as they were before they were quantized.
    assert {path.name for path in (tmp_path / "run/checkpoints/final").glob("*.safetensors")} == {
        "adapter_model.safetensors"
    }
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        loaded, ours, untrained = (
            m(ids).logits for m in (load_policy(tmp_path / "run"), trainer.model.eval(), policy())
        )
    assert (loaded - ours).abs().mean() < 0.3 * (loaded - untrained).abs().mean()


@needs_bitsandbytes
def test_a_recipe_with_a_warm_up_in_four_bits(tmp_path, base):
    """The warm-up's adapters go into weights that never were in 4 bits."""
    warmup = {"fraction": 0.5, "epochs": 1, "per_device_train_batch_size": 1, "warmup_steps": 0, "learning_rate": 0.01}
    recipe = load_recipe(recipe_of(tmp_path, base, lora={"r": 4}, warmup=warmup))
    run_recipe(recipe)
    warm, before = (load_policy(path).state_dict() for path in (tmp_path / "run/checkpoints/warmup", base))
    assert {values.dtype for values in warm.values()} == {torch.float32}
    change = warm["model.layers.0.mlp.up_proj.weight"] - before["model.layers.0.mlp.up_proj.weight"]
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 4  # the adapters, and no rounding of theirs or of the base
    assert len([row for row in read_lines(tmp_path / "run/metrics.jsonl") if "loss" in row]) == 2
    assert not (tmp_path / "run/warmup").exists()
    run_recipe(load_recipe(recipe_of(tmp_path, base, lora={"r": 4}, warmup=warmup), ["max_steps=3"]), resume=True)
    assert len([row for row in read_lines(tmp_path / "run/metrics.jsonl") if "loss" in row]) == 3
