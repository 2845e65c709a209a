"""The baselines in the trainer: one step against naive loops, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.training import naive
from tests.training.building import (
    Recorder,
    build_trainer,
    hash_verdict,
    largest_difference,
    metrics_of,
    policy,
    read_lines,
    some_problems,
    weights_of,
)

SOLUTIONS = {"q0": "abc", "q1": "de", "q3": "fghij"}


def problems_with_solutions():
    return [dataclasses.replace(problem, solution=SOLUTIONS.get(problem.id)) for problem in some_problems()]


def train_and_read(tmp_path, tokenizer, **options):
    """Train; the trainer, a float64 model of the initial weights, the recorder, and the groups of the first step."""
    recorder, problems = Recorder(), problems_with_solutions()
    trainer = build_trainer(tmp_path / "run", tokenizer, problems=problems, callbacks=[recorder], **options)
    model = naive.double(policy(), weights_of(trainer))
    trainer.train()
    calls = [call for call in trainer.engine.calls if call[0]]
    groups = naive.read_groups(calls[0], tokenizer, problems, hash_verdict) if calls else []
    return trainer, model, recorder, groups


def solution_ids(tokenizer, name):
    return [*tokenizer(SOLUTIONS[name])["input_ids"], tokenizer.eos_token_id]


def cross_entropy(model, rows):
    """The mean over all tokens of (prompt, completion) rows."""
    values = torch.cat([naive.logprobs(model, prompt, completion) for prompt, completion in rows])
    return -values.mean()


def assert_same(trainer, recorder, model, loss, *, tokens):
    assert largest_difference(naive.gradients(model, loss), recorder.gradients[0]) < 1e-5
    (row,) = metrics_of(trainer)[:1]
    assert row["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert row["trained_tokens"] == tokens


@pytest.mark.parametrize("split", [{}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}])
def test_sft(tmp_path, tokenizer, split):
    """Also in micro-batches, one of which has no solution at all."""
    trainer, model, recorder, _ = train_and_read(tmp_path, tokenizer, algorithm="sft", **split)
    prompts = {problem.id: tokenizer(f" {problem.problem}")["input_ids"] for problem in problems_with_solutions()}
    rows = [(prompts[name], solution_ids(tokenizer, name)) for name in SOLUTIONS]
    assert_same(trainer, recorder, model, cross_entropy(model, rows), tokens=sum(len(ids) for _, ids in rows))
    assert "tokens" not in metrics_of(trainer)[0]
    assert metrics_of(trainer)[0]["completions"] == 0


def test_guided_sft(tmp_path, tokenizer):
    trainer, model, recorder, groups = train_and_read(tmp_path, tokenizer, algorithm="guided_sft", num_targets=2)
    rows = []
    for group in groups:
        assert group.autonomous == []
        correct = [
            ids
            for ids, reward in zip(group.guided, group.guided_rewards, strict=True)
            if reward == 1.0 and (len(ids) < 10 or ids[-1] in trainer.engine.engine.eos_ids)
        ]
        rows += [(group.prompt or tokenizer(f" {group.problem.problem}")["input_ids"], ids) for ids in correct[:2]]
    assert len(rows) > 3
    assert_same(trainer, recorder, model, cross_entropy(model, rows), tokens=sum(len(ids) for _, ids in rows))


@pytest.mark.parametrize("policy_coef", [1.0, 2.5])
def test_luffy(tmp_path, tokenizer, policy_coef):
    trainer, model, recorder, groups = train_and_read(tmp_path, tokenizer, algorithm="luffy", policy_coef=policy_coef)
    total, tokens, trained = torch.zeros((), dtype=torch.float64), 0, 0
    for group in groups:
        assert group.guided == []
        members = list(zip(group.autonomous, group.autonomous_rewards, [False] * 4, strict=True))
        if group.problem.id in SOLUTIONS:
            members.append((solution_ids(tokenizer, group.problem.id), 1.0, True))
        mean = sum(reward for _, reward, _ in members) / len(members)
        for ids, reward, foreign in members:
            tokens += len(ids)
            trained += len(ids) if reward != mean else 0
            values = naive.logprobs(model, group.prompt, ids)
            pull = values.exp() / (values.exp() + 0.1) if foreign else torch.exp(values - values.detach())
            total = total - (reward - mean) * pull.sum()
    assert_same(trainer, recorder, model, policy_coef * total / tokens, tokens=trained)


def test_hpt(tmp_path, tokenizer):
    """With a threshold at which some problems are imitated and some reinforced."""
    trainer, model, recorder, groups = train_and_read(
        tmp_path, tokenizer, algorithm="hpt", imitation_threshold=0.25, scale_advantages=True
    )
    policy_total, policy_tokens, imitated, trained = torch.zeros((), dtype=torch.float64), 0, [], 0
    for group in groups:
        rate = sum(group.autonomous_rewards) / 4
        if group.problem.id in SOLUTIONS and rate <= 0.25:
            imitated.append((group.prompt, solution_ids(tokenizer, group.problem.id)))
            trained += len(imitated[-1][1])
            continue
        for ids, reward in zip(group.autonomous, group.autonomous_rewards, strict=True):
            values = naive.logprobs(model, group.prompt, ids)
            policy_total = policy_total - (reward - rate) * torch.exp(values - values.detach()).sum()
            policy_tokens += len(ids)
            trained += len(ids) if reward != rate else 0
    assert 0 < len(imitated) < 3
    loss = policy_total / policy_tokens + cross_entropy(model, imitated)
    assert_same(trainer, recorder, model, loss, tokens=trained)


def test_opsd_is_guided_by_the_initial_weights(tmp_path, tokenizer):
    """In the second step, at weights far from the initial ones, the guided branch is still that of the first."""
    trainer, initial, recorder, _ = train_and_read(
        tmp_path, tokenizer, algorithm="opsd", strategy_content="solution", kl_clip=None, max_steps=2, learning_rate=5.0
    )
    problems = problems_with_solutions()
    groups = naive.read_groups(trainer.engine.calls[1], tokenizer, problems, hash_verdict)
    model = naive.double(policy(), recorder.weights[1])
    loss = torch.zeros((), dtype=torch.float64)
    for group in groups:
        if group.problem.id not in SOLUTIONS:
            continue
        guided_prompt = tokenizer(f" {SOLUTIONS[group.problem.id]} | {group.problem.problem}")["input_ids"]
        for ids in group.autonomous:
            u = naive.distributions(model, group.prompt, ids, 1.0)
            with torch.no_grad():
                p = naive.distributions(initial, guided_prompt, ids, 1.0)
            loss = loss + (p.exp() * (p - u)).sum(-1).mean() / 4 / 6
    assert largest_difference(naive.gradients(model, loss), recorder.gradients[1]) < 1e-5
    assert metrics_of(trainer)[1]["loss/distill"] == pytest.approx(loss.item(), abs=1e-5)
    assert metrics_of(trainer)[1]["targets/fraction"] == 0.5
    assert trainer.prepared.counts["without_strategy"] == 3


@pytest.mark.parametrize("algorithm", ["sft", "luffy", "hpt"])
def test_without_any_solution_there_is_nothing_to_learn_from(tmp_path, tokenizer, algorithm):
    with pytest.raises(ValueError, match=f"algorithm {algorithm} learns from solutions, and none of 6 problems has"):
        build_trainer(tmp_path / "run", tokenizer, algorithm=algorithm)


def test_a_solution_that_is_too_long_is_left_out_and_counted(tmp_path, tokenizer):
    problems = problems_with_solutions()
    trainer = build_trainer(
        tmp_path / "run", tokenizer, problems=problems, algorithm="sft", max_completion_length=4
    )  # three letters and the end token fit
    assert trainer.prepared.counts["without_solution"] == 4
    trainer.train()
    assert read_lines(trainer.run.path / "metrics.jsonl")[0]["trained_tokens"] == 4 + 3
