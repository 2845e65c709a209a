"""Training with engine vllm; a stand-in for TRL's VLLMGeneration samples by the hf engine."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel
from trl.generation.vllm_generation import VLLMGeneration

from sgpo.rollouts import vllm as adapter
from sgpo.rollouts.engine import Sampling
from sgpo.rollouts.hf import HFEngine
from tests.training import naive
from tests.training.building import (
    END_TOKENS,
    Recorder,
    build_trainer,
    hash_verdict,
    largest_difference,
    metrics_of,
    policy,
    some_problems,
    weights_of,
)

PROBLEMS = some_problems()


class Generation:
    """Knows only the weights that it was last given, and says that each token was half as likely as it is."""

    def __init__(self, model, accelerator, processing_class, **options):
        self.model, self.accelerator, self.options = model, accelerator, options
        self.mode, self.copy, self.synced = options["mode"], policy(), []

    def sync_weights(self):
        if isinstance(self.model, PeftModel):
            self.sync_merged_weights()
            return
        self.copy.load_state_dict(self.model.state_dict())
        self.synced.append({name: p.detach().clone() for name, p in self.model.named_parameters()})

    def sync_merged_weights(self):
        """By TRL's own walk over the parameters, which merges the adapters and takes them off again."""
        self._dist = SimpleNamespace(gather_params=lambda parameters: nullcontext(), is_fsdp=False)
        weights = {name: p.detach().float().clone() for name, p in VLLMGeneration._iter_named_params(self)}
        self.copy.load_state_dict(weights, strict=False)  # but for a tied head
        self.synced.append(weights)

    def _fix_param_name_to_vllm(self, name, extra_prefixes=()):
        return VLLMGeneration._fix_param_name_to_vllm(self, name, list(extra_prefixes))

    def generate(self, prompts, images, num_generations):
        engine = HFEngine(self.copy, pad_id=0, eos_ids=self.generation_kwargs["stop_token_ids"])
        sampling = Sampling(max_tokens=self.max_completion_length, temperature=self.temperature, top_p=self.top_p)
        completions = engine.generate(prompts, sampling, seeds=list(range(len(prompts))))
        logprobs = [[[value - math.log(2)] for value in c.logprobs] for c in completions]
        return prompts, [c.token_ids for c in completions], logprobs, None


@pytest.fixture(autouse=True)
def fake_vllm(monkeypatch):
    monkeypatch.setattr("trl.generation.vllm_generation.VLLMGeneration", Generation)
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setattr(adapter, "find_spec", lambda name: name)


def named_policy():
    """A policy that vLLM could find."""
    model = policy()
    model.name_or_path = "some/model"
    return model


@pytest.mark.parametrize(
    ("options", "weight"),
    [
        ({}, 2.0),
        ({"vllm_importance_sampling_clip_max": 1.25}, 1.25),
        ({"vllm_importance_sampling_correction": False}, 1.0),
    ],
    ids=["weighed", "capped", "off"],
)
def test_the_mismatch_of_the_engine_weighs_the_policy_gradient(tmp_path, tokenizer, options, weight):
    recorder = Recorder()
    trainer = build_trainer(
        tmp_path / "run", tokenizer, engine="vllm", model=named_policy(), callbacks=[recorder], **options
    )
    trainer.train()
    groups = naive.read_groups(trainer.engine.calls[0], tokenizer, PROBLEMS, hash_verdict)
    model = naive.double(policy())
    policy_part, _ = naive.policy_loss(model, groups)
    distill_part, divergences = naive.distill_loss(model, groups, limit=10, ends=END_TOKENS)
    assert divergences
    expected = naive.gradients(model, weight * policy_part + distill_part)
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert largest_difference(recorder.gradients[0], expected) < 5e-5 * scale
    (row,) = metrics_of(trainer)
    assert row.get("importance_weight") == (pytest.approx(weight, rel=1e-4) if weight != 1 else None)


def test_weights_are_handed_over_after_every_update_and_before_an_evaluation(tmp_path, tokenizer):
    recorder = Recorder()
    trainer = build_trainer(
        tmp_path / "run", tokenizer, engine="vllm", model=named_policy(), callbacks=[recorder], max_steps=2,
        learning_rate=0.1, evaluation=PROBLEMS[:2], eval_strategy="steps", eval_steps=2, eval_samples=2,
    )  # fmt: skip
    trainer.train()
    synced = trainer.engine.engine.generation.synced
    for handed_over, expected in zip(synced, [*recorder.weights, weights_of(trainer)], strict=True):
        assert largest_difference(handed_over, expected) == 0.0
    assert largest_difference(synced[0], synced[1]) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_below_adapters_stay_to_the_bit(tmp_path, tokenizer, dtype):
    """Handing merged weights over must not wear them: what is saved and loaded is what was trained."""
    policy().save_pretrained(tmp_path / "base")
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    trainer = build_trainer(
        tmp_path / "run", tokenizer, engine="vllm", model=str(tmp_path / "base"), peft_config=config, max_steps=3,
        model_init_kwargs={"dtype": str(dtype).removeprefix("torch.")}, learning_rate=0.01,
    )  # fmt: skip
    before = weights_of(trainer)
    for _ in range(5):
        trainer.engine.sync_weights(trainer.model)
    trainer.train()
    after = weights_of(trainer)
    frozen = [name for name in before if "lora_" not in name]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not all(torch.equal(before[name], after[name]) for name in before)
    # vLLM was given the merged weights.
    name = "model.layers.0.self_attn.q_proj"
    merged = (
        trainer.model.get_submodule(f"base_model.model.{name}").get_delta_weight("default")
        + after[f"base_model.model.{name}.base_layer.weight"].float()
    )
    trainer.engine.sync_weights(trainer.model)
    given = trainer.engine.engine.generation.synced[-1][f"{name}.weight"]
    assert (given - merged).abs().max() < (0.02 if dtype == torch.bfloat16 else 1e-5) * merged.abs().max()


def test_vllm_has_room_for_the_longest_prompt_and_completion(tmp_path, tokenizer):
    def room(name, **options):
        trainer = build_trainer(
            tmp_path / name, tokenizer, engine="vllm", model=named_policy(), evaluation=PROBLEMS, **options
        )
        return trainer.engine.engine.generation.options["max_model_length"]

    # The longest guided prompt: ` sum : do q0 ; ! | 2++?`.
    assert room("training") == 23 + 10
    # The longest prompt of the evaluation is ` 2++?`: five tokens.
    assert room("evaluation", eval_max_tokens=200) == 5 + 200
    assert room("given", vllm_max_model_length=99) == 99


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vllm_mode": "remote"}, "vllm_mode must be one of colocate, server, got 'remote'"),
        ({"vllm_gpu_memory_utilization": 1.5}, r"vllm_gpu_memory_utilization must lie in \(0, 1\], got 1.5"),
        ({"vllm_importance_sampling_clip_max": 0.0}, "vllm_importance_sampling_clip_max must be positive, got 0.0"),
        ({"vllm_tensor_parallel_size": 0}, "vllm_tensor_parallel_size must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        build_trainer(tmp_path / "run", tokenizer, engine="vllm", model=named_policy(), **options)


def test_without_vllm_training_does_not_start(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[vllm\]'"):
        build_trainer(tmp_path / "run", tokenizer, engine="vllm", model=named_policy())
    assert not (tmp_path / "run" / "config.json").exists()
