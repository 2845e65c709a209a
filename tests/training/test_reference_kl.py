"""`beta`: the KL of autonomous completions to the weights that training starts from, in a step and in a run."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from sgpo import SGPOConfig
from sgpo.errors import InputError
from sgpo.training.distributed import check_launch
from tests.training import naive
from tests.training.building import (
    Recorder,
    build_trainer,
    hash_verdict,
    largest_difference,
    metrics_of,
    policy,
    some_problems,
    weights_of,
)
from tests.training.test_resume import Killed, assert_ends_like, build, contents

GRPO = {"algorithm": "grpo", "beta": 0.3}


def lora(**options):
    torch.manual_seed(0)
    return LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", **options)


def expected_kl(model, groups, reference):
    """The mean over all tokens of all autonomous completions, and a loss whose gradient is that of the estimate."""
    kls, losses = [], []
    for group in groups:
        for ids in group.autonomous:
            new = naive.logprobs(model, group.prompt, ids)
            with torch.no_grad():
                difference = naive.logprobs(reference, group.prompt, ids) - new
            k3 = difference.exp() - difference - 1
            kls.append(k3)
            # d/dx of exp(x - x0) (exp(r - x) - (r - x) - 1) at x0 = x is k3 - exp(r - x) + 1 = x - r.
            losses.append(-difference * new)
    return torch.cat(kls).mean().item(), torch.cat(losses).mean()


@pytest.mark.parametrize("adapters", [False, True], ids=["copy", "adapters"])
def test_in_a_later_step_the_reference_is_still_that_of_the_first(tmp_path, tokenizer, adapters):
    recorder = Recorder()
    trainer = build_trainer(
        tmp_path / "run", tokenizer, max_steps=2, learning_rate=0.5, callbacks=[recorder],
        peft_config=lora() if adapters else None, **GRPO,
    )  # fmt: skip
    initial = naive.double(trainer.model).eval()
    trainer.train()
    rows = metrics_of(trainer)
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-9)
    groups = naive.read_groups(trainer.engine.calls[1], tokenizer, some_problems(), hash_verdict)
    model = naive.double(initial, recorder.weights[1])
    kl, kl_part = expected_kl(model, groups, initial)
    assert kl > 1e-3, "the case is too easy: the policy has not moved"
    assert rows[1]["kl"] == pytest.approx(kl, rel=1e-4)
    policy_part, _ = naive.policy_loss(model, groups)
    assert rows[1]["loss"] == pytest.approx(policy_part.item() + 0.3 * kl, abs=1e-5)
    expected = naive.gradients(model.requires_grad_(), policy_part + 0.3 * kl_part)
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    for name in trained:
        assert (recorder.gradients[1][name] - expected[name]).abs().max().item() < 1e-5, name
    assert max(expected[name].abs().max().item() for name in trained) > 1e-3


def test_groups_without_an_advantage_are_held_too(tmp_path, tokenizer):
    """All completions are wrong: nothing but the KL moves the policy, once it differs from the reference."""
    model, moved = policy(), policy()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1.05)
    trainer = build_trainer(tmp_path / "run", tokenizer, model=model, verifier=lambda completion, problem: 0.0, **GRPO)
    model.load_state_dict(moved.state_dict())  # as after some steps
    trainer.train()
    row = metrics_of(trainer)[0]
    assert row["groups/with_gradient"] == 0.0
    assert row["trained_tokens"] == sum(len(c.token_ids) for c in trainer.engine.calls[0][3])
    assert row["kl"] > 1e-3
    assert row["loss"] == pytest.approx(0.3 * row["kl"], rel=1e-4)
    assert largest_difference(weights_of(trainer), dict(moved.named_parameters())) > 1e-4


def test_a_run_with_beta_that_was_killed_resumes_to_the_same_end(tmp_path, tokenizer):
    """Between two updates on one batch of rollouts, so that the reference's log-probabilities lie in the checkpoint."""
    options = {**GRPO, "num_iterations": 2, "save_steps": 3, "importance_sampling_level": "sequence"}
    whole = build(tmp_path / "whole", tokenizer, **options)
    whole.train()
    assert metrics_of(whole)[-1]["kl"] > 0
    with pytest.raises(Killed):
        build(tmp_path / "run", tokenizer, kill_at=4, **options).train()
    resumed = build(tmp_path / "run", tokenizer, **options)
    resumed.train(resume_from_checkpoint=True)
    assert_ends_like((weights_of(whole), *contents(tmp_path / "whole")), resumed)


def test_only_what_beta_needs_is_kept(tmp_path, tokenizer):
    assert build_trainer(tmp_path / "none", tokenizer).reference is None
    with_beta = build_trainer(tmp_path / "some", tokenizer, beta=0.1)
    assert with_beta.reference is not None
    assert with_beta.frozen_guided is None  # the strategies' branch stays at the current weights


def test_sharded_training_with_beta_is_refused(tmp_path, monkeypatch):
    args = SGPOConfig(output_dir=str(tmp_path), beta=0.1, engine="vllm", use_cpu=True)
    monkeypatch.setattr(type(args), "device", torch.device("cuda"))
    with pytest.raises(InputError, match=r"no whole copy of the initial weights, which beta=0\.1 measures the KL to"):
        check_launch(args, {"ACCELERATE_USE_FSDP": "true"})


@pytest.mark.parametrize("option", [{"beta": 0.1}, {"importance_sampling_level": "sequence"}, {"soft_punish_cache": 8}])
@pytest.mark.parametrize("algorithm", ["sft", "guided_sft"])
def test_an_algorithm_without_a_policy_gradient_reads_none_of_them(tmp_path, option, algorithm):
    name = next(iter(option))
    with pytest.raises(InputError, match=f"{name}=.* is an option of algorithm sgpo, grpo, luffy or hpt"):
        SGPOConfig(output_dir=str(tmp_path), algorithm=algorithm, **option)
