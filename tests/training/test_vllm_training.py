"""Training with engine vllm; a stand-in for TRL's VLLMGeneration samples by the hf engine."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest

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
        self.copy.load_state_dict(self.model.state_dict())
        self.synced.append({name: p.detach().clone() for name, p in self.model.named_parameters()})

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


def test_vllm_has_room_for_the_longest_prompt_and_completion(tmp_path, tokenizer):
    def room(name, **options):
        trainer = build_trainer(
            tmp_path / name, tokenizer, engine="vllm", model=named_policy(), evaluation=PROBLEMS, **options
        )
        return trainer.engine.engine.generation.options["max_model_length"]

    assert room("training") == 64 + 10
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
    with pytest.raises(ValueError, match=r"pip install 'sgpo\[vllm\]'"):
        build_trainer(tmp_path / "run", tokenizer, engine="vllm", model=named_policy())
    assert not (tmp_path / "run" / "config.json").exists()
