"""The guided branch at the initial weights: without a second model under adapters, and in training's own precision."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sgpo.objective import token_divergence
from sgpo.rollouts.forward import Predictor, predicted_divergence
from sgpo.training.frozen import frozen_branch
from tests.training.building import build_trainer, policy, some_problems

ROWS = [[5, 6, 7], [9]], [[20, 21], [30, 31, 32]]
FULL_PRECISION = SimpleNamespace(autocast=nullcontext)


def with_adapters(**options):
    torch.manual_seed(0)
    return get_peft_model(policy(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", **options))


def train_adapters(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)


def test_adapters_that_add_nothing_are_taken_off_and_nothing_is_copied():
    model = with_adapters()
    predictor = Predictor(model, pad_id=0)
    frozen_guided = frozen_branch(model, predictor, FULL_PRECISION)
    with torch.no_grad():
        before = predictor(model, *ROWS).states
        train_adapters(model)
        assert torch.equal(frozen_guided(*ROWS).states, before)
        assert not torch.allclose(predictor(model, *ROWS).states, before, atol=1e-2)
        model.get_base_model().model.norm.weight.mul_(2)  # in a copy nothing would change
        assert not torch.allclose(frozen_guided(*ROWS).states, before, atol=1e-2)


def test_adapters_get_their_gradient_though_they_were_off_between_forward_and_backward():
    model = with_adapters()
    predictor = Predictor(model, pad_id=0)
    frozen_guided = frozen_branch(model, predictor, FULL_PRECISION)
    train_adapters(model)
    gradients = []
    for frozen_first in (True, False):
        model.zero_grad()
        with torch.no_grad():
            early = frozen_guided(*ROWS)
        predictions = predictor(model, *ROWS)
        with torch.no_grad():
            late = frozen_guided(*ROWS)
        guided = early if frozen_first else late
        predicted_divergence(predictions, guided, direction="forward", temperature=1.0).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert gradients[0].abs().max() > 1e-3
    assert torch.equal(*gradients)


@pytest.mark.parametrize("init", [False, "pissa"])
def test_adapters_that_are_part_of_the_initial_policy_are_kept_with_it(init):
    """Drawn at random as if trained before; and PiSSA's, which are taken out of the weights below them."""
    model = with_adapters(init_lora_weights=init)
    predictor = Predictor(model, pad_id=0)
    frozen_guided = frozen_branch(model, predictor, FULL_PRECISION)
    with torch.no_grad():
        before = predictor(model, *ROWS).states
        train_adapters(model)
        assert torch.equal(frozen_guided(*ROWS).states, before)


@pytest.mark.parametrize("peft_config", [None, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")])
def test_in_mixed_precision_the_frozen_guided_model_computes_as_the_policy_does(tmp_path, tokenizer, peft_config):
    problems = [problem.__class__(**{**problem.to_json(), "solution": "so"}) for problem in some_problems()]
    trainer = build_trainer(
        tmp_path / "run", tokenizer, problems=problems, peft_config=peft_config, bf16=True, learning_rate=0.0,
        algorithm="opsd", strategy_content="solution",
    )  # fmt: skip
    trainer.train()
    with torch.no_grad():
        ours, guided = trainer.predictor(trainer.model_wrapped, *ROWS), trainer.frozen_guided(*ROWS)
    assert ours.states.dtype == guided.states.dtype == torch.bfloat16
    assert torch.equal(ours.states, guided.states)


def test_a_frozen_copy_makes_no_full_logits(monkeypatch):
    """Two heads, tile by tile: at a vocabulary of 152,000, full logits of both take megabytes a token."""
    model = policy()
    predictor = Predictor(model, pad_id=0)
    guided = frozen_branch(model, predictor, FULL_PRECISION)(*ROWS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    predictions = predictor(model, *ROWS)
    options = {"direction": "forward", "temperature": 1.0}
    full = token_divergence(predictions.logits(), guided.logits(), **options)
    monkeypatch.setattr("sgpo.rollouts.forward.token_divergence", None)
    chunked = predicted_divergence(predictions, guided, one_head=False, **options)
    torch.testing.assert_close(chunked, full, rtol=1e-4, atol=1e-5)
    assert full.max() > 0.1
